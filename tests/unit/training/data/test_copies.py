"""Byte-equal copies stay in one split and are counted."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from marina.core.errors import CallError
from tests.support.data_folders import classes_folder, coco_folder, picture, read_apart, said, voc_folder
from training.data import (
    load_images,
    load_objects,
    medmnist,
)
from training.findings import Findings


def test_copies_stay_in_one_split_and_are_counted(tmp_path: Path) -> None:
    """Ten copies of each of eight pictures: none is on two sides, whatever the seed."""
    for name in ("cat", "dog"):
        for original in range(8):
            for copy in range(10):
                picture(tmp_path / name / f"{original}_{copy}.png", 100 * (name == "dog") + original)
    for data, lines in read_apart(load_images, tmp_path):
        assert all(
            {example.label for example in part} == {0, 1} for part in (data.train, data.validation, data.test)
        )
        assert "144 of 160 pictures are byte-equal copies of another one" in lines
        assert "too" not in lines


@pytest.mark.parametrize("reader", ["coco", "voc"])
def test_copies_of_pictures_with_boxes_stay_in_one_split(tmp_path: Path, reader: str) -> None:
    (coco_folder if reader == "coco" else voc_folder)(tmp_path, 40)
    folder, stem = (tmp_path / "images", "") if reader == "coco" else (tmp_path / "JPEGImages", "p")
    for k in range(0, 40, 2):
        picture(folder / f"{stem}{k}.png", k + 1)
    for _, lines in read_apart(load_objects, tmp_path):
        assert "20 of 40 pictures are byte-equal copies" in lines


def test_copies_across_given_splits_are_named(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for place, name in enumerate(("cat", "dog")):
            for k in range(4):
                picture(tmp_path / split / name / f"{k}.png", first + 10 * place + k)
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "cat" / "again.png")
    shutil.copy(tmp_path / "train" / "cat" / "1.png", tmp_path / "train" / "dog" / "other.png")
    findings = Findings()
    load_images(str(tmp_path), 0, findings)

    assert "1 of 9 pictures of test are in train or validation too: what is measured" in said(findings)
    assert "1 of 26 pictures have copies with another label" in said(findings)
    assert "pictures of validation" not in said(findings)


def test_copies_in_a_medmnist_file_are_named(tmp_path: Path) -> None:
    arrays = {}
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = np.random.default_rng(count).integers(0, 255, (count, 8, 8), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 2
    arrays["test_images"][2] = arrays["train_images"][5]
    np.savez(tmp_path / "own.npz", **arrays)
    findings = Findings()
    medmnist.load(tmp_path / "own.npz", findings)

    assert "1 of 6 pictures of test are in train or validation too" in said(findings)
    assert "proves nothing: test 2 = train 5" in said(findings)
    assert "1 of 18 pictures have copies with another label" in said(findings)


def test_arrays_of_0_to_1_are_named_as_nearly_black(tmp_path: Path) -> None:
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.random.default_rng(1).integers(0, 2, (4, 8, 8), np.uint8)
        arrays[f"{split}_labels"] = np.arange(4) % 2
    np.savez(tmp_path / "own.npz", **arrays)
    findings = Findings()
    medmnist.load(tmp_path / "own.npz", findings)

    assert "are nearly black: values belong in 0..255: maximum 1" in said(findings)


def test_a_class_of_copies_alone_cannot_be_split(tmp_path: Path) -> None:
    classes_folder(tmp_path, ["cat", "dog"])
    for k in range(6):
        picture(tmp_path / "dog" / f"{k}.png", 7)
    with pytest.raises(CallError, match=r"'dog' has 6 picture\(s\), byte-equal copies of 1, to be split"):
        load_images(str(tmp_path))
