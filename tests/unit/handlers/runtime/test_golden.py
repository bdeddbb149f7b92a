"""Golden answers: what counts as the same, and what does not."""

import pytest

from handlers.runtime.golden import difference

ANSWER = {
    "predictions": [
        {"class": "7", "probability": 0.9, "class_index": 7},
        {"class": "1", "probability": 0.1, "class_index": 1},
    ]
}


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


@pytest.mark.parametrize(
    ("golden", "answer"), [(True, 1), (1, True), (0, 1), ("a", "b"), (None, 0), ("1", 1)]
)
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


def classes(*pairs: tuple[str, float]) -> dict:
    named = [{"class": name, "probability": value, "class_index": int(name)} for name, value in pairs]
    return {"predictions": named}


def test_equally_probable_classes_may_change_places_behind_the_first() -> None:
    golden = classes(("7", 0.4), ("1", 0.2), ("2", 0.2), ("3", 0.1))

    assert difference(golden, classes(("7", 0.4), ("2", 0.2), ("1", 0.2), ("3", 0.1))) == ""
    assert difference(golden, classes(("7", 0.4), ("2", 0.2), ("3", 0.2), ("1", 0.1)))
    assert difference(golden, classes(("1", 0.4), ("7", 0.2), ("2", 0.2), ("3", 0.1)))
    assert difference(golden, classes(("7", 0.4), ("2", 0.2), ("1", float("nan")), ("3", 0.1)))


def test_detections_of_equal_scores_may_change_places() -> None:
    one, other = ({"class": "a", "score": 0.9, "bbox": [left, 0.0, left + 9, 9.0]} for left in (0.0, 50.0))

    assert difference({"detections": [one, other]}, {"detections": [other, one]}) == ""
    assert difference({"detections": [one, other]}, {"detections": [one, one]})
    assert difference({"detections": [one, other]}, {"detections": [{**other, "score": 0.8}, one]})
