"""The kind `embedder`: a text -> its vector, with the nearest labels and the nearest entries of an index."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.inputs.vector_index import VectorIndex, highest
from handlers.kinds.embedder import EmbedderPredictor
from handlers.protocol.errors import BadRequest, BrokenArchive, TooLarge
from handlers.runtime.golden import difference
from marina.kinds.embedder import KIND
from tests.support import bad_texts
from tests.support.text_models import accepted as found
from tests.support.text_models import answer, serve_embedder

ENTRIES = {"bright": "light light the", "gloom": "dark the", "dusk": "dark light", "noon": "day light light"}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> EmbedderPredictor:
    return serve_embedder(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> EmbedderPredictor:
    plain = serve_embedder(tmp_path_factory.mktemp("plain"))
    vectors = [answer(plain, {"text": text})["embedding"] for text in ENTRIES.values()]
    index = VectorIndex(np.array(vectors, np.float32), [*ENTRIES], [*ENTRIES.values()])
    folder = tmp_path_factory.mktemp("indexed")
    for name, content in index.as_files().items():
        (folder / name).write_bytes(content)
    return serve_embedder(folder, has_index=True)


def test_a_text_gets_a_unit_vector_in_every_protocol(predictor: EmbedderPredictor) -> None:
    """The same alone and among others of other lengths."""
    alone = found(predictor, b"light the")
    assert alone["embedding"] == pytest.approx([0.8944272, 0, 0.4472136])
    assert alone["truncated"] is False
    texts = ["light the", "dark " * 7, "day"]
    rows = found(predictor, texts)["rows"]
    assert rows == [found(predictor, text.encode()) for text in texts]
    assert found(predictor, {"instances": texts})["predictions"] == rows
    tensor = {"name": "text", "shape": [3], "datatype": "BYTES", "data": texts}
    outputs = {one["name"]: one for one in found(predictor, {"inputs": [tensor]})["outputs"]}
    assert (outputs["embedding"]["shape"], outputs["embedding"]["datatype"]) == ([3, 3], "FP32")
    assert found(predictor, b"light " * 9)["truncated"] is True
    jsonschema.validate(alone, predictor.answer_schema())


def test_the_nearest_labels_are_those_of_the_request_or_the_spec(tmp_path: Path) -> None:
    """By cosine, the nearest first, at most top_k; the request's win."""
    predictor = serve_embedder(tmp_path, labels=["day", "night", "the"])
    own = found(predictor, b"light the")
    assert [one["label"] for one in own["labels"]] == ["day", "the"]
    assert [one["similarity"] for one in own["labels"]] == pytest.approx([1, 0.447214], abs=1e-5)
    sent = found(
        predictor, {"text": "dark", "labels": ["light", "night dark"], "top_k": 1, "embedding": False}
    )
    assert sent == {
        "labels": [{"label": "night dark", "similarity": pytest.approx(0.997055, abs=1e-5)}],
        "truncated": False,
    }
    assert found(predictor, b"dark", labels='["light", "night dark"]', top_k="1", embedding="false") == sent
    body = {"instances": [{"text": "dark", "labels": ["dark"]}, "light"], "labels": ["day", "night"]}
    first, second = found(predictor, body)["predictions"]
    assert (first["labels"][0]["label"], second["labels"][0]["label"]) == ("dark", "day")
    jsonschema.validate(sent, predictor.answer_schema())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "1 to 100 texts, not 0"),
        (["a"] * 101, "1 to 100 texts, not 101"),
        (["a", "a"], "'a' twice"),
        (["a" * 1001], "1,000 characters each, not 1,001"),
        (["light", " "], "the label ' ': the text is empty"),
        (["a\0"], "the label .* null character"),
        ([3], "must be a list of texts"),
        ({"a": 1}, "must be a list of texts"),
        ("[broken", "must be a JSON list of texts"),
    ],
)
def test_labels_that_are_none_are_refused(predictor: EmbedderPredictor, labels: Any, words: str) -> None:
    """By name, and a neighbor in the batch gets its answer."""
    body = json.dumps({"text": "light", "labels": labels}).encode()
    bad, good = predictor.answer_rows([({"body": json.loads(body)}, {}), ({"body": b"light"}, {})])
    assert isinstance(bad, BadRequest)
    with pytest.raises(BadRequest, match=words):
        raise bad
    assert good == found(predictor, b"light")


def test_different_labels_of_one_request_are_bounded(predictor: EmbedderPredictor) -> None:
    """A label costs as much as a text."""

    def sets(count: int) -> dict[str, Any]:
        return {
            "instances": [{"text": "a", "labels": [f"{n} {k}" for k in range(100)]} for n in range(count)]
        }

    assert len(found(predictor, sets(10))["predictions"]) == 10
    with pytest.raises(TooLarge, match="1,100 different labels in one request; send at most 1,000"):
        found(predictor, sets(11))
    assert len(predictor.label_vectors) <= 2000


def test_the_nearest_entries_of_the_index_are_exact(indexed: EmbedderPredictor) -> None:
    """With their ids, texts and similarities; equal ones in the order of the index."""
    reply = found(indexed, {"text": "light day light", "top_k": 3})
    assert [one["id"] for one in reply["neighbors"]] == ["noon", "bright", "dusk"]
    assert reply["neighbors"][0] == {"id": "noon", "text": ENTRIES["noon"], "similarity": 1.0}
    assert len(found(indexed, b"light")["neighbors"]) == 2
    assert len(found(indexed, {"text": "light", "top_k": 100})["neighbors"]) == 4
    jsonschema.validate(reply, indexed.answer_schema())
    assert indexed.mismatch({"neighbor": "noon", "dimension": 3}, reply) == ""
    assert "'noon' instead of 'dusk'" in indexed.mismatch({"neighbor": "dusk"}, reply)
    assert "expects dimension, label, neighbor, embedding, not class" in indexed.mismatch({"class": 1}, reply)
    assert KIND.summarize(reply) == "noon 1.000"
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = VectorIndex(vectors, [str(n) for n in range(500)], [""] * 500)
    rows = index.nearest(vectors[:40], [7] * 40)
    order = np.argsort(-(vectors[:40].astype(np.float64) @ vectors.T), 1)[:, :7]
    assert [[int(one["id"]) for one in row] for row in rows] == order.tolist()
    assert highest(np.array([0.5, 1, 0.5, 0.5], np.float32), 2) == [(1, 1.0), (0, 0.5)]


def test_a_damaged_index_does_not_come_up(tmp_path: Path) -> None:
    """With the reason."""
    index = VectorIndex(np.ones((2, 3), np.float32), ["a", "b"], ["x", "y"])
    files = index.as_files()
    assert VectorIndex.from_files(*files.values(), 3).ids == ["a", "b"]
    with pytest.raises(BrokenArchive, match=r"wanted are float32 \[2, 4\]"):
        VectorIndex.from_files(*files.values(), 4)
    for vectors, entries in ((b"x", files["index.json"]), (files["index.npy"], b"[]")):
        with pytest.raises(BrokenArchive, match="can't be read"):
            VectorIndex.from_files(vectors, entries, 3)
    with pytest.raises(BrokenArchive, match="1 ids and 2 texts"):
        VectorIndex.from_files(files["index.npy"], b'{"ids": ["a"], "texts": ["x", "y"]}', 3)


def test_an_explanation_says_which_words_a_similarity_rests_on(
    predictor: EmbedderPredictor, indexed: EmbedderPredictor
) -> None:
    """To another text, to the nearest entry, to the nearest label, else to the text itself."""
    text = "The LIGHT; dark"
    reply = found(predictor, {"text": text, "other": "light"}, explain="true")
    assert reply["to"] == {"text": "light"}
    tokens = {one["text"]: one["importance"] for one in reply["tokens"]}
    assert tokens["LIGHT"] > 0 > tokens["dark"]
    assert all(text[one["start"] : one["end"]] == one["text"] for one in reply["tokens"])
    jsonschema.validate(reply, predictor.explanation_schema())
    assert found(indexed, b"day light", explain="true")["to"]["id"] == "noon"
    assert found(predictor, {"text": "day", "labels": ["dark", "light"]}, explain="true")["to"] == {
        "label": "light"
    }
    own = found(predictor, b"light the", explain="true")
    assert (own["to"], own["similarity"]) == ({}, pytest.approx(1))
    with pytest.raises(BadRequest, match="other: the text is empty"):
        found(predictor, {"text": "light", "other": " "}, explain="true")


def test_every_form_of_a_text_is_answered_or_refused(predictor: EmbedderPredictor) -> None:
    """As by the other kinds that read texts."""
    for name, wanted, reply in bad_texts.replies(predictor, has_top_k=True):
        assert isinstance(reply, wanted), (name, reply)


@settings(max_examples=40, deadline=None)
@given(sent=st.lists(st.text(st.characters(exclude_categories=()), max_size=40), min_size=1, max_size=5))
def test_any_text_gets_its_vector_or_its_refusal(indexed: EmbedderPredictor, sent: list[str]) -> None:
    """Whatever it is and whoever is beside it: the same as alone."""
    rows: list[Any] = [({"body": {"text": text}}, {"content-type": "application/json"}) for text in sent]
    for row, reply in zip(rows, indexed.answer_rows(rows), strict=True):
        (alone,) = indexed.answer_rows([row])
        assert str(reply) == str(alone) or not difference(alone, reply)
        if isinstance(reply, dict):
            assert np.linalg.norm(reply["embedding"]) == pytest.approx(1, abs=1e-5)


def test_vectors_of_two_versions_are_compared_by_their_cosine() -> None:
    """As a release does it; without vectors by what is nearest."""
    one, near, far = ({"embedding": vector} for vector in ([1.0, 0.0], [0.999, 0.0447], [0.8, 0.6]))
    assert KIND.same_decision(one, near)
    assert not KIND.same_decision(one, far)
    assert not KIND.same_decision(one, {"embedding": [1.0]})
    labels = [{"labels": [{"label": name, "similarity": 0.5}]} for name in "ab"]
    assert KIND.same_decision(labels[0], {"labels": [{"label": "a", "similarity": 0.4}]})
    assert not KIND.same_decision(*labels)
    assert (KIND.summarize(one), KIND.summarize({"dimension": 3})) == ("2 numbers", "3 numbers")


def test_golden_vectors_and_rankings_bear_rounding_alone() -> None:
    """A vector by its distance; entries that are as similar may change places."""
    assert difference({"embedding": [0.6, 0.8]}, {"embedding": [0.601, 0.7993]}) == ""
    assert "at the distance 0.0224" in difference({"embedding": [0.6, 0.8]}, {"embedding": [0.62, 0.79]})
    assert difference({"embedding": [0.6, 0.8]}, {"embedding": [0.62, 0.79]}, reduced=True) == ""
    rows = [{"id": name, "similarity": value} for name, value in (("a", 0.9), ("b", 0.5), ("c", 0.5001))]
    assert difference({"neighbors": rows}, {"neighbors": [rows[0], rows[2], rows[1]]}) == ""
    assert difference({"neighbors": rows[:2]}, {"neighbors": [rows[0], rows[2]]}) == ""
    assert difference({"neighbors": rows}, {"neighbors": [rows[1], rows[0], {**rows[2], "id": "d"}]}) == ""
    assert difference({"neighbors": rows}, {"neighbors": [{**rows[0], "id": "d"}, *rows[1:]]})
    assert difference({"neighbors": rows}, {"neighbors": [{**rows[0], "similarity": 0.8}, *rows[1:]]})
