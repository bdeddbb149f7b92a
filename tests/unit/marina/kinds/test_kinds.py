"""The tool's knowledge of each kind: summaries, and whether two answers agree."""

from pathlib import Path
from typing import Any

import pytest

from marina.core import kinds
from marina.core.errors import CallError
from marina.kinds.kind import Kind

SEVEN = {"predictions": [{"class": "7", "probability": 0.9, "class_index": 7}]}
ONE = {"predictions": [{"class": "1", "probability": 0.9, "class_index": 1}]}
BOX = {"class": "3", "bbox": [0, 0, 10, 10], "score": 0.9}
SKY = {"areas": [{"class": "sky", "share": 0.71}, {"class": "sea", "share": 0.29}]}
SEA = {"areas": [{"class": "sky", "share": 0.51}, {"class": "sea", "share": 0.49}]}


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("classifier", SEVEN, "7 (0.900)"),
        ("classifier", {"class": "7"}, "7"),
        ("video_classifier", SEVEN, "7 (0.900)"),
        ("detector", {"detections": [BOX, BOX, {"class": "1"}]}, "1 3×2"),
        ("detector", {"detections": []}, "nothing"),
        ("segmenter", SKY, "sky 71% sea 29%"),
        ("segmenter", {"areas": {"sky": 0.71, "sea": 0.29}}, "sky 71% sea 29%"),
        ("policy", {"action": 1, "q_values": [0.25, 1.5]}, "1 (q 0.2 1.5)"),
        ("policy", {"action": [0.5]}, "[0.5]"),
    ],
)
def test_answers_are_summed_up_in_a_few_characters(kind: str, content: Any, words: str) -> None:
    """Expectations and answers stand in a table."""
    assert kinds.get(kind).summarize(content) == words


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        ("classifier", SEVEN, SEVEN, True),
        ("classifier", SEVEN, ONE, False),
        ("video_classifier", SEVEN, ONE, False),
        ("detector", {"detections": [BOX]}, {"detections": [{**BOX, "score": 0.6}]}, True),
        ("detector", {"detections": [BOX]}, {"detections": []}, False),
        ("segmenter", SKY, SKY, True),
        ("segmenter", SKY, SEA, False),
        ("policy", {"action": 1, "value": 3.0}, {"action": 1, "value": 4.0}, True),
        ("policy", {"action": [0.5]}, {"action": [0.7]}, False),
    ],
)
def test_whether_two_answers_decide_alike(kind: str, one: Any, other: Any, same: bool) -> None:
    """A release compares decisions; scores may differ."""
    assert kinds.get(kind).same_decision(one, other) is same


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    """The registry names what it holds."""
    with pytest.raises(
        CallError,
        match="no kind 'clasifier'; known: audio_classifier, classifier, detector, embedder, forecaster, ",
    ):
        kinds.get("clasifier")


def test_every_kind_has_a_predictor_of_its_own() -> None:
    """Predictors and kinds go by the same names."""
    found = {name: type(kinds.predictor_of(name)).__module__ for name in kinds.names()}

    assert found == {name: f"handlers.kinds.{name}" for name in kinds.names()}
    assert all(isinstance(kinds.get(name), Kind) for name in kinds.names())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("PREDICTOR = 1 / 0\n", "can't be loaded: ZeroDivisionError"),
        ("from handlers import nothing\n", "can't be loaded: ImportError"),
        ("", "must define PREDICTOR"),
    ],
)
def test_a_broken_kind_of_a_project_is_named(home: Path, source: str, words: str) -> None:
    """What a project's own file lacks or raises is one line, with the file."""
    (home / "kinds" / "counter").mkdir(parents=True)
    (home / "kinds" / "counter" / "predictor.py").write_text(source)

    with pytest.raises(CallError, match=words) as raised:
        kinds.get("counter")

    assert "counter/predictor.py" in str(raised.value)
    assert "counter" in kinds.names()
