"""The kinds for rows of a table: rows by name, in order, as CSV and as tensors; each row by itself."""

from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from handlers.inputs.tables import Table
from handlers.kinds.tables import TablePredictor
from handlers.protocol.errors import RequestError
from handlers.runtime.golden import difference
from marina.engines.gateway.open_inference import model_metadata
from tests.support.answered import answer_to as answer
from tests.support.answered import check_openapi
from tests.support.table_models import AGE, PRESSURE, ROW, TABLE, as_csv, module_of, serve

KINDS = ("regressor", "tabular_classifier")


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TablePredictor]:
    return {kind: serve(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def computed(kind: str, row: dict[str, Any]) -> Any:
    """What the network says of a row."""
    features = torch.from_numpy(TABLE.encode(TABLE.read(row)))[None]
    with torch.inference_mode():
        return module_of(kind)(features)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_a_row_gets_the_same_answer(predictors: dict[str, TablePredictor], kind: str) -> None:
    """By name, in the columns' order, in a list, as CSV, in both protocols of KServe."""
    predictor = predictors[kind]
    alone = answer(predictor, ROW)
    expected = computed(kind, ROW)
    if kind == "regressor":
        assert alone["value"] == pytest.approx(float(expected), rel=1e-6)
        assert (alone["lower"], alone["upper"]) == (alone["value"] - 2.5, alone["value"] + 2.5)
    else:
        probabilities = {one["class"]: one["probability"] for one in alone["predictions"]}
        assert probabilities["ill"] == pytest.approx(float(expected.softmax(0)[1]), rel=1e-5)
    in_order = [ROW[name] for name in TABLE.names]
    assert not difference(alone, answer(predictor, in_order))
    assert not difference({"rows": [alone, alone]}, answer(predictor, [ROW, in_order]))
    for delimiter in ",;\t|":
        assert not difference(
            {"rows": [alone, alone]}, answer(predictor, as_csv(ROW, ROW, delimiter=delimiter))
        )
    assert not difference({"rows": [alone]}, answer(predictor, ("\ufeff" + as_csv(ROW)).encode()))
    assert not difference({"predictions": [alone, alone]}, answer(predictor, {"instances": [ROW, in_order]}))
    jsonschema.validate(ROW, predictor.request_schema())
    jsonschema.validate(in_order, predictor.request_schema())
    jsonschema.validate(alone, predictor.answer_schema())


def test_tensors_are_columns_or_one_matrix(predictors: dict[str, TablePredictor]) -> None:
    """In the Open Inference Protocol; the metadata lists a tensor per column."""
    predictor = predictors["regressor"]
    numbers = {"age": "FP64", "blood pressure": "FP32"}
    inputs = [
        {"name": name, "shape": [2], "datatype": numbers.get(name, "BYTES"), "data": [value, value]}
        for name, value in ROW.items()
    ]
    found = answer(predictor, {"inputs": inputs})
    assert [one["name"] for one in found["outputs"]] == ["value", "lower", "upper"]
    assert found["outputs"][0]["data"] == pytest.approx([float(computed("regressor", ROW))] * 2, rel=1e-6)
    predictor.export.__dict__["samples"] = [{"answer": answer(predictor, ROW)}]
    predictor.computing = {"runtime": "torch"}
    described = model_metadata(predictor, ["1.0"])
    assert [one["datatype"] for one in described["inputs"]] == ["FP64", "FP64", "BYTES", "BYTES", "BYTES"]


REFUSED = [
    ({"age": None}, "age is missing; send 0 to 120 years"),
    ({"age": float("nan")}, "age is nan; send 0 to 120 years"),
    ({"blood pressure": float("inf")}, "blood pressure is inf; send null for a missing value"),
    ({"blood pressure": 1e300}, "blood pressure is 1e\\+300, more than 1,000,000 times as far"),
    ({"blood pressure": 10**400}, "blood pressure is a number of more than 300 digits"),
    ({"age": 130}, "age is 130; it must be 0 to 120 years"),
    ({"age": "63"}, "age is '63'; it must be 0 to 120 years"),
    ({"age": True}, "age is true; it must be"),
    ({"age": [63]}, "age is a list; it must be"),
    ({"sex": "x"}, "sex is 'x', which the training rows don't have; it must be one of f, m"),
    ({"sex": "ff"}, "did you mean 'f'"),
    ({"since": "2021-02-30"}, r"since is '2021-02-30' \(day .*range.*\); it must be a date like 2024-03-31"),
    ({"since": "1999-12-31"}, "since is 1999-12-31, out of range; it must be a date like"),
    ({"since": "31.3.2024"}, "since is '31.3.2024'; it must be a date like"),
    ({"since": 20240331}, "since is 20240331; it must be a date"),
    ({"sez": "f"}, "there is no column 'sez'; did you mean 'sex'"),
    ({"height": 1.8}, "there is no column 'height'; the columns are age, blood pressure"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_bad_cell_is_named_by_its_column(
    predictors: dict[str, TablePredictor], change: dict[str, Any], words: str
) -> None:
    """With what to send instead; in a list of rows the neighbors are answered."""
    predictor = predictors["regressor"]
    bad = {**ROW, **change}
    with pytest.raises(RequestError, match=words):
        raise answer(predictor, bad)
    found = answer(predictor, [ROW, bad, ROW])["rows"]
    alone = answer(predictor, ROW)
    assert [found[0], found[2]] == [alone, alone]
    assert found[1]["error"]["code"] == 400
    with pytest.raises(RequestError, match=f"row 1: .*{words}"):
        raise answer(predictor, {"instances": [ROW, bad]})


def test_missing_cells_are_imputed_where_they_may_be(predictors: dict[str, TablePredictor]) -> None:
    """null, an empty cell of CSV, and what the spec says of missing values; a left out column is not."""
    predictor = predictors["regressor"]
    lacking = {**ROW, "blood pressure": None, "ward": None}
    alone = answer(predictor, lacking)
    assert alone["value"] == pytest.approx(float(computed("regressor", lacking)), rel=1e-6)
    assert alone != answer(predictor, {**ROW, "blood pressure": 118.0, "ward": "2"})
    for word in ("", "NA", "-999"):
        text = as_csv({**lacking, "blood pressure": word, "ward": word})
        assert not difference({"rows": [alone]}, answer(predictor, text))
    assert not difference(alone, answer(predictor, {**lacking, "blood pressure": -999}))
    assert answer(predictor, {**ROW, "ward": "9"}) != alone
    rest = {name: value for name, value in ROW.items() if name != "ward"}
    with pytest.raises(RequestError, match="the column 'ward' is left out; send one of 1, 2, 3, or null"):
        raise answer(predictor, rest)


def test_csv_that_is_none_is_refused_and_a_cut_off_line_alone(predictors: dict[str, TablePredictor]) -> None:
    """A line of other length is its own fault; a header that lacks, and no rows, are the request's."""
    predictor = predictors["regressor"]
    head, line = as_csv(ROW).splitlines()
    found = answer(predictor, f"{head}\n{line}\n63,1\n\n{line}\n")["rows"]
    assert "line 3 has 2 cells, the first line 5" in found[1]["error"]["message"]
    assert found[0] == found[2] == answer(predictor, ROW)
    for text, words in (
        (head, "at least one row below"),
        (f"{head},age\n{line},1", "names the columns, each once"),
        (f'{head}\n"63', "no CSV"),
        ("", "names the columns"),
        (b"age\n\xff", "no UTF-8"),
    ):
        with pytest.raises(RequestError, match=words):
            raise answer(predictor, text)


def test_a_million_rows_are_refused_by_the_limit(predictors: dict[str, TablePredictor]) -> None:
    """Before they are all read; ten thousand are answered, a batch at a time."""
    predictor = predictors["regressor"]
    head, line = as_csv(ROW).splitlines()
    refused = answer(predictor, "\n".join([head, *[line] * 1_000_000]))
    assert refused.status == 413
    assert "more than 10,000 rows in one request" in str(refused)
    assert len(answer(predictor, "\n".join([head, *[line] * 2_000]))["rows"]) == 2_000
    assert answer(predictor, [[1]] * 10_001).status == 413


@pytest.mark.parametrize("kind", KINDS)
def test_an_explanation_names_what_each_column_contributes(
    predictors: dict[str, TablePredictor], kind: str
) -> None:
    """Against the training rows' medians: of a linear network all contributions make up the difference."""
    predictor = predictors[kind]
    found = answer(predictor, ROW, explain="true")
    jsonschema.validate(found, predictor.explanation_schema())
    assert list(found["contributions"]) == TABLE.names
    assert found["baseline"]["sex"] == "f"
    assert answer(predictor, found["baseline"])["predictions" if kind != "regressor" else "value"]
    if kind == "regressor":
        total = sum(found["contributions"].values())
        assert total == pytest.approx(found["value"] - found["baseline_value"], abs=1e-4)
    unmoved = answer(predictor, found["baseline"], explain="true")
    assert np.allclose(list(unmoved["contributions"].values()), 0, atol=1e-6)
    listed = answer(predictor, [ROW, {**ROW, "age": None}], explain="true")["rows"]
    assert listed[0] == found
    assert "age is missing" in listed[1]["error"]["message"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_openapi_document_has_rows_and_csv(predictors: dict[str, TablePredictor], kind: str) -> None:
    """It is valid; a list of rows is a request, and answers with refusals beside them are answers to it."""
    reply = answer(predictors[kind], [ROW, {**ROW, "age": None}])
    check_openapi(predictors[kind], [ROW, ROW], reply)


def test_a_stream_has_an_event_for_each_row(predictors: dict[str, TablePredictor]) -> None:
    """Answers one after another; a bad row is an error event."""
    predictor = predictors["regressor"]
    text = as_csv(ROW, {**ROW, "age": 130}, ROW)
    stream = predictor.open_stream(({"body": text}, {}), "id")
    assert stream.total == 3
    items = [*predictor.advance([stream], 2)[0], *predictor.advance([stream], 2)[0]]
    assert [item.reply.status.value for item in items] == [200, 400, 200]
    assert b"row 1: age is 130" in items[1].reply.content


def test_numbers_may_come_as_one_matrix(tmp_path: Path) -> None:
    """In the Open Inference Protocol, a row per instance, in the columns' order."""
    predictor = serve(tmp_path, "regressor", Table((AGE, PRESSURE)))
    matrix = {"name": "rows", "shape": [2, 2], "datatype": "FP32", "data": [63, 130.5, 20, 118]}
    rows = [{"age": 63, "blood pressure": 130.5}, {"age": 20, "blood pressure": 118}]
    values = [one["value"] for one in answer(predictor, rows)["rows"]]
    found = answer(predictor, {"inputs": [matrix]})["outputs"][0]["data"]
    assert found == pytest.approx(values)
    with pytest.raises(RequestError, match="the row has 3 cells, and the columns are 2: age, blood pressure"):
        raise answer(predictor, {"inputs": [{**matrix, "shape": [1, 3], "data": [1, 2, 3]}]})
