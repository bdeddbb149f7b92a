"""A text classifier by pieces of words, learned and served: every form of a text, and bad ones among good
ones.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from marina import engines
from marina.client import Client
from marina.core import spec
from marina.core.console import Output
from marina.core.errors import RequestRefused
from marina.engines import server_process as server
from marina.pipeline import readiness as ready
from marina.pipeline import steps as up
from tests.support.live_requests import send, wrong_among
from tests.support.measuring import measure_both
from tests.support.sent_requests import JSON, Bad, Part, Sent
from tests.support.text_data import write_csv

pytestmark = pytest.mark.slow

SPEC = """# Tells good films from bad ones.
kind: text_classifier
training: {{recipe: text_classifier, data: {data}, tokenizer: bpe, vocabulary_size: 400, epochs: 6,
           batch_size: 8, learning_rate: 0.02, embedding_size: 16, max_tokens: 40}}
floor: {{accuracy: 0.9}}
"""
TEXT = "A wonderful story, and moving"
PLAIN = ("Content-Type", "text/plain")
LATIN = ("Content-Type", "text/plain; charset=iso-8859-1")
INSTANCES = {"instances": [TEXT, {"text": TEXT}]}
TENSOR = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": [TEXT, "dull"]}]}
GOOD = [
    Sent("as it is", TEXT.encode(), (PLAIN,)),
    Sent("without a content type", TEXT.encode()),
    Sent("like JSON", b"[PATCH] a great film", (PLAIN,)),
    Sent("an encoding", "caf\xe9, great fun".encode("latin-1"), (LATIN,)),
    Sent("UTF-16 with its mark", TEXT.encode("utf-16"), (PLAIN,)),
    Sent("right to left, and emoji", "فيلم رائع 😀👩‍👩‍👧 great".encode(), (PLAIN,)),
    Sent("an object", json.dumps({"text": TEXT}).encode(), (JSON,)),
    Sent("a string", json.dumps(TEXT).encode(), (JSON,)),
    Sent("a list", json.dumps([TEXT, "dull", ""]).encode(), (JSON,)),
    Sent("instances", json.dumps(INSTANCES).encode(), (JSON,)),
    Sent("a tensor", json.dumps(TENSOR).encode(), (JSON,)),
    Sent("a form", parts=(Part("data", TEXT.encode(), "text/plain"),)),
    Sent("half a million tokens", b"great " * 150_000, (PLAIN,)),
    Sent("why", TEXT.encode(), (PLAIN,), path="explanations"),
]
NO_TEXT = frozenset({"text_classifier"})
BAD = [
    Bad("nothing", b" ", (PLAIN,), NO_TEXT),
    Bad("a null byte", b"a\0b", (PLAIN,), NO_TEXT),
    Bad("half of a pair", b'{"text": "a\\ud800b"}', (JSON,), NO_TEXT),
    Bad("another encoding", "caf\xe9".encode("latin-1"), (PLAIN,), NO_TEXT),
    Bad("an unknown encoding", b"a", (("Content-Type", "text/plain; charset=klingon"),), NO_TEXT),
    Bad("broken JSON", b'{"text": ', (JSON,), NO_TEXT),
    Bad("a number", b'{"text": 3}', (JSON,), NO_TEXT),
    Bad("ten megabytes", b"a" * 10_000_000, (PLAIN,), NO_TEXT, status=413, type="TooLarge"),
]


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[spec.Spec]:
    pytest.importorskip("tokenizers", reason="pip install marina[text]")
    home = tmp_path_factory.mktemp("home")
    data: Path = write_csv(home / "texts.csv", 400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        (home / "models").mkdir()
        (home / "models" / "films.yaml").write_text(SPEC.format(data=data))
        one = spec.load("films")
        up.prepare([one], Output(as_json=True))
        yield one


@pytest.fixture(scope="module")
def served(archived: spec.Spec, engine: str) -> Iterator[tuple[Client, spec.Spec]]:
    port, output = server.free_port_base(), Output(as_json=True)
    with up.serving([archived], port, output, engines.get(engine)) as client:
        yield client, archived


def test_every_form_of_a_text_is_answered(served: tuple[Client, spec.Spec]) -> None:
    """The same by each; a list has an error in the place of what is no text."""
    client, one = served
    assert ready.problems(client, one) == []
    found = {sent.name: send(client, "films", sent) for sent in GOOD}
    assert {name: answer.status for name, answer in found.items()} == dict.fromkeys(found, 200)
    alone = found["as it is"].content
    assert alone["predictions"][0]["class"] == "good"
    assert alone == client.predict("films", TEXT) == client.predict("films", {"text": TEXT})
    for name in ("without a content type", "an object", "a string", "UTF-16 with its mark", "a form"):
        assert found[name].content == alone, name
    rows = found["a list"].content["rows"]
    assert (rows[0], rows[1]["predictions"][0]["class"], rows[2]["error"]["code"]) == (alone, "bad", 400)
    assert found["half a million tokens"].content["truncated"] is True
    tokens = found["why"].content["tokens"]
    assert all(TEXT[token["start"] : token["end"]] == token["text"] for token in tokens)
    with pytest.raises(RequestRefused, match="the text is empty"):
        client.predict("films", "")


def test_every_bad_text_among_good_ones_fails_alone(served: tuple[Client, spec.Spec]) -> None:
    """Its neighbors get the answers that they get alone."""
    wrong, _ = wrong_among(served[0], "films", GOOD, BAD, times=3)

    assert wrong == {}


def test_the_endpoint_is_as_good_as_training_measured(served: tuple[Client, spec.Spec]) -> None:
    """On the same texts."""
    client, one = served
    through, local = measure_both(client, one)

    assert through == local
    assert through["accuracy"] == pytest.approx(up.export_metrics(one)["accuracy"], abs=1e-6)
