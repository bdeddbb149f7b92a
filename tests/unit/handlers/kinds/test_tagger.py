"""The kind `tagger`: a tag for each word of a text or of a list of words, and the spans that tags mark."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.inputs.word_features import FEATURES, WordFeatures, parts_of, shape_of
from handlers.kinds.tag_spans import is_bio, spans_of
from handlers.kinds.tagger import TaggerPredictor
from handlers.protocol.errors import BadRequest, BrokenArchive, RequestError
from marina.kinds.tagger import KIND
from tests.support import bad_texts
from tests.support.tagged_data import BUCKETS, TAGS, TEXT, serve_tagger
from tests.support.text_models import accepted as found
from training.text.tagging import TagNetwork

WORDS = ["Ada", "Lovelace", "visited", "Paris", "."]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> TaggerPredictor:
    return serve_tagger(tmp_path_factory.mktemp("toy"))


def test_words_have_tags_and_spans_with_their_places(predictor: TaggerPredictor) -> None:
    """A text and its words get the same; many texts, and tensors."""
    reply = found(predictor, TEXT.encode())
    assert [one["token"] for one in reply["tokens"]] == WORDS
    assert [one["tag"] for one in reply["tokens"]] == ["B-PER", "I-PER", "O", "B-LOC", "O"]
    assert all(TEXT[one["start"] : one["end"]] == one["token"] for one in reply["tokens"])
    assert [(one["label"], one["text"], one["start"], one["end"]) for one in reply["spans"]] == [
        *(("PER", "Ada Lovelace", 0, 12), ("LOC", "Paris", 21, 26)),
    ]
    assert all(0.9 < one["probability"] < 1 for one in reply["spans"])
    jsonschema.validate(reply, predictor.answer_schema())
    given = found(predictor, {"tokens": WORDS})
    assert [one["tag"] for one in given["tokens"]] == [one["tag"] for one in reply["tokens"]]
    assert given["spans"][1]["start"] == 21
    both = found(predictor, {"instances": [TEXT, {"tokens": ["Oslo"]}]})["predictions"]
    assert both[0] == reply
    assert both[1]["spans"][0]["text"] == "Oslo"
    assert found(predictor, [TEXT, "", {"tokens": []}])["rows"][0] == reply
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [TEXT, "Oslo"]}
    outputs = {one["name"]: one for one in found(predictor, {"inputs": [tensor]})["outputs"]}
    assert outputs["tokens"]["data"] == [5, 1]
    assert outputs["tag"]["data"] == ["B-PER", "I-PER", "O", "B-LOC", "O", "B-LOC"]
    assert json.loads(outputs["spans"]["data"][1])[0]["label"] == "LOC"
    assert KIND.summarize(reply) == "Ada Lovelace PER, Paris LOC"
    assert KIND.same_decision(reply, given)
    assert not KIND.same_decision(reply, both[1])
    assert predictor.mismatch({"tags": ["O"]}, both[1]) == "tags ['B-LOC'] instead of ['O']"
    assert predictor.mismatch({"tags": ["B-LOC"]}, both[1]) == ""
    assert "expects tags, not class" in predictor.mismatch({"class": 1}, both[1])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tokens": []}, "must be a list of words, at least one"),
        ({"tokens": "Ada"}, "must be a list of words"),
        ({"tokens": ["Ada", 3]}, "must be a list of words"),
        ({"tokens": ["Ada", " "]}, r"tokens\[1\] is empty"),
        ({"tokens": ["Ada"], "text": "Ada"}, "either 'tokens' or 'text'"),
        ({"tokens": ["a\0"]}, "null character"),
        ({"tokens": ["a\ud800"]}, "half of a surrogate pair"),
    ],
)
def test_words_that_are_none_are_refused(predictor: TaggerPredictor, body: Any, words: str) -> None:
    """And a neighbor in the batch gets its answer."""
    bad, good = predictor.answer_rows([({"body": body}, {}), ({"body": TEXT}, {})])
    assert isinstance(bad, BadRequest)
    with pytest.raises(BadRequest, match=words):
        raise bad
    assert good == found(predictor, TEXT.encode())


def test_every_form_of_a_text_is_answered_or_refused(tmp_path: Path) -> None:
    """As by the other kinds that read texts; there is no option top_k."""
    predictor = serve_tagger(tmp_path, max_characters=1_000_000)
    for name, wanted, reply in bad_texts.replies(predictor, has_top_k=False):
        assert isinstance(reply, wanted), (name, reply)


def test_what_is_cut_is_said_and_nothing_is_out_of_place(predictor: TaggerPredictor) -> None:
    """Of a text and of a list."""
    assert found(predictor, b"Oslo " * 13)["truncated"] is True
    assert len(found(predictor, {"tokens": ["Oslo"] * 13})["tokens"]) == 12
    assert found(predictor, {"tokens": ["Oslo"] * 13})["truncated"] is True
    assert found(predictor, b"Oslo " * 12)["truncated"] is False


@settings(max_examples=40, deadline=None)
@given(sent=st.lists(st.text(st.characters(exclude_categories=()), max_size=40), min_size=1, max_size=4))
def test_any_text_gets_its_tags_or_its_refusal(predictor: TaggerPredictor, sent: list[str]) -> None:
    """Whatever it is and whoever is beside it: the same as alone."""
    rows: list[Any] = [({"body": {"text": text}}, {"content-type": "application/json"}) for text in sent]
    for row, text, reply in zip(rows, sent, predictor.answer_rows(rows), strict=True):
        (alone,) = predictor.answer_rows([row])
        assert str(reply) == str(alone)
        assert isinstance(reply, RequestError | dict)
        for one in reply["tokens"] if isinstance(reply, dict) else ():
            assert text[one["start"] : one["end"]] == one["token"]


def test_padding_changes_no_tag(tmp_path: Path) -> None:
    """Of the network that is learned: alone, in a batch, and filled up to any length."""
    torch.manual_seed(0)
    module = TagNetwork(BUCKETS + 2, 16, 3, len(TAGS), 0.3).eval()
    features = torch.randint(1, BUCKETS, (1, 5, FEATURES))
    with torch.no_grad():
        logits = [module(torch.nn.functional.pad(features, (0, 0, 0, more)))[:, :5] for more in (0, 1, 7, 40)]
    for one in logits[1:]:
        torch.testing.assert_close(one, logits[0], atol=1e-5, rtol=0)
    predictor = serve_tagger(tmp_path, module)
    sent = [" ".join(WORDS[:count]) for count in (1, 5, 3)]
    rows: list[Any] = [({"body": text}, {"content-type": "text/plain"}) for text in sent]
    for row, reply in zip(rows, predictor.answer_rows(rows), strict=True):
        (alone,) = predictor.answer_rows([row])
        for one, other in zip(reply["tokens"], alone["tokens"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_an_explanation_says_which_words_a_tag_rests_on(predictor: TaggerPredictor) -> None:
    """By what its log-odds lose with an unknown word in their place."""
    reply = found(predictor, TEXT.encode(), explain="true")
    assert (reply["token"], reply["tag"]) == ("Ada", "B-PER")
    falls = [one["importance"] for one in reply["tokens"]]
    assert falls[0] > 3
    assert falls[1:] == [0, 0, 0, 0]
    jsonschema.validate(reply, predictor.explanation_schema())
    assert found(predictor, {"text": TEXT, "token": 3}, explain="true")["token"] == "Paris"
    with pytest.raises(BadRequest, match="the text has 5 words, counted from 0"):
        found(predictor, {"text": TEXT, "token": 5}, explain="true")


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-PER I-PER O B-LOC", [("PER", 1, 3), ("LOC", 4, 5)]),
        ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("O O", []),
        ("", []),
    ],
)
def test_spans_are_those_of_seqeval(tags: str, spans: list[tuple[str, int, int]]) -> None:
    """As seqeval 1.2.2 gives them by `get_entities` (its end is the last word)."""
    assert spans_of(tags.split()) == spans


def test_tags_of_another_scheme_mark_no_spans(tmp_path: Path) -> None:
    """Parts of speech have tags alone."""
    assert is_bio(["O", "B-PER"])
    assert not is_bio(["O"])
    assert not is_bio(["B-PER", "NOUN"])
    predictor = serve_tagger(tmp_path)
    predictor.has_spans = False
    assert "spans" not in found(predictor, TEXT.encode())
    assert "spans" not in predictor.answer_schema()["properties"]


def test_a_word_is_what_it_looks_like() -> None:
    """Itself, its shape, its beginnings and ends; the same in another process."""
    assert parts_of("Berlin") == ["berlin", "Xx", "b", "be", "ber", "n", "in", "lin", "rlin"]
    assert [shape_of(word) for word in ("3.14", "U.S.", "e-mail", "x" * 90)] == ["d.d", "X.X.", "x-x", "x"]
    features = WordFeatures(1000)
    assert features.of(["Berlin"])[0, :3].tolist() == [968, 910, 587]
    assert WordFeatures.from_file(features.as_file()).buckets == 1000
    np.testing.assert_array_equal(features.encode("in  Berlin", 9).ids, features.of(["in", "Berlin"]))
    for broken in (b"{}", b'{"buckets": 0}', b"[", b'{"buckets": "x"}'):
        with pytest.raises(BrokenArchive, match="no buckets of features"):
            WordFeatures.from_file(broken)
