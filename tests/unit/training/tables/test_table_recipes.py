"""Regressors and classifiers of rows: learned from tables, exported, and served as they were measured."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.inputs.tables import Table
from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import BelowFloor, CallError
from marina.kinds.kind import MeasurementOptions
from marina.kinds.regressor import KIND as REGRESSOR
from marina.kinds.tabular_classifier import KIND as CLASSIFIER
from tests.support.answered import answers_of
from tests.support.table_models import as_csv, write_csv
from training.findings import Findings
from training.recipes import regressor, tabular_classifier
from training.runs.run import Run
from training.tables.preparation import prepare
from training.train import train

COLUMNS: dict[str, Any] = {
    "age": {"type": "number", "minimum": 0, "unit": "years"},
    "pressure": "number",
    "ward": {"type": "category", "unknown": "other", "min_count": 5, "embedding": 2},
    "sex": "category",
    "since": {"type": "date", "parts": ["elapsed", "month"]},
}
TRAINING: dict[str, Any] = {
    "columns": COLUMNS,
    "hidden": [32],
    "epochs": 25,
    "batch_size": 32,
    "learning_rate": 0.02,
    "compare": False,
}


RARE = {"type": "category", "unknown": "other", "min_count": 500}


def rows(count: int = 400) -> list[dict[str, Any]]:
    """A score that age, pressure, ward and time make up; some pressures are missing."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        age, pressure, days = rng.uniform(20, 90), rng.normal(120, 15), int(rng.integers(0, 2000))
        ward, sex = "abcd"[rng.integers(4)], "fm"[rng.integers(2)]
        score = age + pressure / 2 + days / 50 + {"a": 0, "b": 10, "c": 20, "d": 30}[ward] + rng.normal()
        made.append(
            {
                "age": round(age, 2),
                "pressure": "" if number % 20 == 0 else round(pressure, 2),
                "ward": ward if number % 50 else f"rare {number}",
                "sex": sex,
                "since": (datetime.date(2015, 1, 1) + datetime.timedelta(days)).isoformat(),
                "score": round(score, 3),
                "state": "ill" if score > 150 else "well",
            }
        )
    return made


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("tables") / "patients.csv", rows())


def write(home: Path, kind: str, training: dict[str, Any], more: str = "") -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    text = f"# A toy.\nkind: {kind}\ntraining: {json.dumps({'recipe': kind, **training})}\n"
    text += f"export: {{runtimes: []}}\n{more}"
    (home / "models" / "toy.yaml").write_text(text, encoding="utf-8")
    return spec.load("toy", home=home)


@pytest.mark.parametrize(
    ("kind", "target", "floor", "tool"),
    [
        ("regressor", "score", "r2: 0.9", REGRESSOR),
        ("tabular_classifier", "state", "accuracy: 0.85", CLASSIFIER),
    ],
)
def test_a_table_is_learned_exported_and_measured_again(
    tmp_path: Path, table: Path, kind: str, target: str, floor: str, tool: Any
) -> None:
    """Every type of column, missing cells and rare categories; `marina evaluate` measures the same rows."""
    made = write(tmp_path, kind, {**TRAINING, "data": str(table), "target": target}, f"floor: {{{floor}}}\n")
    export = Export.open(train(made))
    fitted = Table.from_config(export.preprocess)
    assert [column.missing for column in fitted.columns] == ["error", "impute", "error", "error", "error"]
    assert export.metadata["data"]["test"] == 60
    predictor = made.predictor()
    assert predictor.load(made.export_dir) == len(export.samples) > 0
    measurement = tool.measurement(made, MeasurementOptions())
    answer = answers_of(predictor)
    measured = measurement.run(answer, iter, is_endpoint=False)
    for name, value in measured.metrics.items():
        assert value == pytest.approx(export.metadata["metrics"][name], abs=1e-4)
    assert measurement.compare(measured, measured)["rows"] == 60
    (tmp_path / "other.csv").write_bytes(table.read_bytes())
    elsewhere = tool.measurement(made, MeasurementOptions(data=str(tmp_path / "other.csv")))
    assert len(elsewhere.values) == 400
    row = {"age": 50, "pressure": None, "ward": "never seen", "sex": "f", "since": "2016-05-01"}
    (found,) = answer([(json.dumps(row).encode(), "")], {})
    if kind == "regressor":
        assert found["lower"] < found["value"] < found["upper"]
        assert export.metadata["metrics"]["coverage"] > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [regressor, tabular_classifier])
def test_the_report_has_other_models_and_the_columns_beside(tmp_path: Path, table: Path, recipe: Any) -> None:
    """Trees and a linear model on the same test rows; the columns that the score is made of matter most."""
    is_class = recipe is tabular_classifier
    content = {**TRAINING, "compare": True, "folds": 3, "epochs": 10}
    settings = recipe.Settings(**content, data=str(table), target="state" if is_class else "score")
    trained = recipe.train(settings, Run(tmp_path))
    assert list(trained.training["importance"])[-1] == "sex"
    assert next(iter(trained.training["importance"].values())) > 0.05
    linear = "logistic regression" if is_class else "ridge"
    assert list(trained.training["beside"]) == ["gradient-boosted trees", linear]
    assert trained.training["beside"][linear]["accuracy" if is_class else "r2"] > 0.8
    assert trained.metrics["cv_accuracy" if is_class else "cv_r2"] > 0.75
    if not is_class:
        assert 0.7 < trained.metrics["cv_coverage"] <= 1
    own = {"confusion", "boundary"} if is_class else {"residuals"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {"curves", "importance", "comparison", *own}


def test_training_encodes_as_serving_does(table: Path) -> None:
    """The features of every test row are those of the same row as a request, as CSV too."""
    settings = regressor.Settings(data=str(table), target="score", **TRAINING)
    prepared = prepare(settings, Findings(), 0)
    served = Table.from_config(json.loads(json.dumps(prepared.table.as_config())))
    for features, values in zip(
        prepared.splits["test"].features, prepared.splits["test"].values, strict=True
    ):
        sent = json.loads(json.dumps(prepared.table.sent(values)))
        assert np.array_equal(served.encode(served.read(sent)), features.numpy())


def test_columns_are_fitted_on_the_training_rows_alone(tmp_path: Path) -> None:
    """Rows of other splits change no mean; a category that only they have is refused as a request's is."""
    every = [{**row, "split": "test" if place < 100 else "train"} for place, row in enumerate(rows())]
    for row in every[:100]:
        row["age"] = 500 + float(row["age"])
    every[0]["sex"] = "x"
    (tmp_path / "data.csv").write_text(as_csv(*every), encoding="utf-8")
    settings = regressor.Settings(
        data=str(tmp_path / "data.csv"), target="score", split_column="split", **TRAINING
    )
    findings = Findings()
    prepared = prepare(settings, findings, 0)
    train_ages = [values[0] for values in prepared.splits["train"].values]
    age = prepared.table.columns[0]
    assert age.as_config()["mean"] == pytest.approx(np.mean(train_ages))
    assert max(train_ages) < 100
    assert len(prepared.splits["test"]) == 99
    assert "data.csv row 1: sex is 'x', which the training rows don't have" in str(next(iter(findings)))


def test_bad_rows_are_findings_that_name_row_and_column(tmp_path: Path) -> None:
    """They are left out; a strict run refuses them."""
    every = rows()
    every[3]["age"] = "old"
    every[4]["since"] = "2015-02-30"
    every[5]["score"] = ""
    every[6]["age"] = -1
    text = as_csv(*every) + "1,2\n"
    (tmp_path / "data.csv").write_text(text, encoding="utf-8")
    settings = regressor.Settings(data=str(tmp_path / "data.csv"), target="score", **TRAINING)
    findings = Findings()
    prepared = prepare(settings, findings, 0)
    (found,) = findings.as_json()
    assert (found["count"], found["of"]) == (5, 401)
    examples = "\n".join(found["examples"])
    for words in (
        "row 4: age is 'old'",
        "row 5: since is '2015-02-30'",
        "row 6: score is missing",
        "row 7: age is -1; it must be 0 or more years",
        "row 401: line 402 has 2 cells",
    ):
        assert words in examples
    assert sum(map(len, prepared.splits.values())) == 396
    with pytest.raises(CallError, match="strict: 5 of 401 rows left out: a cell can't be read"):
        regressor.train(settings, Run(tmp_path, findings=Findings(strict=True)))


def parquet(folder: Path, made: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet_module = pytest.importorskip("pyarrow.parquet")
    plain = [
        {**row, "pressure": row["pressure"] or None, "since": datetime.date.fromisoformat(row["since"])}
        for row in made
    ]
    path = folder / "patients.parquet"
    parquet_module.write_table(pyarrow.Table.from_pylist(plain), path)
    return path


def separate(folder: Path, made: list[dict[str, Any]]) -> Path:
    (folder / "train.tsv").write_text(as_csv(*made[:300], delimiter="\t"), encoding="utf-8")
    (folder / "test.tsv").write_text(as_csv(*made[300:], delimiter="\t"), encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", [parquet, separate])
def test_every_form_of_a_table_is_read_alike(
    tmp_path: Path, table: Path, form: Callable[[Path, list[dict[str, Any]]], Path]
) -> None:
    """Parquet has typed cells, a folder a file per split."""
    path = form(tmp_path, rows())
    for recipe, target in ((regressor, "score"), (tabular_classifier, "state")):
        settings = recipe.Settings(data=str(path), target=target, **TRAINING)
        found = prepare(settings, Findings(), 0)
        same = prepare(settings.model_copy(update={"data": str(table)}), Findings(), 0)
        if path.is_file():
            assert found.table == same.table
            assert (found.splits["test"].features == same.splits["test"].features).all()
        else:
            assert len(found.splits["test"]) == 100
            assert len(found.splits["validation"]) == 45


@pytest.mark.parametrize("data", ["sklearn:diabetes", "sklearn:breast_cancer", "sklearn:wine"])
def test_bundled_data_knows_columns_and_target(data: str) -> None:
    """Nothing but its name is needed; classes have their shares in every split."""
    settings = (regressor if data.endswith("diabetes") else tabular_classifier).Settings(data=data)
    prepared = prepare(settings, Findings(), 0)
    assert prepared.raw.licence
    if prepared.classes:
        shares = [np.bincount(part.targets.numpy()) / len(part) for part in prepared.splits.values()]
        assert np.ptp(shares, axis=0).max() < 0.05


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "scores"}, "target: no column 'scores' to learn; it has age, pressure, ward"),
        ({"target": None}, "target: name the column to learn"),
        ({"columns": {}}, r"columns: say what .* columns: \{age: number, .*ward: category, .*since: date"),
        ({"columns": {"height": "number"}}, "columns: .* has no height; it has age"),
        ({"columns": {"score": "number"}}, "columns: score is the target"),
        ({"columns": {"sex": "number"}}, "0 of 400 rows can be read.*sex is '.'; it must be a number"),
        ({"data": "nothing.csv"}, "no such file or folder"),
        ({"data": "sklearn:iris"}, "known: diabetes, breast_cancer, wine"),
        ({"split_column": "fold"}, "no column 'fold' for the split"),
        ({"split_column": "state"}, "no row is of the split train"),
        ({"coverage": 0.999}, "coverage: 0.999 needs 999 rows that nothing is learned from"),
        ({"columns": {"ward": RARE}}, "no category of 500"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_table_are_refused(
    tmp_path: Path, table: Path, change: dict[str, Any], words: str
) -> None:
    """With what the table has, before or right after something is learned."""
    content = {**TRAINING, "data": str(table), "target": "score", "epochs": 1, **change}
    with pytest.raises(CallError, match=words):
        regressor.train(regressor.Settings(**content), Run(tmp_path))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"type": "text"}, "'number', 'category' or 'date'"),
        ({"type": "number", "values": ["a"]}, "values is a key of category columns, not of number"),
        ({"type": "category", "minimum": 1}, "minimum is a key of number and date columns"),
        ({"type": "number", "minimum": "low"}, "must be numbers, not 'low'"),
        ({"type": "date", "maximum": "soon"}, "Invalid isoformat"),
        (
            {"type": "number", "unkown": "error"},
            "unknown key 'columns.age.unkown'; known here: type, desc",
        ),
    ],
)
def test_a_column_that_can_not_be_is_refused_by_its_key(
    tmp_path: Path, column: dict[str, Any], words: str
) -> None:
    """When the spec is read."""
    made = write(tmp_path, "regressor", {"data": "x.csv", "columns": {"age": column}}, "floor: {r2: 0}\n")
    with pytest.raises(CallError, match=words):
        train(made)


def test_a_missed_floor_exports_nothing(tmp_path: Path, table: Path) -> None:
    """As for every recipe."""
    made = write(
        tmp_path,
        "regressor",
        {**TRAINING, "data": str(table), "target": "score", "epochs": 1},
        "floor: {r2: 0.99}\n",
    )
    with pytest.raises(BelowFloor, match="r2"):
        train(made)
    assert not made.is_exported


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        *(("regressor", {"loss": loss}) for loss in ("mae", "huber", "mape")),
        *(("tabular_classifier", {"loss": loss}) for loss in ("bce", "hinge")),
        *(("regressor", {"optimizer": name}) for name in ("adam", "nadam", "rmsprop", "sgd")),
        ("regressor", {"network": "linear", "l1": 1e-3, "l2": 1e-3}),
        ("regressor", {"network": "rbf", "centers": 24}),
        ("tabular_classifier", {"network": "rbf", "activation": "gelu"}),
        ("regressor", {"dropout": 0.1, "activation": "tanh"}),
    ],
)
def test_every_loss_network_and_optimizer_learns(
    tmp_path: Path, table: Path, recipe: str, settings: dict[str, Any]
) -> None:
    """By name; each does clearly better than the mean or the most frequent class."""
    module = {"regressor": regressor, "tabular_classifier": tabular_classifier}[recipe]
    target = "score" if recipe == "regressor" else "state"
    content = {**TRAINING, "data": str(table), "target": target, "epochs": 12, **settings}
    trained = module.train(module.Settings(**content), Run(tmp_path))
    if recipe == "regressor":
        assert trained.metrics["r2"] > 0.5
    else:
        assert trained.metrics["auroc"] > 0.85


@pytest.mark.slow
def test_an_elastic_net_makes_weights_small(tmp_path: Path, table: Path) -> None:
    """The sum of the weights falls as the penalty rises."""
    sums = []
    for penalty in (0.0, 0.05):
        content = {**TRAINING, "data": str(table), "target": "score", "network": "linear", "epochs": 10}
        trained = regressor.train(regressor.Settings(**content, l1=penalty), Run(tmp_path))
        sums.append(sum(one.abs().sum() for name, one in trained.module.named_parameters() if "1." in name))
    assert sums[1] < 0.8 * sums[0]
