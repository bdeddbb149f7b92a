"""The kind `forecaster`: series by column, by row, as CSV and as tensors; each series by itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from handlers.kinds.forecaster import ForecasterPredictor
from handlers.protocol.errors import RequestError
from handlers.runtime.golden import difference
from marina.engines.gateway.open_inference import model_metadata
from marina.kinds.forecaster import KIND
from tests.support.answered import answer_to as answer
from tests.support.answered import check_openapi
from tests.support.series_models import HALF_WIDTHS, INPUT, PLAIN, REQUEST, as_rows, computed, monthly, serve
from tests.support.table_models import as_csv


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> ForecasterPredictor:
    return serve(tmp_path_factory.mktemp("forecaster"))


def blank(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as CSV writes them."""
    return [{name: "" if cell is None else cell for name, cell in row.items()} for row in rows]


def test_every_form_of_a_series_gets_the_same_answer(predictor: ForecasterPredictor) -> None:
    """By column, by row, in a list, as CSV of several series, in both protocols of KServe."""
    alone = answer(predictor, REQUEST)
    expected = computed(REQUEST)
    assert alone["series"] == "south"
    assert alone["time"] == ["2024-03-02", "2024-03-03"]
    assert alone["value"] == pytest.approx(expected.tolist(), rel=1e-6)
    widths = 4.0 * np.array(HALF_WIDTHS)  # of the south, whose deviation is 4
    assert alone["upper"] == pytest.approx((expected + widths).tolist(), rel=1e-6)
    assert alone["lower"] == pytest.approx((expected - widths).tolist(), rel=1e-6)
    rows, north = as_rows(REQUEST), {**REQUEST, "shop": "north"}
    other = answer(predictor, north)
    assert other["value"] != alone["value"]
    assert not difference(alone, answer(predictor, {"rows": rows}))
    assert not difference({"rows": [alone, other]}, answer(predictor, [REQUEST, north]))
    every = as_csv(*blank(rows), *blank(as_rows(north)))
    assert not difference({"rows": [alone, other]}, answer(predictor, every))
    assert not difference({"predictions": [alone, other]}, answer(predictor, {"instances": [REQUEST, north]}))
    jsonschema.validate(REQUEST, predictor.request_schema())
    jsonschema.validate({"rows": rows}, predictor.request_schema())
    jsonschema.validate(alone, predictor.answer_schema())
    assert KIND.summarize(alone).endswith("2 steps")


def test_tensors_are_the_columns(tmp_path: Path) -> None:
    """In the Open Inference Protocol, a row per series, with the last value's time; the horizon is a
    parameter.
    """
    series = replace(INPUT, observed=())
    request = {name: cells for name, cells in REQUEST.items() if name != "weather"}
    request["day"] = request["day"][-1]
    predictor = serve(tmp_path, series)
    numbers = {"sold": "FP64", "price": "FP32"}
    inputs = [
        {
            "name": name,
            "shape": [1, len(cells) if isinstance(cells, list) else 1],
            "datatype": numbers.get(name, "BYTES"),
            "data": cells if isinstance(cells, list) else [cells],
        }
        for name, cells in request.items()
    ]
    found = answer(predictor, {"inputs": inputs, "parameters": {"horizon": 1}})
    outputs = {one["name"]: one for one in found["outputs"]}
    assert outputs["value"]["shape"] == [1, 1]
    assert outputs["value"]["data"] == pytest.approx(computed(request, series)[:1].tolist(), rel=1e-6)
    assert outputs["time"]["data"] == ["2024-03-02"]
    predictor.export.__dict__["samples"] = [{"answer": answer(predictor, request)}]
    predictor.computing = {"runtime": "torch"}
    described = model_metadata(predictor, ["1.0"])
    named = {one["name"]: (one["datatype"], one["shape"]) for one in described["inputs"]}
    assert list(named) == ["day", "shop", "sold", "price"]
    assert named["sold"] == named["price"] == ("FP64", [-1, -1])


REFUSED = [
    ({"sold": [1, 2, 3]}, "sold has 3 values; a forecast is made from 4: send so many or more"),
    ({"sold": [1, 2, float("nan"), 4]}, "sold is nan; send null for a missing value|sold is nan"),
    ({"sold": [1, 2, float("inf"), 4]}, "sold is inf"),
    ({"sold": [1, 2, -1, 4]}, "sold is -1; it must be 0 or more pieces"),
    ({"sold": [1, 2, "x", 4]}, "sold is 'x'"),
    ({"sold": [1, 2, 1e30, 4]}, "sold changes by more than 1,000,000 times"),
    ({"sold": [None, 2, 3, 4]}, "sold is missing at 2024-02-27; the oldest one must be there"),
    ({"day": ["2024-02-28", "2024-02-27", "2024-02-29", "2024-03-01"]}, "2024-02-27 behind .* out of order"),
    ({"day": ["2024-02-27", "2024-02-27", "2024-02-28", "2024-02-29"]}, "is out of order; send every time"),
    ({"day": ["2024-02-26", "2024-02-28", "2024-02-29", "2024-03-01"]}, "leaves out 1; send null for them"),
    ({"day": ["2024-02-27", "2024-02-28", "2024-02-29", "2024-03-01T12:00"]}, "is not day later"),
    ({"day": ["2024-02-27", "2024-02-30", "2024-02-29", "2024-03-01"]}, "day is '2024-02-30'"),
    ({"day": ["2024-02-27"] * 2}, "day has 2 cells, sold 4 values; send a time for each, or the last"),
    ({"day": ["9999-12-28", "9999-12-29", "9999-12-30", "9999-12-31"]}, "day goes"),
    ({"shop": "west"}, "shop is 'west', which the training rows don't have; it must be one of north, south"),
    ({"shop": ["north", "south"]}, "2 values of shop in one instance; send each series by itself"),
    ({"price": [9, 9, 10, 10]}, "price has 4 cells; send one for each of the 4 values of sold and the 2"),
    ({"price": [9] * 7}, "price has 7 cells, 3 of them behind the last value of sold"),
    ({"price": [9, 9, None, 10, 11, 12]}, "price is missing; send a number, at 2024-02-29"),
    ({"weather": ["sun", "fog", "sun", "sun"]}, "weather is 'fog', .*, at 2024-02-28"),
    ({"wether": ["sun"] * 4}, "there is no column 'wether'; the columns are day, shop, sold"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_bad_series_is_refused_by_column_and_time(
    predictor: ForecasterPredictor, change: dict[str, Any], words: str
) -> None:
    """With what to send instead; in a list of series the neighbors are answered."""
    bad = {**REQUEST, **change}
    with pytest.raises(RequestError, match=words):
        raise answer(predictor, bad)
    found = answer(predictor, [REQUEST, bad, REQUEST])["rows"]
    alone = answer(predictor, REQUEST)
    assert not difference([alone, alone], [found[0], found[2]])
    assert found[1]["error"]["code"] == 400
    with pytest.raises(RequestError, match=f"series 1: .*({words})"):
        raise answer(predictor, {"instances": [REQUEST, bad]})


def test_a_left_out_column_and_csv_that_is_none_are_refused(predictor: ForecasterPredictor) -> None:
    """And a CSV with a million rows, before they are all read."""
    lacking = {name: cells for name, cells in REQUEST.items() if name != "price"}
    with pytest.raises(RequestError, match="the column 'price' is left out; send a list of a number"):
        raise answer(predictor, lacking)
    head, line = as_csv(*blank(as_rows(REQUEST))).splitlines()[:2]
    for text, words in (
        (head, "at least one row below"),
        ("sold\n1\n", "names no column 'shop'"),
        (f"{head}\n{line}\n1,2\n", "line 3 has 2 cells"),
    ):
        with pytest.raises(RequestError, match=words):
            raise answer(predictor, text)
    refused = answer(predictor, "\n".join([head, *[line] * 1_000_000]))
    assert (refused.status, "more than 100,000 rows" in str(refused)) == (413, True)
    assert answer(predictor, {**REQUEST, "sold": [1] * 100_001}).status == 413
    assert answer(predictor, [[1]] * 10_001).status == 413


def test_a_plain_list_forecasts_a_series_without_other_inputs(tmp_path: Path) -> None:
    """Without times the answer has none; with them it has; the horizon may be shorter."""
    predictor = serve(tmp_path, monthly(), half_widths=None)
    values = [3.0, 5.0, 4.0]
    plain = answer(predictor, values)
    assert plain == {"value": pytest.approx(computed({"level": values}, PLAIN).tolist(), rel=1e-6)}
    jsonschema.validate(values, predictor.request_schema())
    timed = answer(predictor, {"month": ["2024-10-31", "2024-11-30", "2024-12-31"], "level": values})
    assert timed == {"time": ["2025-01-31", "2025-02-28"], **plain}
    assert len(answer(predictor, {"level": values, "horizon": 1})["value"]) == 1
    with pytest.raises(RequestError, match="horizon must be a whole number from 1 to 2"):
        raise answer(predictor, {"level": values, "horizon": 3})
    with pytest.raises(RequestError, match="level is missing 1 times before the last; send a number"):
        raise answer(predictor, [3.0, None, 4.0])
    tensor = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [*values, *values]}
    assert answer(predictor, {"inputs": [tensor]})["outputs"][0]["shape"] == [2, 2]


def test_logarithms_and_roots_refuse_what_has_none(tmp_path: Path) -> None:
    """The ends of an interval are those of the transformed value."""
    (tmp_path / "log").mkdir()
    (tmp_path / "sqrt").mkdir()
    log, sqrt = (serve(tmp_path / name, monthly(name)) for name in ("log", "sqrt"))
    with pytest.raises(RequestError, match="level is 0; it must be above 0"):
        raise answer(log, [1, 0, 2])
    with pytest.raises(RequestError, match="level is -1; it must be 0 or more"):
        raise answer(sqrt, [1, -1, 2])
    found = answer(log, [1, 2, 4])
    assert found["upper"][0] / found["value"][0] == pytest.approx(np.exp(0.5))
    assert min(answer(sqrt, [100, 50, 0])["lower"]) == 0


def test_an_explanation_names_what_values_and_inputs_contribute(predictor: ForecasterPredictor) -> None:
    """What equals its baseline contributes nothing; a refused series of a list costs the others nothing."""
    found = answer(predictor, REQUEST, explain="true")
    jsonschema.validate(found, predictor.explanation_schema())
    assert found["value"] == pytest.approx(float(computed(REQUEST).mean()), rel=1e-6)
    assert [one["time"] for one in found["values"]] == REQUEST["day"]
    assert list(found["inputs"]) == ["day", "price", "weather"]
    assert found["inputs"]["weather"] != 0
    usual = {**REQUEST, "price": [10] * 6, "sold": [5, 5, 5, 5]}
    unmoved = answer(predictor, usual, explain="true")
    assert unmoved["inputs"]["price"] == pytest.approx(0, abs=1e-6)
    assert [one["contribution"] for one in unmoved["values"]] == pytest.approx([0] * 4, abs=1e-6)
    listed = answer(predictor, [REQUEST, {**REQUEST, "sold": [1]}], explain="true")["rows"]
    assert listed[0] == found
    assert "sold has 1 value;" in listed[1]["error"]["message"]


def test_the_openapi_document_has_series_and_csv(predictor: ForecasterPredictor) -> None:
    """It is valid; a list of series is a request."""
    check_openapi(predictor, [REQUEST, REQUEST], answer(predictor, [REQUEST, {**REQUEST, "sold": []}]))
