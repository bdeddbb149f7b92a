"""A table with a column of every type, networks for it that learned nothing, and their predictors."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.inputs.columns import CategoryColumn, NumberColumn
from handlers.inputs.date_columns import DateColumn
from handlers.inputs.tables import Table
from handlers.kinds import predictor_of
from handlers.kinds.tables import TablePredictor
from handlers.runtime.export import Export
from handlers.runtime.runtimes import TorchRuntime
from marina.core import spec
from training.export.trained import Sample, Trained

AGE = NumberColumn(
    "age", "at the first visit", "years", minimum=0, maximum=120, mean=50, deviation=10, baseline=48.0
)
PRESSURE = NumberColumn("blood pressure", missing="impute", mean=120, deviation=15, baseline=118.0)
SEX = CategoryColumn("sex", values=("f", "m"), baseline="f")
WARD = CategoryColumn("ward", values=("1", "2", "3"), unknown="other", missing="impute", baseline="2")
SINCE = DateColumn(
    "since",
    minimum="2000-01-01",
    maximum="2030-12-31",
    parts=("elapsed", "weekday"),
    mean=18000,
    deviation=1000,
    baseline="2019-04-01",
)
TABLE = Table((AGE, PRESSURE, SEX, WARD, SINCE), frozenset(("", "NA", "-999")))
ROW: dict[str, Any] = {"age": 63, "blood pressure": 130.5, "sex": "m", "ward": "3", "since": "2021-02-28"}
CLASSES = ["well", "ill"]
POSTPROCESS: dict[str, dict[str, Any]] = {
    "regressor": {"type": "value", "half_width": 2.5, "coverage": 0.9, "unit": "points"},
    "tabular_classifier": {"type": "classification", "top_k": 2},
}


class Mixed(torch.nn.Module):
    """features [B, F] -> [B], or logits [B, 2]: each feature counts."""

    def __init__(self, outputs: int, table: Table) -> None:
        super().__init__()
        width = sum(column.width for column in table.columns)
        weights = torch.linspace(-1, 1, width * outputs).reshape(outputs, width)
        self.weights = torch.nn.Parameter(weights)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """One batch."""
        found = features @ self.weights.T
        return found[:, 0] if found.shape[1] == 1 else found


def module_of(kind: str, table: Table = TABLE) -> Mixed:
    return Mixed(1 if kind == "regressor" else 2, table).eval()


def serve(folder: Path, kind: str, table: Table = TABLE) -> TablePredictor:
    """A predictor of the toy; its files go to the empty `folder`."""
    files: dict[str, Any] = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": kind, "max_batch": 8},
        "preprocess_config": table.as_config(),
        "postprocess_config": POSTPROCESS[kind],
    }
    if kind != "regressor":
        files["class_mapping"] = {str(index): name for index, name in enumerate(CLASSES)}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    predictor = predictor_of(kind)
    assert isinstance(predictor, TablePredictor)
    predictor.configure(Export.open(folder))
    predictor.model = TorchRuntime(module_of(kind, table))
    return predictor


def trained(kind: str) -> Trained:
    """As a recipe would give it."""
    others = [{**ROW, "age": age, "ward": None} for age in (20, 90)]
    rows = [TABLE.read(row) for row in (ROW, *others)]
    features = torch.from_numpy(np.stack([TABLE.encode(row) for row in rows]))
    with torch.inference_mode():
        outputs = module_of(kind)(features)
    if kind == "regressor":
        expectations: list[dict[str, Any]] = [{"value": value} for value in outputs.tolist()]
    else:
        expectations = [{"class": CLASSES[index]} for index in outputs.argmax(1).tolist()]
    return Trained(
        kind=kind,
        module=module_of(kind),
        example=(features,),
        metrics={"accuracy": 1.0},
        preprocess=TABLE.as_config(),
        postprocess=POSTPROCESS[kind],
        samples=[
            Sample(f"row-{place}", json.dumps(TABLE.sent(row)).encode(), "application/json", expected)
            for place, (row, expected) in enumerate(zip(rows, expectations, strict=True))
        ],
        data={"name": "drawn"},
        classes=None if kind == "regressor" else CLASSES,
    )


def as_csv(*rows: dict[str, Any], delimiter: str = ",") -> str:
    """Rows as CSV with a header."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as a file with a header."""
    path.write_text(as_csv(*rows), encoding="utf-8")
    return path


def imported_spec(home: Path, kind: str, source: Path, **training: Any) -> spec.Spec:
    """The spec `toy` of an import with these settings, in `home`."""
    (home / "models").mkdir(exist_ok=True)
    content = {"recipe": f"imported_{kind}", "source": str(source), **training}
    text = f"# A toy.\nkind: {kind}\ntraining: {json.dumps(content)}\nexport: {{runtimes: [openvino]}}\n"
    (home / "models" / "toy.yaml").write_text(text)
    return spec.load("toy", home=home)
