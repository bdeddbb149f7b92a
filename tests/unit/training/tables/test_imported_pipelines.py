"""Pipelines of scikit-learn as regressors and classifiers: columns, answers, and what is not trusted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC

from handlers.protocol.errors import RequestError
from handlers.runtime.export import ONNX_PROGRAM, Export
from marina.core.errors import CallError
from marina.evaluation.measurement import in_process
from marina.kinds import regressor, tabular_classifier
from marina.kinds.kind import MeasurementOptions
from marina.pipeline.importing import detect_kind
from tests.support.table_models import as_csv, imported_spec
from training.train import train

pandas = pytest.importorskip("pandas", reason="pip install marina[sklearn]")
io = pytest.importorskip("skops.io", reason="pip install marina[sklearn]")
pytest.importorskip("skl2onnx", reason="pip install marina[sklearn]")

CLASSIFIERS = [
    LogisticRegression(max_iter=500),
    RandomForestClassifier(10, random_state=0),
    GradientBoostingClassifier(n_estimators=10, random_state=0),
    HistGradientBoostingClassifier(max_iter=10),
    MLPClassifier((8,), max_iter=20, random_state=0),
]
REGRESSORS = [
    Ridge(),
    RandomForestRegressor(10, random_state=0),
    GradientBoostingRegressor(n_estimators=10, random_state=0),
    HistGradientBoostingRegressor(max_iter=10),
]


def houses(count: int = 300) -> Any:
    """Rows with numbers, some missing or large, two kinds of categories, and a column that is dropped."""
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "age": rng.normal(40, 10, count).round(2),
            "income": rng.lognormal(13, 1, count).round(),
            "city": rng.choice(["rome", "oslo", "bonn"], count),
            "rooms": rng.integers(1, 6, count),
            "floor": rng.integers(0, 3, count),
            "note": rng.normal(size=count),
        }
    )
    table.loc[::17, "age"] = np.nan
    return table


def fitted(model: Any, is_class: bool) -> tuple[Pipeline, Any, np.ndarray]:
    """A pipeline of all sorts of columns, its rows, and the truths."""
    table = houses()
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
            ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
            ("floor", OrdinalEncoder(), ["floor"]),
            ("rooms", "passthrough", ["rooms"]),
        ]
    )
    value = 20 * (table.city == "rome") + 4 * table.rooms + table.income / 1e5 + table.floor
    truth = np.where(value > 30, "expensive", "cheap") if is_class else value.to_numpy()
    return Pipeline([("columns", columns), ("model", model)]).fit(table, truth), table, truth


def dumped(pipeline: Any, path: Path) -> tuple[Path, list[str]]:
    """The file of a pipeline, and the types that must be trusted."""
    io.dump(pipeline, path)
    return path, io.get_untrusted_types(file=path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [*CLASSIFIERS, *REGRESSORS], ids=lambda one: type(one).__name__)
def test_an_imported_pipeline_answers_like_scikit_learn(home: Path, model: Any) -> None:
    """Within 1e-5, with missing numbers and unknown categories; it is measured on a table of its columns."""
    is_class = hasattr(model, "predict_proba")
    kind = "tabular_classifier" if is_class else "regressor"
    pipeline, table, truth = fitted(model, is_class)
    path, types = dumped(pipeline, home / "toy.skops")
    score = pipeline.score(table, truth)
    rows = table.replace({np.nan: None}).to_dict("records")
    data = home / "rows.csv"
    data.write_text(as_csv(*({**row, "truth": one} for row, one in zip(rows, truth, strict=True))))
    made = imported_spec(home, kind, path, trusted_types=types, data=str(data), target="truth")
    export = Export.open(train(made))
    assert export.program.name == ONNX_PROGRAM
    types_found = {one["name"]: one["type"] for one in export.preprocess["columns"]}
    assert types_found == {
        "age": "number", "income": "number", "city": "category", "rooms": "number", "floor": "category"
    }  # fmt: skip
    predictor = made.predictor()
    predictor.load(export.folder)
    sent = [{name: row[name] for name in types_found} for row in rows[:40]]
    sent[3]["city"] = table.loc[3, "city"] = "paris"
    (found,) = predictor.answer_rows([({"body": sent}, {})])
    if is_class:
        expected = pipeline.predict_proba(table[:40])
        answers = [{one["class"]: one["probability"] for one in row["predictions"]} for row in found["rows"]]
        answered = np.array([[row["cheap"], row["expensive"]] for row in answers])
        assert np.abs(answered - expected).max() <= 1e-5
    else:
        expected = pipeline.predict(table[:40])
        answered = np.array([row["value"] for row in found["rows"]])
        assert (np.abs(answered - expected) / np.maximum(1, np.abs(expected))).max() <= 1e-5
    module = tabular_classifier if is_class else regressor
    measurement = module.KIND.measurement(made, MeasurementOptions())
    measured = measurement.run(in_process(made), iter, is_endpoint=False)
    name = "accuracy" if is_class else "r2"
    assert measured.metrics[name] == pytest.approx(export.metadata["metrics"][name], abs=1e-4)
    assert export.metadata["metrics"][name] == pytest.approx(score, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_rows_without_data_are_drawn_and_bad_cells_refused(home: Path) -> None:
    """Missing numbers only where the pipeline fills them; categories as they were learned."""
    pipeline, _, _ = fitted(Ridge(), False)
    path, types = dumped(pipeline, home / "toy.skops")
    made = imported_spec(
        home, "regressor", path, trusted_types=types, columns={"age": {"unit": "years", "minimum": 0}}
    )
    export = Export.open(train(made))
    assert export.metadata["metrics"] == {}
    assert export.metadata["training"]["estimator"] == "Pipeline"
    predictor = made.predictor()
    predictor.load(export.folder)
    good = {"age": None, "income": 2_000_000, "city": "oslo", "rooms": 2, "floor": 1}
    for change, words in (
        ({"rooms": None}, "rooms is missing; send a number"),
        ({"floor": 7}, "floor is '7', which the training rows don't have"),
        ({"age": -1}, "age is -1; it must be 0 or more years"),
        ({"income": float("nan")}, "income is nan"),
        ({"note": 1}, "there is no column 'note'"),
    ):
        (found,) = predictor.answer_rows([({"body": {**good, **change}}, {})])
        assert isinstance(found, RequestError), (change, found)
        assert words in str(found)
    (answer,) = predictor.answer_rows([({"body": good}, {})])
    assert list(answer) == ["value"]
    (why,) = predictor.answer_rows([({"body": good}, {"explain": "true"})])
    assert set(why["contributions"]) == set(good)


@pytest.mark.filterwarnings("ignore")
def test_arrays_without_names_are_numbered_columns(home: Path) -> None:
    """As a model that was fitted on numpy arrays takes them; one on a table, without steps, has its names."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 3))
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, rows[:, 0] > 0)
    path, types = dumped(model, home / "toy.skops")
    made = imported_spec(home, "tabular_classifier", path, trusted_types=types)
    export = Export.open(train(made))
    assert [one["name"] for one in export.preprocess["columns"]] == ["x0", "x1", "x2"]
    assert export.labels == ["False", "True"]
    table = pandas.DataFrame(rows, columns=["a", "b", "c"])
    alone = HistGradientBoostingRegressor(max_iter=5).fit(table, rows[:, 0])
    path, types = dumped(alone, home / "toy.skops")
    export = Export.open(train(imported_spec(home, "regressor", path, trusted_types=types)))
    columns = [(one["name"], one["missing"]) for one in export.preprocess["columns"]]
    assert columns == [("a", "impute"), ("b", "impute"), ("c", "impute")]


class Harmful:
    """What a file should not construct."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_read_without_trust(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are shown by their names, a pickle is refused, and neither runs."""
    import joblib

    monkeypatch.chdir(home)
    pipeline, _, _ = fitted(GradientBoostingRegressor(n_estimators=2), False)
    path, types = dumped(pipeline, home / "toy.skops")
    with pytest.raises(
        CallError, match=r"sklearn.tree._tree.Tree.*trust them: --set training.trusted_types="
    ):
        train(imported_spec(home, "regressor", path))
    with pytest.raises(CallError, match=r"not know to be harmless: sklearn\.tree\._tree\.Tree\. "):
        train(
            imported_spec(home, "regressor", path, trusted_types=[one for one in types if "Tree" not in one])
        )
    joblib.dump(Harmful(), home / "toy.joblib")
    with pytest.raises(
        CallError, match="is a pickle, and reading it could run any code; save the pipeline with"
    ):
        train(imported_spec(home, "regressor", home / "toy.joblib"))
    assert not (home / "harmed").exists()
    joblib.dump(pipeline, home / "toy.joblib")
    assert train(imported_spec(home, "regressor", home / "toy.joblib", trust_pickle=True)).is_dir()


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_such_pipeline_is_refused_by_name(home: Path) -> None:
    """Another kind, no probabilities, no estimator, no file of skops, data without a target."""
    rows = np.random.default_rng(0).normal(size=(60, 2))
    (home / "none.skops").write_bytes(b"no zip")
    (home / "rows.csv").write_text("x0,x1\n1,2\n")
    for model, kind, more, words in (
        (Ridge().fit(rows, rows[:, 0]), "tabular_classifier", {}, "import it with --kind regressor"),
        (LogisticRegression().fit(rows, rows[:, 0] > 0), "regressor", {}, "with --kind tabular_classifier"),
        (LinearSVC().fit(rows, rows[:, 0] > 0), "tabular_classifier", {}, "LinearSVC has no probabilities"),
        (StandardScaler().fit(rows), "regressor", {}, "holds a StandardScaler, and no fitted estimator"),
        (Ridge().fit(rows, rows[:, 0]), "regressor", {"columns": {"z": {}}}, "the pipeline takes no 'z'"),
        (Ridge().fit(rows, rows[:, 0]), "regressor", {"data": "rows.csv"}, "data needs a target"),
    ):
        path, types = dumped(model, home / "toy.skops")
        with pytest.raises(CallError, match=words):
            train(imported_spec(home, kind, path, trusted_types=types, **more))
    with pytest.raises(CallError, match="can't be read by skops"):
        train(imported_spec(home, "regressor", home / "none.skops"))
    with pytest.raises(CallError, match="--kind regressor or --kind tabular_classifier"):
        detect_kind(str(home / "toy.skops"), {}, False)
