"""Whether an answer meets what a spec's sample expects."""

import pytest

from handlers.kinds.classifier import ClassifierPredictor
from handlers.kinds.detections import box_iou
from handlers.kinds.detector import DetectorPredictor
from handlers.kinds.policy import PolicyPredictor
from handlers.kinds.segmenter import SegmenterPredictor
from handlers.runtime.predictor import Predictor

ANSWER = {"predictions": [{"class": "7", "probability": 0.9, "class_index": 7}]}
BOXES = [{"class": "3", "bbox": [0, 0, 10, 10]}, {"class": "3", "bbox": [20, 0, 30, 10]}]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (BOXES, ""),
        (BOXES[::-1], ""),
        ([BOXES[0], {"class": "3", "bbox": [21, 0, 30, 10]}], ""),
        (BOXES[:1], "no '3' at [20, 0, 30, 10]"),
        ([BOXES[0], BOXES[0]], "no '3' at [20, 0, 30, 10]"),
        ([BOXES[0], {"class": "8", "bbox": [20, 0, 30, 10]}], "no '3'"),
        ([*BOXES, {"class": "5", "bbox": [50, 0, 60, 10]}], "1 more than expected, the first a '5'"),
    ],
)
def test_exactly_the_expected_objects_must_be_found(found: list, words: str) -> None:
    wrong = DetectorPredictor.mismatch({"detections": BOXES}, {"detections": found})

    assert (wrong == "") == (words == "")
    assert words in wrong


@pytest.mark.parametrize(
    ("expect", "action", "right"),
    [
        (1, 1, True),
        (1, 0, False),
        ([0.5, 1.0], [0.5004, 1.0], True),
        ([0.5, 1.0], [0.5, 0.9], False),
        ([0.5], [0.5, 0.5], False),
    ],
)
def test_an_action_is_compared_exactly_or_to_a_thousandth(
    expect: object, action: object, right: bool
) -> None:
    assert (PolicyPredictor.mismatch({"action": expect}, {"action": action}) == "") == right


@pytest.mark.parametrize(
    ("predictor", "expect", "answer", "words"),
    [
        (ClassifierPredictor, {"klass": "7"}, ANSWER, "expects 'class', not klass"),
        (ClassifierPredictor, {"action": 1}, ANSWER, "expects 'class', not action"),
        (ClassifierPredictor, {"class": "7"}, {"action": 1}, "the answer has action, not 'predictions'"),
        (PolicyPredictor, {"action": 1}, ANSWER, "the answer has predictions, not 'action'"),
        (Predictor, {"score": 1}, {"sum": 1}, "the answer has sum, not 'score'"),
        (Predictor, {"sum": 2}, {"sum": 1}, "sum: 1 instead of 2"),
        (Predictor, {"sum": 2}, [2], "no JSON object"),
    ],
)
def test_a_wrong_expectation_is_explained(
    predictor: type[Predictor], expect: dict, answer: object, words: str
) -> None:
    """An expectation that does not fit the kind, or its answer, is explained."""
    assert words in predictor.mismatch(expect, answer)


AREAS = {
    "areas": [{"class": "sky", "share": 0.71, "pixels": 71}, {"class": "sea", "share": 0.29, "pixels": 29}]
}


@pytest.mark.parametrize(
    ("expect", "words"),
    [
        ({"sky": 0.7}, ""),
        ({"sky": 0.7, "sea": 0.3}, ""),
        ({"sea": 0.4}, "'sea' covers 0.290"),
        ({"sand": 0.0}, "'sand' covers"),
    ],
)
def test_areas_may_be_off_by_a_twentieth_of_the_picture(expect: dict, words: str) -> None:
    wrong = SegmenterPredictor.mismatch({"areas": expect}, AREAS)

    assert (wrong == "") == (words == "")
    assert words in wrong


def test_box_iou_of_known_boxes() -> None:
    assert box_iou([0, 0, 10, 10], [0, 0, 10, 10]) == 1
    assert box_iou([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(1 / 3)
    assert box_iou([0, 0, 10, 10], [10, 10, 20, 20]) == 0
    assert box_iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0
