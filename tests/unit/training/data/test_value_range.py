"""Pictures of more than 8 bits in a data set: left out and said, or read by the range that the spec says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.inputs.images import ImageInput
from training.data import load_images, load_objects
from training.data.limits import Limits
from training.findings import Findings
from training.recipes import classifier, detector, segmenter, video_classifier
from training.vision.classification.evaluation import pixels_of
from training.vision.detection.pixels import open_example

GREY = np.tile(np.linspace(0, 3000, 16, dtype=np.uint16), (12, 1))
TWELVE_BITS = Limits(value_range=4095)


def write(path: Path, shift: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.roll(GREY, shift, 1)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(20):
        for name in ("left", "right"):
            write(tmp_path / name / f"{index}.png", index + 20 * (name == "right"))
            write(tmp_path / name / f"{index}.tiff", 3 * index)
    return tmp_path


def test_pictures_of_unknown_white_are_left_out_in_one_finding(folder: Path) -> None:
    for index in range(20):
        for name in ("left", "right"):
            Image.new("L", (9, 9), index * 9).save(folder / name / f"sound-{index}.png")
    findings = Findings()

    load_images(str(folder), 0, findings)

    (words,) = [str(finding) for finding in findings if "value_range" in str(finding)]
    assert words.startswith("80 of 120 pictures left out: neither the image's file nor training.value_range")


def test_the_specs_range_is_what_a_classifier_learns_from(folder: Path) -> None:
    data = load_images(str(folder), 0, Findings(), TWELVE_BITS)

    pixels = pixels_of(ImageInput(12, 16, "L", value_range=4095), data.train)

    assert len(data.train) > 40
    assert {int(one.max()) for one in pixels} == {3000 * 255 // 4095}


def test_the_specs_range_is_what_a_detector_learns_from(tmp_path: Path) -> None:
    images, boxes = [], []
    for index in range(20):
        write(tmp_path / f"{index}.png", index)
        images.append({"id": index, "file_name": f"{index}.png", "width": 16, "height": 12})
        boxes.append({"id": index, "image_id": index, "category_id": 1, "bbox": [2, 2, 9, 9]})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content), encoding="utf-8")

    data = load_objects(str(tmp_path), 0, Findings(), TWELVE_BITS)

    assert open_example(data.train[0]).getextrema() == ((0, 186),) * 3


@pytest.mark.parametrize("recipe", [classifier, detector, segmenter, video_classifier])
def test_every_recipe_of_pictures_hands_the_range_to_its_data(recipe: object) -> None:
    settings = recipe.Settings(data="scenes", value_range=4095)  # type: ignore[attr-defined]

    assert settings.limits.value_range == 4095
