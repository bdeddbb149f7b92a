"""Boxes and outlines lie on their objects, however a picture is turned."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.inputs.masks import run_lengths
from tests.support.data_folders import coco_content, coco_folder, every, picture, said, write
from training.data import (
    load_objects,
    load_outlines,
)
from training.findings import Findings


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("form", ["polygons", "run lengths"])
def test_boxes_drawn_on_stored_pixels_lie_on_their_object(
    tmp_path: Path, orientation: int, form: str
) -> None:
    """The annotation's width and height are those of the stored pixels, so boxes and outlines are turned."""
    stored = np.zeros((12, 16, 3), np.uint8)
    stored[3:10, 2:8] = 255
    mask = run_lengths(stored[..., 0] > 0)
    content = coco_content([f"{k}.png" for k in range(20)])
    for k, row in enumerate(content["annotations"]):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored[0, 0, 0] = k
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(stored).save(tmp_path / "images" / f"{k}.png", exif=exif)
        if form == "run lengths":
            row["segmentation"] = {"size": [12, 16], "counts": mask}
    write(tmp_path / "instances.json", content)
    findings = Findings()
    data = load_outlines(str(tmp_path), findings=findings)

    from training.data.outlined_folder import label_map
    from training.vision.detection.pixels import open_example

    for example in every(data):
        shown = np.asarray(open_example(example))[..., 1] > 0
        left, top, right, bottom = example.boxes[0].astype(int)
        rows, columns = np.nonzero(shown)

        assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.array_equal(label_map(example, 12, 16) == 1, shown)
    assert not said(findings)


@pytest.mark.parametrize("orientation", [3, 6])
def test_boxes_on_turned_pictures_of_unknown_size_cost_one_warning(tmp_path: Path, orientation: int) -> None:
    content = coco_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for row in content["images"]:
        picture(tmp_path / "images" / row["file_name"], row["id"], exif=exif)
        del row["width"]
    write(tmp_path / "instances.json", content)
    findings = Findings()
    load_objects(str(tmp_path), findings=findings)

    assert "20 of 20 pictures are turned by EXIF, and no size tells" in said(findings)


def test_another_size_than_the_annotation_says_is_a_warning(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    picture(tmp_path / "images" / "3.png", 3, (32, 24))
    findings = Findings()
    load_objects(str(tmp_path), findings=findings)

    assert "1 of 20 pictures have another size than their annotation says" in said(findings)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff"])
def test_every_format_says_how_it_is_turned(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "instances.json", coco_content([f"{k}.{kind}" for k in range(20)]))
    for k in range(20):
        path = tmp_path / "images" / f"{k}.{kind}"
        exif = Image.Exif()
        exif[0x0112] = 6
        picture(path, k, **({"tiffinfo": {0x0112: 6}} if kind == "tiff" else {"exif": exif}))
    findings = Findings()
    data = load_objects(str(tmp_path), findings=findings)

    assert all(example.boxes.tolist() == [[2, 2, 9, 8]] for example in every(data))
    assert not said(findings)
