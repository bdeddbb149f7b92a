"""Golden answers and expectations: what counts as the same, and what does not."""

import pytest

from marina.samples import intersection_over_union, mismatch, short

from bundle_golden import difference

ANSWER = {"predictions": [{"class": "7", "probability": 0.9, "class_index": 7}, {"class": "1", "probability": 0.1, "class_index": 1}]}


def with_change(**change: object) -> dict:
    return {"predictions": [{**ANSWER["predictions"][0], **change}, ANSWER["predictions"][1]]}


@pytest.mark.parametrize("answer", [ANSWER, with_change(probability=0.9005)])
def test_an_answer_within_float_noise_is_the_same(answer: dict) -> None:
    assert difference(ANSWER, answer) == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (with_change(probability=0.95), "answer.predictions[0].probability: 0.95 instead of 0.9"),
        (with_change(**{"class": "1"}), "answer.predictions[0].class: '1' instead of '7'"),
        (with_change(class_index=8), "class_index: 8 instead of 7"),
        (with_change(probability=float("nan")), "probability"),
        ({"predictions": ANSWER["predictions"][:1]}, "another form or length"),
        ({"prediction": []}, "the keys ['prediction'] instead of ['predictions']"),
        ([], "another form"),
        (None, "another form"),
    ],
)
def test_another_answer_is_told_apart_with_its_place(answer: object, words: str) -> None:
    assert words in difference(ANSWER, answer)


@pytest.mark.parametrize(("golden", "answer"), [(True, 1), (1, True), (0, 1), ("a", "b"), (None, 0), ("1", 1)])
def test_kinds_of_values_are_not_mixed_up(golden: object, answer: object) -> None:
    assert difference(golden, answer)


def test_boxes_may_differ_by_half_a_pixel_and_scores_may_not() -> None:
    golden = {"detections": [{"bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.9}]}

    assert difference(golden, {"detections": [{"bbox": [10.4, 10.0, 20.0, 19.6], "score": 0.9}]}) == ""
    assert "bbox[0]" in difference(golden, {"detections": [{"bbox": [10.9, 10.0, 20.0, 20.0], "score": 0.9}]})
    assert "score" in difference(golden, {"detections": [{"bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.6}]})


def test_edges_of_fewer_bits_may_move_by_a_part_of_their_box() -> None:
    golden, shifted = ({"bbox": [10.0, top, 20.0, 300.0]} for top in (100.0, 109.0))

    assert "bbox[1]" in difference(golden, shifted)
    assert difference(golden, shifted, reduced=True) == ""
    assert "bbox[1]" in difference(golden, {"bbox": [10.0, 111.0, 20.0, 300.0]}, reduced=True)
    assert "bbox[0]" in difference(golden, {"bbox": [13.0, 100.0, 20.0, 300.0]}, reduced=True)


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
    wrong = mismatch({"detections": BOXES}, {"detections": found})

    assert (wrong == "") == (words == "")
    assert words in wrong


@pytest.mark.parametrize(
    ("expect", "action", "right"),
    [(1, 1, True), (1, 0, False), ([0.5, 1.0], [0.5004, 1.0], True), ([0.5, 1.0], [0.5, 0.9], False), ([0.5], [0.5, 0.5], False)],
)
def test_an_action_is_compared_exactly_or_to_a_thousandth(expect: object, action: object, right: bool) -> None:
    assert (mismatch({"action": expect}, {"action": action}) == "") == right


@pytest.mark.parametrize(("expect", "answer"), [({"class": "7"}, {"action": 1}), ({"klass": "7"}, ANSWER), ({"action": 1}, ANSWER)])
def test_an_expectation_that_does_not_fit_the_kind_is_explained(expect: dict, answer: dict) -> None:
    assert "expect one of class, detections, areas, action" in mismatch(expect, answer)


AREAS = {"areas": [{"class": "sky", "share": 0.71, "pixels": 71}, {"class": "sea", "share": 0.29, "pixels": 29}]}


@pytest.mark.parametrize(
    ("expect", "words"),
    [({"sky": 0.7}, ""), ({"sky": 0.7, "sea": 0.3}, ""), ({"sea": 0.4}, "'sea' covers 0.290"), ({"sand": 0.0}, "'sand' covers")],
)
def test_areas_may_be_off_by_a_twentieth_of_the_picture(expect: dict, words: str) -> None:
    wrong = mismatch({"areas": expect}, AREAS)

    assert (wrong == "") == (words == "")
    assert words in wrong


def test_intersection_over_union_of_known_boxes() -> None:
    assert intersection_over_union([0, 0, 10, 10], [0, 0, 10, 10]) == 1
    assert intersection_over_union([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(1 / 3)
    assert intersection_over_union([0, 0, 10, 10], [10, 10, 20, 20]) == 0
    assert intersection_over_union([0, 0, 0, 0], [0, 0, 0, 0]) == 0


def test_answers_are_shown_in_a_few_characters() -> None:
    assert short(ANSWER) == "7 (0.900)"
    assert short({"detections": [*BOXES, {"class": "1"}]}) == "1 3×2"
    assert short({"detections": []}) == "nothing"
    assert short(AREAS) == short({"areas": {"sky": 0.71, "sea": 0.29}}) == "sky 71% sea 29%"
    assert short({"action": 1, "q_values": [0.25, 1.5]}) == "1 (q 0.2 1.5)"
