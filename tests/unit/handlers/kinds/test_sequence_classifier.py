"""The kind `sequence_classifier`: signals by step, by channel, as CSV and as tensors; padding is not seen."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openapi_spec_validator
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.kinds.sequence_classifier import SequenceClassifierPredictor
from handlers.protocol.errors import RequestError
from handlers.protocol.requests import Instance
from handlers.runtime.golden import difference
from marina.engines.gateway.open_inference import model_metadata
from marina.kinds.sequence_classifier import KIND
from marina.packaging.openapi import of_description
from tests.support.answered import answer_to as answer
from tests.support.signal_models import CLASSES, INPUT, PLAIN, SIGNAL, serve

COLUMNS = {"height": [step[0] for step in SIGNAL], "wind": [step[1] for step in SIGNAL]}
CSV = "second,height,wind\n" + "".join(f"{place},{a},{b}\n" for place, (a, b) in enumerate(SIGNAL))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> SequenceClassifierPredictor:
    return serve(tmp_path_factory.mktemp("signals"))


def tensor(name: str, shape: list[int], data: list[float]) -> dict[str, Any]:
    """In the Open Inference Protocol."""
    return {"name": name, "shape": shape, "datatype": "FP32", "data": data}


def test_every_form_of_a_signal_gets_the_same_answer(predictor: SequenceClassifierPredictor) -> None:
    """By step, by channel, as CSV, in both protocols of KServe."""
    alone = answer(predictor, {"signal": SIGNAL})
    assert alone["predictions"][0]["class"] == "rising"
    flat = [value for step in SIGNAL for value in step]
    for body in (SIGNAL, COLUMNS, {"data": SIGNAL}, CSV, CSV.encode()):
        assert not difference(alone, answer(predictor, body)), body
    assert not difference(
        {"predictions": [alone, alone]}, answer(predictor, {"instances": [SIGNAL, COLUMNS]})
    )
    named = "flight," + CSV.replace("\n", "\na,", 3) + "b,0,5,1\nb,1,2,1\n"
    rows = answer(predictor, named)["rows"]
    assert not difference(alone, rows[0])
    assert rows[1]["predictions"][0]["class"] == "falling"
    by_channel = [tensor(name, [1, 3], values) for name, values in COLUMNS.items()]
    for inputs in ([tensor("signal", [1, 3, 2], flat)], by_channel):
        found = answer(predictor, {"inputs": inputs})
        outputs = {one["name"]: one["data"] for one in found["outputs"]}
        assert outputs["class"] == ["rising", "falling"]
    for body in ({"signal": SIGNAL}, {**COLUMNS, "top_k": 1}, SIGNAL):
        jsonschema.validate(body, predictor.request_schema())
    jsonschema.validate(alone, predictor.answer_schema())
    assert len(answer(predictor, {**COLUMNS, "top_k": 1})["predictions"]) == 1
    assert KIND.summarize(alone).startswith("rising")


def test_a_single_channel_needs_no_inner_lists(tmp_path: Path) -> None:
    """A list of numbers is a signal; a list of lists of lists is several."""
    predictor = serve(tmp_path, PLAIN)
    alone = answer(predictor, [1, 2, 3])
    for body in ([[1], [2], [3]], {"height": [1, 2, 3]}, {"signal": [1, 2, 3]}, "height\n1\n2\n3\n"):
        assert not difference(alone, answer(predictor, body))
    several = answer(predictor, [[[1], [2], [3]], [[3], [1]], {"signal": []}])["rows"]
    assert not difference(alone, several[0])
    assert several[1]["predictions"][0]["class"] == "falling"
    assert several[2]["error"]["code"] == 400
    jsonschema.validate([1, 2, 3], predictor.request_schema())
    found = answer(predictor, {"inputs": [tensor("signal", [1, 3], [1, 2, 3])]})
    assert {one["name"]: one["data"][0] for one in found["outputs"]}["class"] == "rising"


def test_what_a_batch_is_filled_up_with_is_not_seen(predictor: SequenceClassifierPredictor) -> None:
    """Alone and beside longer ones, a signal gets the same answer."""
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=(steps, 2)).round(3).tolist() for steps in (2, 9, 5, 3, 8)]
    together = answer(predictor, {"instances": signals})["predictions"]
    for one, found in zip(signals, together, strict=True):
        assert not difference(answer(predictor, one), found)
    (group,) = predictor.groups(
        [predictor.preprocess(predictor.input.read(one), Instance(None)) for one in signals]
    )
    assert len(group) == 5


REFUSED: list[tuple[Any, int, str]] = [
    ({"signal": []}, 400, "the signal has no steps; send a list of steps, each a list of 2 numbers: height"),
    ({"signal": [[1, 2]]}, 400, "signal: steps must be 2 to 9, not 1"),
    ({"signal": [[1, 2]] * 10}, 413, "signal: steps must be 2 to 9, not 10"),
    ({"signal": [[1, 2], [1]]}, 400, "step 1 has 1 value; send 2 in each step: height, wind"),
    ({"signal": [[1, 2, 3], [1, 2, 3]]}, 400, "step 0 has 3 values; send 2 in each step"),
    ({"signal": [1, 2, 3]}, 400, "the signal must have 2 values in each step: height, wind"),
    ({"signal": [[1, None], [1, 2]]}, 400, "signal must be numbers of shape .*, not null"),
    ({"signal": [[1, "2"], [1, 2]]}, 400, "not str"),
    ({"signal": [[1, True], [1, 2]]}, 400, "not bool"),
    ({"signal": [[[1], 2], [1, 2]]}, 400, "not list"),
    ({"signal": [3, [1, 2]]}, 400, "must have 2 values in each step"),
    ({"signal": [[1, 2], 3]}, 400, "nested lists, not int"),
    ({"signal": "loud"}, 400, 'send a list of steps, .*, as it is or under "signal"'),
    (b'{"signal": [[1, NaN], [1, 2]]}', 400, r"signal\[0, 1\] must be a finite number|NaN"),
    (b'{"signal": [[1, 1e999], [1, 2]]}', 400, r"signal\[0, 1\] must be a finite number"),
    ({"signal": [[1, 1e39], [1, 2]]}, 400, r"signal\[0, 1\] must be a finite number that float32"),
    ({"signal": [[1, 2], [101, 2]]}, 400, "height is 101 at step 1; it must be -100 to 100 m"),
    ({"height": [1, 2]}, 400, "the channel 'wind' is left out; send a list of numbers"),
    ({"height": [1, 2], "wimd": [1, 2]}, 400, "there is no channel 'wimd'; did you mean 'wind'"),
    ({"height": [1, 2], "wind": [1, 2, 3]}, 400, "wind: steps is 3 here and 2 in another input"),
    ({"height": [1, 2], "wind": 3}, 400, "wind must be numbers of shape"),
    ({}, 400, "the channel 'height' is left out"),
    ({"signal": 3}, 400, "send a list of steps"),
    ("height,wind\n1,2\n1,x\n", 400, "wind is 'x' in row 2; send a number"),
    ("height,wind\n1,2\n1\n", 400, "line 3 has 1 cells"),
    ("height,wind\n1,2\n1,nan\n", 400, "wind.* must be a finite number"),
    ("height\n1\n2\n", 400, "the channel 'wind' is left out"),
    ("height,wind,rain\n1,2,3\n1,2,3\n", 400, "there is no channel 'rain'"),
    ("second,height,wind\n1,1,2\n0,1,2\n", 400, "second: 0 comes behind 1; send every step once"),
    ("second,height,wind\n0,1,2\n1,1,2\n3,1,2\n4,1,2\n", 400, "second: 3 comes 2 behind 1, others 1"),
    ("second,height,wind\nsoon,1,2\n1,1,2\n", 400, "'soon' is neither a number nor a time"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "words"), REFUSED)
def test_a_bad_signal_is_refused_by_its_place(
    predictor: SequenceClassifierPredictor, body: Any, code: int, words: str
) -> None:
    """With what to send instead; in a list of signals the neighbors are answered."""
    with pytest.raises(RequestError, match=words) as refused:
        raise answer(predictor, body)
    assert refused.value.status == code
    if isinstance(body, dict):
        found = answer(predictor, [{"signal": SIGNAL}, body, {"signal": SIGNAL}])["rows"]
        alone = answer(predictor, SIGNAL)
        assert not difference([alone, alone], [found[0], found[2]])
        assert found[1]["error"]["code"] == code


def test_an_explanation_names_the_steps_and_channels(predictor: SequenceClassifierPredictor) -> None:
    """Of the toy: the first and the last step of the first channel decide."""
    body = [[-3.0, 0.0], [0.0, 0.0], [0.0, 0.0], [4.0, 0.0]]
    found = answer(predictor, body, explain="true")
    jsonschema.validate(found, predictor.explanation_schema())
    assert found["class"] == "rising"
    assert found["steps"] == pytest.approx([8.0, 0.0, 0.0, 6.0], abs=1e-4)  # the mean of training is 1
    assert found["channels"] == pytest.approx({"height": 14.0, "wind": 0.0}, abs=1e-4)
    other = answer(predictor, {"signal": body, "class_index": 0}, explain="true")
    assert (other["class"], other["steps"][0]) == ("falling", pytest.approx(-8.0, abs=1e-4))


def test_its_description_is_valid_and_complete(predictor: SequenceClassifierPredictor) -> None:
    """OpenAPI, limits, metadata of the Open Inference Protocol."""
    predictor.export.__dict__["samples"] = [{"answer": answer(predictor, SIGNAL)}]
    predictor.computing = {"runtime": "torch"}
    described = predictor.describe()
    assert described["limits"]["maximum_steps"] == 9
    openapi_spec_validator.validate(of_description({**described, "about": "A toy."}))
    metadata = model_metadata(predictor, ["1.0"])
    assert metadata["inputs"] == [{"name": "signal", "datatype": "FP32", "shape": [-1, -1, 2]}]
    assert predictor.labels == CLASSES


NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))
BODIES = st.one_of(
    st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=5), max_leaves=25),
    st.dictionaries(st.sampled_from(["signal", "data", "height", "wind"]), st.lists(NUMBERS, max_size=5)),
    st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=1, max_size=12),
    st.text(alphabet="hieghtwnd,\n1.-x", max_size=60),
)


@settings(max_examples=150, deadline=None)
@given(body=BODIES)
def test_whatever_is_sent_is_a_signal_or_refused(body: Any) -> None:
    """A signal has finite values within its bounds, and as many steps as were sent."""
    found = []
    with suppress(RequestError):
        signals = INPUT.signals_of(body, 10)
        found = [INPUT.read(one) for one in ([body] if signals is None else signals)]
    for signal in found:
        assert signal.dtype == np.float32
        assert INPUT.minimum_steps <= len(signal) <= INPUT.maximum_steps
        assert signal.shape[1] == 2
        assert np.isfinite(signal).all()
        assert np.abs(signal[:, 0]).max() <= 100
