"""The kind `tensor`: named tensors in, named tensors out, each request by itself."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from handlers.inputs.tensors import TensorField
from handlers.kinds.tensor import TensorPredictor
from handlers.protocol.errors import BadRequest, RequestError, TooLarge
from marina.engines.gateway.open_inference import model_metadata
from tests.support.tensor_modules import PLANT_DIMENSIONS, PLANT_INPUTS, answer, plant, serve
from training.tensors.signatures import Input

GOOD = {"position": [1.0, 2.0, 3.0], "history": [[1, 2, 3, 4], [0, 0, 0, 1]], "forward": False}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> TensorPredictor:
    return serve(tmp_path_factory.mktemp("plant"), plant(), PLANT_INPUTS, **PLANT_DIMENSIONS)


def test_an_instance_is_answered_as_the_module_does(predictor: TensorPredictor) -> None:
    """By the outputs' names; an input with a default may be left out."""
    found = answer(predictor, GOOD)
    with torch.inference_mode():
        expected = plant()(
            torch.tensor([GOOD["position"]]), torch.tensor([GOOD["history"]]).float(), torch.tensor([False])
        )
    assert list(found) == ["force", "drift", "trace"]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values[0].numpy(), rtol=1e-6)
    without = {name: value for name, value in GOOD.items() if name != "forward"}
    np.testing.assert_allclose(answer(predictor, without)["force"], -np.array(found["force"]), rtol=1e-6)
    jsonschema.validate(GOOD, predictor.request_schema())
    jsonschema.validate(found, predictor.answer_schema())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position": [1, 2]}, r"position must be numbers of shape \[3\], not of shape \[2\]"),
        ({"position": [1, 2, 30]}, r"position\[2\] is 30; it must be -10 to 10 m"),
        ({"position": [1, "2", 3]}, r"position must be numbers of shape \[3\], not str"),
        ({"position": [1, None, 3]}, r"position must be numbers of shape \[3\], not null"),
        ({"position": [1, True, 3]}, r"position must be numbers of shape \[3\], not bool"),
        ({"position": 4}, r"position must be numbers of shape \[3\], nested lists, not int"),
        ({"history": [[1, 2, 3, 4], [1]]}, "lists of 1 and of 4 values side by side"),
        ({"history": []}, "history has an empty list"),
        ({"history": [[0, 0, 0, 1e39]]}, r"history\[0, 3\] must be a finite number that float32 can hold"),
        ({"history": [[0, 0, 0, 10**400]]}, "history holds a number that float32 can't hold"),
        ({"forward": 1}, "forward must be true or false, not int"),
        ({"positon": [1, 2, 3]}, "unknown input 'positon'; did you mean 'position'"),
        ({"speed": 1}, "unknown input 'speed'; known: position, history, forward"),
    ],
)
def test_an_instance_that_does_not_fit_is_refused_by_name(
    predictor: TensorPredictor, change: dict[str, Any], words: str
) -> None:
    """With the place, and with what to send instead."""
    with pytest.raises(RequestError, match=words):
        raise answer(predictor, {**GOOD, **change})


def test_a_missing_input_a_bare_list_and_a_long_series_are_refused(predictor: TensorPredictor) -> None:
    """Two need the form of the request, one is too large."""
    with pytest.raises(
        RequestError, match=r"'history' is missing; send \{\"position\": numbers of shape \[3\]"
    ):
        raise answer(predictor, {"position": [1, 2, 3]})
    with pytest.raises(RequestError, match="this model has 3 inputs; send"):
        raise answer(predictor, [1, 2, 3])
    with pytest.raises(TooLarge, match="time must be 1 to 16, not 17"):
        raise answer(predictor, {**GOOD, "history": [[0, 0, 0, 0]] * 17})


def test_neighbors_of_other_lengths_and_bad_ones_change_nothing(predictor: TensorPredictor) -> None:
    """Instances of equal lengths are computed together; each gets the answer that it gets alone."""
    rng = np.random.default_rng(0)
    bodies: list[Any] = [
        {"position": [1, 2, 3], "history": rng.normal(size=(length, 4)).tolist()}
        for length in (1, 5, 16, 5, 1, 2)
    ]
    bodies.insert(2, {"position": "x"})
    rows = [({"body": json.dumps(body).encode()}, {"content-type": "application/json"}) for body in bodies]
    together = predictor.answer_rows(rows)
    for row, found in zip(rows, together, strict=True):
        (alone,) = predictor.answer_rows([row])
        if isinstance(alone, RequestError):
            assert str(found) == str(alone)
            continue
        for name, value in alone.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_kserve_requests_take_and_give_tensors_by_name(predictor: TensorPredictor) -> None:
    """v1 by instance, v2 by tensor, with the outputs that are asked for; datatypes are converted."""
    other = {**GOOD, "history": [[1, 1, 1, 1]]}
    listed = answer(predictor, {"instances": [GOOD, other]})
    assert [len(one["trace"]) for one in listed["predictions"]] == [2, 1]
    inputs = [
        {"name": "position", "shape": [2, 3], "datatype": "FP64", "data": [1, 2, 3, 4, 5, 6]},
        {"name": "history", "shape": [2, 2, 4], "datatype": "INT32", "data": [*range(16)]},
        {"name": "forward", "shape": [2, 1], "datatype": "BOOL", "data": [True, False]},
    ]
    found = answer(predictor, {"inputs": inputs, "outputs": [{"name": "trace"}, {"name": "drift"}]})
    shapes = {one["name"]: (one["datatype"], one["shape"]) for one in found["outputs"]}
    assert shapes == {"trace": ("FP32", [2, 2]), "drift": ("FP32", [2])}
    assert found["outputs"][0]["data"] == [6.0, 22.0, 38.0, 54.0]
    with pytest.raises(RequestError, match="forward must hold true or false, not values of float"):
        raise answer(
            predictor,
            {"inputs": [*inputs[:2], {**inputs[2], "datatype": "FP32", "data": [1, 0]}]},
        )


def test_the_metadata_of_a_model_lists_all_its_tensors(predictor: TensorPredictor) -> None:
    """Datatypes and shapes, -1 for the batch and for a named dimension."""
    predictor.export.__dict__["samples"] = [{"answer": answer(predictor, GOOD)}]
    predictor.computing = {"runtime": "torch"}
    described = model_metadata(predictor, ["1.0"])
    assert described["inputs"] == [
        {"name": "position", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "history", "datatype": "FP32", "shape": [-1, -1, 4]},
        {"name": "forward", "datatype": "BOOL", "shape": [-1]},
    ]
    assert described["outputs"][2] == {"name": "trace", "datatype": "FP32", "shape": [-1, -1]}


def test_an_explanation_is_the_gradient_by_input(predictor: TensorPredictor) -> None:
    """Of the value that is asked for; inputs that have none are left out."""
    found = answer(predictor, {**GOOD, "output": "force", "index": 1}, explain="true")
    weights = plant().gain.weight[1].detach().numpy()
    assert (found["output"], found["index"]) == ("force", 1)
    np.testing.assert_allclose(found["gradient"]["position"], -weights, rtol=1e-5)
    assert set(found["gradient"]) == {"position"}
    jsonschema.validate(found, predictor.explanation_schema())
    with pytest.raises(RequestError, match="index must be 0 to 3 for 'force', not 9"):
        raise answer(predictor, {**GOOD, "index": 9}, explain="true")


def test_a_model_with_one_input_takes_its_value_alone(tmp_path: Path) -> None:
    """As it is, under its name, or under "data"; whole numbers keep to their dtype's range."""

    class Words(torch.nn.Embedding):
        def forward(self, word: torch.Tensor) -> torch.Tensor:
            return super().forward(word.long())

    predictor = serve(tmp_path, Words(5, 2), {"word": Input(dtype="uint8", maximum=4)})
    alone = answer(predictor, 3)
    assert alone == answer(predictor, {"word": 3}) == answer(predictor, {"data": 3})
    assert len(alone["output"]) == 2
    for sent, words in ((3.5, "a whole number, not float"), (300, "0 to 255"), (5, "it must be 4 or less")):
        with pytest.raises(RequestError, match=words):
            raise answer(predictor, sent)


@pytest.mark.parametrize(
    ("dtype", "bounds", "value", "is_held"),
    [
        ("float16", {}, 65519.0, True),  # rounds to the greatest
        ("float16", {}, 65520.0, False),
        ("float32", {"maximum": 0.1}, 0.1, True),
        ("float32", {"maximum": 0.1}, 0.1 + 1e-10, True),  # is 0.1 in float32
        ("float32", {"minimum": 0.5}, 0.49, False),
        ("float64", {}, float("nan"), False),
        ("float64", {}, float("inf"), False),
        ("float64", {}, 1.0, True),
        ("uint8", {}, 256, False),
        ("uint8", {"maximum": 9.5}, 9, True),
        ("int64", {"minimum": -3}, -4, False),
    ],
)
def test_a_value_alone_and_in_a_list_is_held_or_refused_alike(
    dtype: str, bounds: dict[str, Any], value: float, is_held: bool
) -> None:
    """At the edges of bounds and dtypes, whichever way it is checked."""
    sent = {(): value, (1,): [value], (2, 2): [[value] * 2] * 2}
    for shape, content in sent.items():
        field = TensorField("x", dtype, shape, **bounds)
        for form in (content, np.array(content)):
            if is_held:
                np.testing.assert_array_equal(field.read(form, {}, {}), np.array(content, dtype))
            else:
                with pytest.raises(BadRequest, match=r"x.* (is|must)"):
                    field.read(form, {}, {})
