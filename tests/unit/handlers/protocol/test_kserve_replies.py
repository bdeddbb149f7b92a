"""KServe v2 answers: tensors out, of one number per instance or of many."""

import math
from typing import Any

import pytest

from handlers.protocol.errors import BadRequest
from handlers.protocol.tensor_answers import tensor_answer

PREDICTIONS = {
    "type": "object",
    "properties": {
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "class": {"type": "string"},
                    "probability": {"type": "number"},
                    "class_index": {"type": "integer"},
                },
            },
        }
    },
}
DETECTIONS = {
    "type": "object",
    "properties": {
        "detections": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "bbox": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
                    "score": {"type": "number"},
                    "class": {"type": "string"},
                    "class_index": {"type": "integer"},
                    "mask": {"type": "object"},
                },
            },
        }
    },
}


def prediction(label: str, probability: float, index: int) -> dict[str, Any]:
    return {"class": label, "probability": probability, "class_index": index}


def detection(bbox: list[float], score: float, index: int) -> dict[str, Any]:
    return {"bbox": bbox, "score": score, "class": str(index), "class_index": index}


def output(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def outputs(
    answers: list[dict[str, Any]], schema: dict[str, Any], ragged: bool = False
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tensor_answer(answers, schema, "m", "1.0", None, ragged)["outputs"]
    for one in found:
        assert len(one["data"]) == math.prod(one["shape"])
    return found


def test_an_answer_names_its_model_and_repeats_the_id() -> None:
    schema = {"type": "object", "properties": {"action": {"type": "integer"}}}
    expected = {"model_name": "m", "model_version": "1.0", "outputs": [output("action", "INT64", [1], [1])]}

    assert tensor_answer([{"action": 1}], schema, "m", "1.0", None, False) == expected
    assert tensor_answer([{"action": 1}], schema, "m", "1.0", "", False) == {**expected, "id": ""}


def test_only_the_outputs_that_are_asked_for_are_answered_in_their_order() -> None:
    answers = [{"predictions": [prediction("7", 0.9, 7)]}]

    found = tensor_answer(answers, PREDICTIONS, "m", "1.0", None, False, ("class_index", "class"), ("topk",))

    assert [one["name"] for one in found["outputs"]] == ["class_index", "class"]
    assert found["parameters"] == {"ignored": "topk"}
    with pytest.raises(BadRequest, match=r"unknown outputs: 'x'; .* answered with class, probability"):
        tensor_answer(answers, PREDICTIONS, "m", "1.0", None, False, ("class", "x"))


def test_scalars_and_fixed_arrays_become_one_output_each() -> None:
    two = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    schema = {
        "properties": {
            "action": {"type": "integer"},
            "value": {"type": "number"},
            "word": {"type": "string"},
            "done": {"type": "boolean"},
            "q_values": two,
            "grid": {"type": "array", "items": two, "minItems": 1, "maxItems": 1},
        }
    }
    one = {"action": 1, "value": 0.5, "word": "ü", "done": True, "q_values": [1.5, 2], "grid": [[1.0, 2.0]]}
    other = {"action": 0, "value": 1, "word": "", "done": False, "q_values": [3, 4], "grid": [[3.0, 4.0]]}

    assert outputs([one, other], schema) == [
        output("action", "INT64", [2], [1, 0]),
        output("value", "FP32", [2], [0.5, 1]),
        output("word", "BYTES", [2], ["ü", ""]),
        output("done", "BOOL", [2], [True, False]),
        output("q_values", "FP32", [2, 2], [1.5, 2, 3, 4]),
        output("grid", "FP32", [2, 1, 2], [1.0, 2.0, 3.0, 4.0]),
    ]


def test_rows_of_equal_number_are_an_output_per_property() -> None:
    one = {"predictions": [prediction("a", 0.75, 0), prediction("b", 0.25, 1)]}
    other = {"predictions": [prediction("b", 0.5, 1), prediction("a", 0.5, 0)]}

    assert outputs([one, other], PREDICTIONS) == [
        output("class", "BYTES", [2, 2], ["a", "b", "b", "a"]),
        output("probability", "FP32", [2, 2], [0.75, 0.25, 0.5, 0.5]),
        output("class_index", "INT64", [2, 2], [0, 1, 1, 0]),
    ]
    assert [one["shape"] for one in outputs([one], PREDICTIONS)] == [[1, 2]] * 3


def test_ragged_rows_are_concatenated_beside_their_counts() -> None:
    """Ragged rows are concatenated, beside the number of rows per instance."""
    first, second = detection([1, 2, 3, 4.5], 0.9, 7), detection([5, 6, 7, 8], 0.8, 3)
    answers = [{"detections": [first, second]}, {"detections": []}, {"detections": [second]}]

    assert outputs(answers, DETECTIONS, ragged=True) == [
        output("detections", "INT64", [3], [2, 0, 1]),
        output("bbox", "FP32", [3, 4], [1, 2, 3, 4.5, 5, 6, 7, 8, 5, 6, 7, 8]),
        output("score", "FP32", [3], [0.9, 0.8, 0.8]),
        output("class", "BYTES", [3], ["7", "3", "3"]),
        output("class_index", "INT64", [3], [7, 3, 3]),
    ]
    assert outputs(answers, DETECTIONS, ragged=True) == outputs(answers, DETECTIONS, ragged=False)


def test_a_ragged_answer_has_that_form_for_one_instance_too() -> None:
    found = outputs([{"detections": [detection([1, 2, 3, 4], 0.9, 7)]}], DETECTIONS, ragged=True)

    assert [(one["name"], one["shape"]) for one in found[:3]] == [
        ("detections", [1]),
        ("bbox", [1, 4]),
        ("score", [1]),
    ]


def test_an_answer_without_rows_keeps_its_datatypes() -> None:
    ragged = outputs([{"detections": []}], DETECTIONS, ragged=True)
    even = outputs([{"detections": []}] * 2, DETECTIONS)

    assert ragged[0] == output("detections", "INT64", [1], [0])
    assert ragged[1:4] == [
        output("bbox", "FP32", [0, 4], []),
        output("score", "FP32", [0], []),
        output("class", "BYTES", [0], []),
    ]
    assert even[:2] == [output("bbox", "FP32", [2, 0, 4], []), output("score", "FP32", [2, 0], [])]


def test_a_property_is_left_out_unless_all_have_it() -> None:
    schema = {"properties": {"action": {"type": "integer"}, "value": {"type": "number"}}}
    plain = detection([1, 2, 3, 4], 0.9, 7)
    masked = {**plain, "mask": {"counts": "ü", "size": [1, 2]}}

    assert [one["name"] for one in outputs([{"action": 1, "value": 2}, {"action": 0}], schema)] == ["action"]
    assert "mask" not in [
        one["name"] for one in outputs([{"detections": [plain, masked]}], DETECTIONS, ragged=True)
    ]
    assert outputs([{"detections": [masked]}], DETECTIONS, ragged=True)[-1]["data"] == [
        '{"counts":"\\u00fc","size":[1,2]}'
    ]


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"type": "object"},
        {"type": ["number", "null"]},
        {"type": "array"},
        {"type": "array", "items": {"type": "number"}},
        {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
        {"type": "array", "items": {"type": "number"}, "maxItems": 2},
        {"type": "array", "items": {"type": "object"}, "minItems": 2, "maxItems": 2},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
            "minItems": 2,
            "maxItems": 2,
        },
    ],
)
def test_what_is_no_tensor_becomes_compact_json_text(kind: dict) -> None:
    answers = [{"free": {"a": [1, None]}}, {"free": [1, 2.5]}]

    assert outputs(answers, {"properties": {"free": kind}}) == [
        output("free", "BYTES", [2], ['{"a":[1,null]}', "[1,2.5]"])
    ]


def test_json_text_is_never_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        tensor_answer([{"free": [math.nan]}], {"properties": {"free": {}}}, "m", "1.0", None, False)
