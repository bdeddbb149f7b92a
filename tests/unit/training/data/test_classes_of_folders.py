"""Which classes a data folder has, and in which order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.data_folders import classes_folder, coco_folder, every, picture, said, voc_folder, write
from training.data import (
    ImageData,
    held_out_images,
    load_images,
    load_objects,
)
from training.data.class_order import class_order
from training.findings import Findings


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ([str(k) for k in range(12)], tuple(str(k) for k in range(12))),
        (["10", "9", "08"], ("08", "9", "10")),
        (["0.5", "-1", "+2"], ("-1", "0.5", "+2")),
        (["10", "9", "b"], ("10", "9", "b")),
    ],
)
def test_classes_that_are_all_numbers_are_in_numeric_order(names: list[str], order: tuple[str, ...]) -> None:
    assert class_order(names) == order


def numbered_voc(folder: Path) -> ImageData:
    voc_folder(folder, 24)
    for k, path in enumerate(sorted((folder / "Annotations").iterdir())):
        path.write_text(path.read_text().replace("thing", str(k % 12)))
    return load_objects(str(folder))


def numbered_labels(folder: Path) -> ImageData:
    labels = {picture(folder / f"{k}.png", k).name: str(k % 12) for k in range(24)}
    write(folder / "labels.json", labels)
    return held_out_images(str(folder))


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: load_images(str(classes_folder(folder, [str(k) for k in range(12)]))),
        lambda folder: held_out_images(str(classes_folder(folder, [str(k) for k in range(12)]))),
        numbered_voc,
        numbered_labels,
    ],
    ids=["folders", "held out", "voc", "labels.json"],
)
def test_every_reader_orders_numbered_classes_by_value(
    tmp_path: Path, read: Callable[[Path], ImageData]
) -> None:
    assert read(tmp_path).classes == tuple(str(k) for k in range(12))


@pytest.mark.parametrize(
    "category",
    [{"id": 0, "name": "things", "supercategory": "none"}, {"id": 0, "name": "_background_"}],
    ids=["supercategory", "background"],
)
def test_an_unused_category_0_is_no_class(tmp_path: Path, category: dict[str, Any]) -> None:
    content = coco_folder(tmp_path)
    content["categories"] = [category, {"id": 1, "name": "thing", "supercategory": "things"}]
    write(tmp_path / "instances.json", content)
    findings = Findings()
    data = load_objects(str(tmp_path), findings=findings)

    assert data.classes == ("thing",)
    assert {int(label) for example in every(data) for label in example.labels} == {0}
    left_out = "1 of 2 categories left out: no object is one, and the others are parts of it"
    assert f"{left_out}: 0 '{category['name']}'" in said(findings)


def test_other_classes_without_objects_stay_and_are_named(tmp_path: Path) -> None:
    content = coco_folder(tmp_path)
    content["categories"].append({"id": 2, "name": "rare"})
    write(tmp_path / "instances.json", content)
    findings = Findings()

    assert load_objects(str(tmp_path), findings=findings).classes == ("thing", "rare")
    assert "1 of 2 classes have no box in training: rare" in said(findings)
