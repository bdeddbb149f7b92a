"""ONNX graphs as regressors and classifiers of rows: a matrix, or an input per column; intervals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from handlers.runtime.export import ONNX_PROGRAM, Export
from marina.core.errors import CallError
from tests.support.table_models import as_csv, imported_spec
from training.recipes import imported_regressor, imported_tabular_classifier
from training.runs.run import Run
from training.tables.onnx_tables import OnnxTable
from training.train import train

pandas = pytest.importorskip("pandas", reason="pip install marina[sklearn]")
skl2onnx = pytest.importorskip("skl2onnx", reason="pip install marina[sklearn]")
types = pytest.importorskip("skl2onnx.common.data_types")


def converted(model: Any, path: Path, inputs: list[tuple[str, Any]], **options: Any) -> Path:
    made = skl2onnx.to_onnx(model, initial_types=inputs, target_opset={"": 18, "ai.onnx.ml": 3}, **options)
    path.write_bytes(made.SerializeToString())
    return path


def matrix(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 3)).astype(np.float32)
    return rows, rows @ np.array([2.0, -1, 0.5]) + rng.normal(size=count) * 0.5


def written(path: Path, rows: np.ndarray, truth: np.ndarray) -> str:
    """A table of the columns a, b, c and y."""
    lines = [
        dict(zip("abcy", (*row, value), strict=True)) for row, value in zip(rows.tolist(), truth, strict=True)
    ]
    path.write_text(as_csv(*lines))
    return str(path)


def test_a_matrix_is_served_by_its_columns_with_an_interval(home: Path) -> None:
    """Names come from the spec; rows that nothing was learned from calibrate, others measure."""
    rows, truth = matrix(300)
    inputs = [("X", types.FloatTensorType([None, 3]))]
    model = make_pipeline(StandardScaler(), Ridge()).fit(rows, truth)
    path = converted(model, home / "toy.onnx", inputs)
    about = {"a": {"unit": "m", "minimum": -9}, "b": {}, "c": {}}
    made = imported_spec(
        home,
        "regressor",
        path,
        columns=about,
        target="y",
        data=written(home / "test.csv", *matrix(400, 1)),
        calibration=written(home / "held_out.csv", *matrix(200, 2)),
    )
    export = Export.open(train(made))
    assert export.program.name == ONNX_PROGRAM
    metrics = export.metadata["metrics"]
    assert metrics["coverage"] == pytest.approx(0.9, abs=0.05)
    assert metrics["interval_width"] == pytest.approx(2 * 1.645 * 0.5, rel=0.2)
    predictor = made.predictor()
    predictor.load(export.folder)
    body = {"a": 0.5, "b": -1.0, "c": 2.0}
    (found,) = predictor.answer_rows([({"body": body}, {})])
    assert found["value"] == pytest.approx(float(model.predict(np.array([[0.5, -1, 2]]))[0]), abs=1e-5)
    assert found["lower"] == pytest.approx(found["value"] - metrics["interval_width"] / 2)
    (refused,) = predictor.answer_rows([({"body": {**body, "a": -10}}, {})])
    assert "a is -10; it must be -9 or more m" in str(refused)


@pytest.mark.parametrize("zipped", [False, True])
def test_inputs_by_column_are_numbers_and_categories(home: Path, zipped: bool) -> None:
    """Also where probabilities come as dictionaries; the classes are the graph's."""
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "age": rng.normal(40, 10, 300).astype("f4"),
            "city": rng.choice(["rome", "oslo"], 300),
            "floor": rng.integers(1, 4, 300),
        }
    )
    truth = np.where((table.age > 40) ^ (table.city == "rome"), "yes", "no")
    columns = ColumnTransformer(
        [
            ("age", StandardScaler(), ["age"]),
            ("city", OneHotEncoder(), ["city"]),
            ("floor", OrdinalEncoder(), ["floor"]),
        ]
    )
    model = Pipeline([("columns", columns), ("model", LogisticRegression())]).fit(table, truth)
    one = [None, 1]
    inputs = [
        ("age", types.FloatTensorType(one)),
        ("city", types.StringTensorType(one)),
        ("floor", types.Int64TensorType(one)),
    ]
    path = converted(model, home / "toy.onnx", inputs, **({} if zipped else {"options": {"zipmap": False}}))
    about = {"city": {"values": ["rome", "oslo"]}, "floor": {"values": [1, 2, 3]}}
    settings = imported_tabular_classifier.Settings(source=str(path), columns=about)
    trained = imported_tabular_classifier.train(settings, Run(home))
    assert trained.classes == ["no", "yes"]
    assert [one["type"] for one in trained.preprocess["columns"]] == ["number", "category", "category"]
    expected = model.predict(table[:64])
    assert len(trained.samples) > 30
    graph = OnnxTable(path, settings.columns, True, ())
    cells = table[:64].astype(object).assign(floor=table.floor.astype(str)).to_numpy().tolist()
    found = graph.answers(cells)
    np.testing.assert_allclose(found, model.predict_proba(table[:64]), atol=1e-6)
    assert (np.array(["no", "yes"])[found.argmax(1)] == expected).all()


def test_graphs_that_do_not_fit_are_refused(home: Path) -> None:
    """By what to say or to convert instead."""
    rows, truth = matrix(60)
    number = [("X", types.FloatTensorType([None, 3]))]
    value = converted(Ridge().fit(rows, truth), home / "value.onnx", number)
    classes = LogisticRegression().fit(rows, truth > 0)
    label = converted(classes, home / "classes.onnx", number, options={"zipmap": False})
    whole = converted(
        Ridge().fit(rows, truth), home / "whole.onnx", [("X", types.Int64TensorType([None, 3]))]
    )
    for source, changes, words in (
        (value, {"columns": {"a": {}}}, "takes 3 columns, and columns names 1"),
        (value, {"columns": {"a": {"values": ["x"]}, "b": {}, "c": {}}}, "takes numbers as 'a'"),
        (label, {}, "import with --kind tabular_classifier"),
        (whole, {}, "takes whole numbers as 'X_0'; say which there are"),
    ):
        settings = imported_regressor.Settings(source=str(source), **changes)
        with pytest.raises(CallError, match=words):
            imported_regressor.train(settings, Run(home))
    settings = imported_tabular_classifier.Settings(source=str(value))
    with pytest.raises(CallError, match="a classifier gives a probability per class"):
        imported_tabular_classifier.train(settings, Run(home))
    with pytest.raises(ValueError, match="coverage needs calibration"):
        imported_regressor.Settings(source="x", coverage=0.8)
    with pytest.raises(ValueError, match="must be different rows"):
        imported_regressor.Settings(source="x", data="a.csv", calibration="a.csv")
