"""Classifiers of several labels per picture: layouts, learning, serving, measuring."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from handlers.protocol.requests import Instance
from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import CallError
from marina.evaluation.measurement import in_process
from marina.kinds.classifier import KIND
from marina.kinds.kind import MeasurementOptions
from training.data import held_out_labels, load_labels
from training.data.several_labels import Row
from training.findings import Findings
from training.train import train
from training.vision.classification import several
from training.vision.classification.learner import Learner, balanced_weights
from training.vision.classification.settings import ClassifierSettings

COLORS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}


def picture(labels: list[str], seed: int) -> Image.Image:
    """A grey picture with a square of each color that it has."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 150, (32, 32, 3), np.uint8)
    for name in labels:
        top, left = rng.integers(0, 22, 2)
        pixels[top : top + 10, left : left + 10] = COLORS[name]
    return Image.fromarray(pixels)


def write_pictures(folder: Path, count: int = 120) -> list[Row]:
    rows = []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        labels = [name for k, name in enumerate(COLORS) if number >> k & 1]
        picture(labels, number).save(folder / "images" / f"{number:03}.png")
        rows.append(Row(f"images/{number:03}.png", tuple(labels)))
    return rows


def write_separated(folder: Path, rows: list[Row]) -> dict[str, Any]:
    lines = [["path", "labels"], *([row.name, ";".join(row.labels)] for row in rows)]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return {"label_separator": ";"}


def write_columns(folder: Path, rows: list[Row]) -> dict[str, Any]:
    lines = [["file", *COLORS], *([row.name, *(int(name in row.labels) for name in COLORS)] for row in rows)]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return {}


def write_json(folder: Path, rows: list[Row]) -> dict[str, Any]:
    content = {row.name: list(row.labels) for row in rows}
    (folder / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    return {}


def write_parquet(folder: Path, rows: list[Row]) -> dict[str, Any]:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"path": [row.name for row in rows], "labels": [list(row.labels) for row in rows]}
    parquet.write_table(arrow.table(table), folder / "labels.parquet")
    return {}


def write_coco(folder: Path, rows: list[Row]) -> dict[str, Any]:
    names = list(COLORS)
    objects = [(number, names.index(name)) for number, row in enumerate(rows) for name in row.labels]
    content = {
        "images": [{"id": number, "file_name": Path(row.name).name} for number, row in enumerate(rows)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": number, "category_id": name + 1, "bbox": [1, 1, 9, 9]}
            for k, (number, name) in enumerate(objects)
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return {}


WRITERS = [write_separated, write_columns, write_json, write_parquet, write_coco]


@pytest.mark.parametrize("write", WRITERS)
def test_every_layout_says_the_same(tmp_path: Path, write: Any) -> None:
    rows = write_pictures(tmp_path, 40)
    separator = write(tmp_path, rows).get("label_separator")

    data = load_labels(str(tmp_path), separator=separator)

    assert data.classes == tuple(COLORS)
    found = {
        one.file.name: tuple(data.classes[label] for label in one.labels)
        for one in (*data.train, *data.validation, *data.test)
        if one.file
    }
    assert found == {Path(row.name).name: row.labels for row in rows}
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 6, 6)
    assert len(held_out_labels(str(tmp_path), separator=separator).test) == 40


def test_splits_of_a_table_are_kept_and_bad_rows_named(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path, 40)
    lines = ["path,labels,split"]
    for number, row in enumerate(rows):
        lines.append(
            f"{row.name},{'|'.join(row.labels)},{('train', 'train', 'val', 'test')[number // 8 % 4]}"
        )
    lines += ["images/gone.png,red,train", f"{rows[1].name},red|green,train", f"{rows[2].name},red,later"]
    (tmp_path / "images" / "000.png").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    findings = Findings()

    data = load_labels(str(tmp_path), findings=findings, separator="|")

    assert (len(data.train), len(data.validation), len(data.test)) == (23, 8, 8)
    said = "; ".join(map(str, findings))
    for finding in (
        "left out: there is no such file: images/gone.png",
        "named twice, with other labels or another split: the first one counts: images/001.png",
        "no file, no split or an unknown one: images/002.png",
        "1 of 40 pictures left out: the file is no image",
        "have no label and are kept",
    ):
        assert finding in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,red,green\nimages/000.png,1,maybe\n",
            "line 2: the column 'green' has 'maybe', neither 0 nor 1",
        ),
        ("name,red\nimages/000.png,1\n", "call one 'path'"),
        ("path,labels\nimages/000.png,red\nimages/001.png,red\n", "has 2 picture\\(s\\); 3 at least"),
        ("path,labels\n", "names no picture"),
    ],
)
def test_tables_that_can_not_be_learned_from(tmp_path: Path, text: str, message: str) -> None:
    write_pictures(tmp_path, 8)
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")

    with pytest.raises(CallError, match=message):
        load_labels(str(tmp_path))


@pytest.mark.parametrize(
    "told",
    [{"mixup": True}, {"class_balance": "sampling"}, {"operating_point": {"class": "red", "recall": 0.9}}],
)
def test_settings_of_one_label_are_refused(home: Path, told: dict[str, Any]) -> None:
    model = write_spec(home, {"data": "digits", "several_labels": True, **told})

    with pytest.raises(CallError, match="is for one label per picture"):
        train(model)


def test_thresholds_come_from_validation_and_metrics_from_test() -> None:
    """The second label is found from a low probability on: 0.5 would miss it."""
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    logits = torch.tensor([[2.0, -3.0], [-2.0, -1.0], [3.0, -1.5], [-3.0, -4.0]])
    wrong = truth.clone()
    wrong[0] = torch.tensor([0.0, 1.0])

    found = several.assess(nn.Identity(), TensorDataset(logits, truth), TensorDataset(logits, wrong))

    assert found.thresholds[0] > 0.4 > found.thresholds[1] > 0.05
    assert torch.equal(found.answers, truth)
    assert found.metrics["exact_match"] == 0.75
    assert found.metrics["micro_f1"] == pytest.approx(2 * 3 / 8)
    assert found.is_right.tolist() == [False, True, True, True]


def test_a_learner_counts_each_decision_and_balances_labels() -> None:
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])

    weights = balanced_weights(labels, 2)
    learner = Learner(nn.Linear(2, 2), [], ClassifierSettings(), class_weights=weights, has_several=True)

    assert weights.tolist() == pytest.approx([1 / 3, 3.0])
    assert float(learner._right(torch.tensor([[1.0, 1.0]]), labels[:1])) == 0.5
    expected = (weights[0] * math.log(2) + math.log(2)) / 2
    assert float(learner.loss(torch.zeros(1, 2), labels[:1])) == pytest.approx(float(expected))
    assert learner.merit({"validation_accuracy": 0.9, "validation_loss": 2.0}) == (0.0, -2.0)


def write_spec(home: Path, training: dict[str, Any]) -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    text = f"# A toy.\nkind: classifier\ntraining: {json.dumps({'recipe': 'classifier', **training})}\n"
    text += "export: {runtimes: []}\nfloor: {macro_f1: 0.9, mean_average_precision: 0.9}\n"
    (home / "models" / "toy.yaml").write_text(text, encoding="utf-8")
    return spec.load("toy", home=home)


@pytest.mark.slow
def test_labels_are_learned_exported_served_and_measured(home: Path) -> None:
    """The same metrics come back through the served predictor; explanations are of one label."""
    folder = home / "colors"
    told = write_separated(folder, write_pictures(folder, 240))
    small = {"image_size": 32, "resize": "stretch", "epochs": 12, "learning_rate": 0.01, "batch_size": 16}
    model = write_spec(home, {"data": str(folder), "class_balance": "weights", **small, **told})

    export = Export.open(train(model))

    metrics = export.metadata["metrics"]
    assert metrics["exact_match"] > 0.8
    rows = json.loads((export.folder / "report" / "classes.json").read_text())
    assert [row["class"] for row in rows] == list(COLORS)
    names = {path.name for path in (export.folder / "report").iterdir()}
    assert {"curves.png", "precision_recall.png", "mistakes.png", "classes.json", "history.json"} <= names
    measurement = KIND.measurement(model, MeasurementOptions())
    measured = measurement.run(in_process(model), iter, is_endpoint=False)
    for name in ("micro_f1", "exact_match"):
        assert measured.metrics[name] == pytest.approx(metrics[name])
    shutil.copytree(folder, home / "other")
    elsewhere = KIND.measurement(model, MeasurementOptions(data=str(home / "other")))
    assert (elsewhere.is_recorded, len(elsewhere.images.test)) == (False, 240)
    predictor = model.predictor()
    assert predictor.load(model.export_dir) == len(export.samples) > 0
    body = (folder / "images" / "003.png").read_bytes()
    (answer,) = predictor.answer_rows([({"body": body}, {})])
    assert answer["labels"] == ["blue", "green"]
    assert len(answer["predictions"]) == 3
    instance = Instance(body, {"class_index": 2})
    item = predictor.decode_whole(instance)
    explained = predictor.explanation(item, predictor.preprocess(item, instance))
    assert explained["class"] == "red"
    assert explained["probability"] < 0.5
    assert KIND.summarize(answer) == "blue, green"
    assert KIND.same_decision(answer, answer)
    assert not KIND.same_decision(answer, {**answer, "labels": ["red"]})
