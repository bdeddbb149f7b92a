"""The kind `text_classifier`: a text in any of its forms, each answered or refused by itself."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.kinds.text_classifier import TextClassifierPredictor
from handlers.protocol.errors import BadRequest, RequestError, TooLarge
from handlers.protocol.requests import Instance
from marina.kinds.text_classifier import KIND
from tests.support.text_models import TEXTS, answer, serve
from training.text.networks import build
from training.text.settings import Settings

SIZE = 8  # of the vocabulary in tests.support.text_models


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> TextClassifierPredictor:
    return serve(tmp_path_factory.mktemp("toy"))


def first(found: Any) -> str:
    if isinstance(found, Exception):
        raise found
    return str(found["predictions"][0]["class"])


def test_a_text_is_taken_as_it_is_as_json_and_in_every_protocol(predictor: TextClassifierPredictor) -> None:
    """A body, a form's field, an object, a JSON string; lists and KServe's forms have many."""
    text = TEXTS["light"]
    alone = answer(predictor, text.encode())
    assert first(alone) == "light"
    assert alone["truncated"] is False
    bodies: list[Any] = [{"text": text}, {"data": text}, {"content": text}, text, text.encode()]
    assert all(answer(predictor, body) == alone for body in bodies)
    assert answer(predictor, text.encode(), content_type="application/octet-stream") == alone
    assert answer(predictor, "\ufeff".encode() + text.encode()) == alone
    assert answer(predictor, text.encode("utf-16")) == alone

    both = [alone, answer(predictor, TEXTS["dark"].encode())]
    several = {"predictions": both}
    assert answer(predictor, [text, TEXTS["dark"]]) == {"rows": both}
    assert answer(predictor, {"text": [text, TEXTS["dark"]]}) == {"rows": both}
    bad = answer(predictor, [text, "", 3])["rows"]
    assert bad[0] == alone
    assert [one["error"]["code"] for one in bad[1:]] == [400, 400]
    assert answer(predictor, {"instances": [{"text": text}, TEXTS["dark"]]}) == several
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [text, TEXTS["dark"]]}
    outputs = {one["name"]: one["data"] for one in answer(predictor, {"inputs": [tensor]})["outputs"]}
    assert outputs["class"][::2] == ["light", "dark"]
    assert outputs["truncated"] == [False, False]
    jsonschema.validate(alone, predictor.answer_schema())
    for body in ({"text": text}, text):
        jsonschema.validate(body, predictor.request_schema())


def test_binary_strings_of_a_tensor_are_texts(predictor: TextClassifierPredictor) -> None:
    """As Triton's clients send BYTES."""
    content = TEXTS["light"].encode()
    data = struct.pack("<I", len(content)) + content
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    sent = {"inference-header-content-length": str(len(head))}
    (found,) = predictor.answer_rows([({"body": head + data}, sent)])
    assert found["outputs"][0]["data"][0] == "light"


@pytest.mark.parametrize(
    "text", ["[light] day", "{light day", "[1, light", '{"text": light}', "[PATCH] light"]
)
def test_a_text_may_begin_like_json(predictor: TextClassifierPredictor, text: str) -> None:
    """Where it doesn't come as JSON; as such it is broken."""
    assert first(answer(predictor, text.encode())) == "light"
    assert first(answer(predictor, text)) == "light"  # a JSON string
    with pytest.raises(BadRequest, match="looks like JSON but can't be parsed"):
        raise answer(predictor, text.encode(), content_type="application/json")


def test_an_encoding_is_named_in_the_content_type(predictor: TextClassifierPredictor) -> None:
    """Also where the bytes happen to be UTF-8; what isn't in it is refused with its place."""
    assert predictor.decode(Instance("x")) == "x"
    for encoding in ("iso-8859-1", "utf-16", "cp1252", "shift_jis"):
        body = "light day".encode(encoding)
        assert first(answer(predictor, body, content_type=f"text/plain; charset={encoding}")) == "light"
    latin = "text/plain; charset=latin-1"
    found = answer(predictor, "light Ã©".encode(), content_type=latin, explain="true")
    assert [one["text"] for one in found["tokens"]] == ["light", "Ã\x83Â", "©"]
    with pytest.raises(BadRequest, match=r"not UTF-8: the byte 0xe9 at position 3"):
        raise answer(predictor, "caf\xe9".encode("latin-1"), content_type="text/plain; charset=ascii")
    codecs = dict.fromkeys(("klingon", "base64", "undefined", "idna", "unicode_escape"), b"light")
    codecs |= {
        "zlib": zlib.compress(bytes(10_000_000)),
        "punycode": b"a-" + b"b" * 600_000,
    }
    for name, body in codecs.items():
        with pytest.raises(BadRequest, match=r"names the encoding '[\w-]+', which there isn't"):
            raise answer(predictor, body, content_type=f"text/plain; charset={name}")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the text is empty"),
        (b" \n\t", "the text is empty"),
        ({"text": ""}, "the text is empty"),
        (b"caf\xe9", "not UTF-8: the byte 0xe9 at position 3 .* it may be Windows-1252"),
        ("light".encode("utf-16-le"), "null character at position 1; .* UTF-16"),
        ({"text": "a\0b"}, "null character at position 1"),
        ({"text": "a\ud800b"}, r"half of a surrogate pair at position 1 \(\\ud800\)"),
        ({"text": 3}, 'send the text as it is, or {"text": "…"}, not a number'),
        ({"text": None}, "not null"),
        ({"content": ["a"]}, "not a list"),
        ({"texts": "a"}, "unknown keys: .texts.; known: text, data"),
        ({"text": "a", "data": "b"}, "exactly one of the keys"),
        ([], "the list has no texts"),
        (["a"] * 10_001, "10,001 texts in one request"),
        ({"instances": ["a", 3]}, "not a number"),
        ({"text": "light", "top_k": 0}, "top_k must be a whole number"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [3]}]}, "send the text as it"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(
    predictor: TextClassifierPredictor, body: Any, words: str
) -> None:
    """And what to send instead."""
    with pytest.raises(RequestError, match=words):
        raise answer(predictor, body)


def test_a_text_above_the_limits_is_cut_or_refused(predictor: TextClassifierPredictor) -> None:
    """Tokens behind the limit don't count, which the answer says; too many characters are 413."""
    assert answer(predictor, b"light " * 8)["truncated"] is False
    cut = answer(predictor, b"light " * 8 + b"dark " * 100)
    assert (first(cut), cut["truncated"]) == ("light", True)
    with pytest.raises(TooLarge, match=r"1,002 characters; send at most 1,000\. .* first 8 tokens count"):
        raise answer(predictor, b"light " * 167)
    with pytest.raises(TooLarge, match="10,000,000 characters"):
        raise answer(predictor, b"x" * 10_000_000)


texts = st.text(st.characters(exclude_categories=()), max_size=60)
bodies = st.one_of(
    st.binary(max_size=40),
    texts.map(lambda text: text.encode("utf-8", "replace")),
    texts.map(lambda text: {"text": text}),
    st.lists(st.one_of(texts, st.integers(), st.none()), max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(sent=st.lists(bodies, min_size=1, max_size=5))
def test_any_text_gets_its_answer_or_its_refusal(predictor: TextClassifierPredictor, sent: list[Any]) -> None:
    """Whatever it is and whoever is beside it: the same as alone."""
    rows: list[Any] = []
    for body in sent:
        is_raw = isinstance(body, bytes)
        content_type = "text/plain" if is_raw else "application/json"
        rows.append(({"body": body}, {"content-type": content_type}))
    for row, found in zip(rows, predictor.answer_rows(rows), strict=True):
        (alone,) = predictor.answer_rows([row])
        assert str(found) == str(alone)
        assert isinstance(found, RequestError | dict), found
        json.dumps(found if isinstance(found, dict) else str(found))


@pytest.mark.parametrize("architecture", ["bag", "cnn", "transformer"])
def test_padding_changes_no_answer(tmp_path: Path, architecture: str) -> None:
    """Alone, in a batch with others, and filled up to any length."""
    torch.manual_seed(0)
    options = Settings(data="", architecture=architecture, max_tokens=64, embedding_size=16)
    module = build(options, SIZE, 3, None).eval()
    tokens = torch.randint(1, SIZE, (1, 5))
    with torch.no_grad():
        logits = [module(torch.nn.functional.pad(tokens, (0, more))) for more in (0, 1, 7, 40)]
    for one in logits[1:]:
        torch.testing.assert_close(one, logits[0], atol=1e-5, rtol=0)

    predictor = serve(tmp_path, module, ("a", "b", "c"), max_tokens=64)
    sent = [" ".join(["light", "dark", "the", "x"] * count) for count in (1, 16, 3, 9)]
    rows: list[Any] = [({"body": text}, {"content-type": "text/plain"}) for text in sent]
    for row, found in zip(rows, predictor.answer_rows(rows), strict=True):
        (alone,) = predictor.answer_rows([row])
        for one, other in zip(found["predictions"], alone["predictions"], strict=True):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_texts_of_very_different_lengths_are_computed_apart(tmp_path: Path) -> None:
    """None is filled up to more than twice its length."""
    predictor = serve(tmp_path, max_tokens=600, max_characters=100_000)
    lengths = [3, 500, 100, 120, 60, 513]
    prepared = [predictor.preprocess("light " * length, Instance("")) for length in lengths]
    assert predictor.groups(prepared) == [[0, 4], [1], [2, 3], [5]]


def test_an_explanation_says_which_words_the_answer_rests_on(predictor: TextClassifierPredictor) -> None:
    """By what the log-odds of the class lose without each, with its place in the text that was sent."""
    text = "The LIGHT; dark\n day"
    found = answer(predictor, {"text": text}, explain="true")
    tokens = {one["text"]: one for one in found["tokens"]}
    assert found["class"] == "light"
    assert all(text[one["start"] : one["end"]] == one["text"] for one in found["tokens"])
    falls = {name: one["importance"] for name, one in tokens.items()}
    assert falls == pytest.approx({"The": 0, "LIGHT": 4, ";": 0, "dark": -4, "day": 2}, abs=1e-5)
    jsonschema.validate(found, predictor.explanation_schema())
    other = answer(predictor, {"text": text, "class_index": 0}, explain="true")
    assert {one["text"]: one["importance"] for one in other["tokens"]}["dark"] == pytest.approx(4, abs=1e-5)
    single = answer(predictor, {"text": "light"}, explain="true")
    assert [one["importance"] for one in single["tokens"]] == pytest.approx([4], abs=1e-5)
    assert answer(predictor, b"light " * 20, explain="true")["truncated"] is True


def test_a_long_text_is_explained_in_parts(tmp_path: Path) -> None:
    """In bounded time: neighbors share what both of them count."""
    predictor = serve(tmp_path, max_tokens=1500, max_characters=100_000)
    found = answer(predictor, ("light " * 2000).encode(), explain="true")
    assert len(found["tokens"]) == 1500
    assert {one["importance"] for one in found["tokens"]} == {4.0}


def test_several_labels_reach_thresholds_of_their_own(tmp_path: Path) -> None:
    """Those that do, and all by probability; a text may have none."""
    post = {"type": "labels", "top_k": 2, "thresholds": [0.5, 0.9]}
    predictor = serve(tmp_path, postprocess=post)
    both = answer(predictor, b"the")
    assert [one["probability"] for one in both["predictions"]] == [0.5, 0.5]
    assert both["labels"] == ["dark"]
    assert answer(predictor, b"light")["labels"] == []
    assert answer(predictor, b"light light")["labels"] == ["light"]
    assert KIND.summarize(both) == "dark"
    assert KIND.summarize({"labels": []}) == "none"
    assert predictor.mismatch({"labels": ["dark"]}, both) == ""
    assert "instead of ['light']" in predictor.mismatch({"labels": ["light"]}, both)
    assert predictor.same_answer(both, answer(predictor, b"light"), 0) == 0
    jsonschema.validate(both, predictor.answer_schema())
    found = answer(predictor, {"text": "light dark", "class_index": 1}, explain="true")
    assert [one["importance"] for one in found["tokens"]] == pytest.approx([2, -2])
    tensor = {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["the", "light"]}
    outputs = {one["name"]: one["data"] for one in answer(predictor, {"inputs": [tensor]})["outputs"]}
    assert outputs["labels"] == ['["dark"]', "[]"]
    with pytest.raises(ValueError, match="1 thresholds for 2 classes"):
        serve(tmp_path, postprocess={**post, "thresholds": [0.5]})


def test_decisions_are_compared_by_class_or_labels() -> None:
    """As a release does it."""
    one = {"predictions": [{"class": "a", "probability": 0.9}], "truncated": False}
    other = {"predictions": [{"class": "b", "probability": 0.9}], "truncated": False}
    assert KIND.same_decision(one, one)
    assert not KIND.same_decision(one, other)
    assert KIND.same_decision({**one, "labels": ["a"]}, {**other, "labels": ["a"]})
    assert np.isfinite(one["predictions"][0]["probability"])
