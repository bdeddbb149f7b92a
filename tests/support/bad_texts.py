"""Requests to a text classifier: good ones in every form, and those that must be refused."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

from handlers.protocol.errors import RequestError
from handlers.protocol.requests import lower_case
from tests.support.sent_requests import JSON, Bad, Part, Sent, row_of

KIND = frozenset({"text_classifier"})
TEXT = ("Content-Type", "text/plain")
WORDS = "Der Zug nach Köln hat heute leider Verspätung."


def tensor(*texts: Any, **other: Any) -> dict[str, Any]:
    """Texts in the Open Inference Protocol; `other` values replace its own."""
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": [*texts], **other}


def good() -> Iterator[Sent]:
    """Texts as they are, in JSON, in tensors, in other encodings."""
    plain, one = WORDS.encode(), json.dumps({"text": WORDS}).encode()
    yield Sent("a text", plain, (TEXT,))
    yield Sent("a text without a content type", plain)
    yield Sent("a text in UTF-16 with its mark", WORDS.encode("utf-16"), (("Content-Type", "text/plain"),))
    yield Sent(
        "a text in Latin-1", WORDS.encode("latin-1"), (("Content-Type", "text/plain; charset=latin-1"),)
    )
    yield Sent("a text, gzipped", gzip.compress(plain), (TEXT, ("Content-Encoding", "gzip")))
    yield Sent("a text that begins like JSON", "[Fußnote] siehe unten".encode(), (TEXT,))
    yield Sent("JSON", one, (JSON,))
    yield Sent("JSON without a content type", one)
    yield Sent("the text alone as JSON", json.dumps(WORDS).encode(), (JSON,))
    yield Sent("an option", json.dumps({"text": WORDS, "top_k": 2}).encode(), (JSON,))
    yield Sent("an option as header", plain, (TEXT, ("top_k", "1")))
    yield Sent("a form", parts=(Part("text", plain),))
    yield Sent(
        "many instances", json.dumps({"instances": [WORDS, {"text": "Where is it?"}]}).encode(), (JSON,)
    )
    yield Sent("a list", json.dumps([WORDS, "¿Dónde está la estación?"]).encode(), (JSON,))
    yield Sent("a tensor", json.dumps({"inputs": [tensor(WORDS, "今日は雨です")]}).encode(), (JSON,))
    yield Sent("signs and scripts", "🚆 مرحبا بالعالم 日本語 שלום".encode(), (TEXT,))
    yield Sent("a long text", ("noch ein Satz " * 5_000).encode(), (TEXT,))
    yield Sent("why", plain, (TEXT,), path="explanations")


def bad() -> Iterator[Bad]:
    """What is no text, or none that can be read."""
    bodies = {
        "an empty text": '{"text": ""}',
        "white space alone": '{"text": " \\n\\t"}',
        "a null character": '{"text": "a\\u0000b"}',
        "half a surrogate pair": '{"text": "a\\ud800b"}',
        "a number for a text": '{"text": 3}',
        "null for a text": '{"text": null}',
        "true for a text": "true",
        "a list in an object for a text": '{"text": {"text": ["a"]}}',
        "an empty object": "{}",
        "an empty list": "[]",
        "an unknown key": '{"texts_of_mine": "a"}',
        "two texts": '{"text": "a", "content": "b"}',
        "no instances": '{"instances": []}',
        "an option that is none": '{"text": "a", "top_k": 0}',
        "an option that is a word": '{"text": "a", "top_k": "many"}',
        "no end": '{"text": "a"',
    }
    for name, body in bodies.items():
        yield Bad(name, body.encode(), (JSON,), KIND)
    yield Bad("no body", b"", (), KIND)
    yield Bad("bytes that are no UTF-8", b"Gr\xfc\xdfe", (), KIND)
    yield Bad("UTF-16 without its mark", WORDS.encode("utf-16-le"), (), KIND)
    yield Bad(
        "more characters than a text may have", b"a" * 1_000_001, (TEXT,), KIND, status=413, type="TooLarge"
    )
    tensors = {
        "a tensor of numbers": tensor(1.0, datatype="FP32"),
        "a tensor of another size": tensor("a", shape=[2]),
        "an empty text in a tensor": tensor(""),
    }
    for name, one in tensors.items():
        yield Bad(name, json.dumps({"inputs": [one]}).encode(), (JSON,), KIND)


def replies(predictor: Any, *, has_top_k: bool) -> Iterator[tuple[str, type, Any]]:
    """(name, what the reply should be an instance of, the reply) of all of these that the model can read."""
    for requests, wanted in ((good(), dict), (bad(), RequestError)):
        for sent in requests:
            if not has_top_k and (b"top_k" in sent.body or "top_k" in dict(sent.headers)):
                continue
            fields, headers = row_of(sent)
            (reply,) = predictor.answer_rows([(fields, lower_case(headers))])
            yield sent.name, wanted, reply
