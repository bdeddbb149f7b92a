"""Many pictures with boxes, outlines or masks: headers are read before training, and the damaged ones of the
training are found and replaced when they are decoded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.inputs.images import ImageInput, boxes_to_input
from marina.core.errors import CallError
from training.data import ImageData, inspection, load_objects, load_outlines, object_folder
from training.data.limits import Limits
from training.findings import Findings
from training.vision.detection import pixels, views
from training.vision.records import Storage
from training.vision.segmentation import pixels as segmentation

SIDEWAYS = {0x0112: 6}  # EXIF: shown turned by a quarter
INPUT = ImageInput(32, 32, fit="stretch")
SIZE = {"width": 64, "height": 48}
SPLITS = {"train": 12, "val": 4, "test": 4}


def photo(path: Path, seed: int, is_turned: bool = False) -> None:
    exif = Image.Exif()
    exif.update(SIDEWAYS if is_turned else {})
    noise = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, exif=exif)


def annotation(number: int) -> dict[str, Any]:
    outline = [2, 3, 30, 3, 30, 40, 2, 40]
    box = [2, 3, 28 - number, 37]
    return {"id": number, "image_id": number, "category_id": 1, "bbox": box, "segmentation": [outline]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """COCO with outlines; train/003.jpg and test/000.jpg are cut off, some pictures are turned."""
    place = tmp_path / "many"
    for split, count in SPLITS.items():
        (place / split).mkdir(parents=True)
        for number in range(count):
            photo(place / split / f"{number:03}.jpg", 100 * len(split) + number, is_turned=number % 5 == 1)
        names = [f"{number:03}.jpg" for number in range(count)]
        content = {
            "images": [
                {"id": k, "file_name": name, "width": 64, "height": 48} for k, name in enumerate(names)
            ],
            "annotations": [annotation(number) for number in range(count)],
            "categories": [{"id": 1, "name": "thing"}],
        }
        (place / split / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
    for damaged in ("train/003.jpg", "test/000.jpg"):
        file = place / damaged
        file.write_bytes(file.read_bytes()[:-900])
    return place


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is decoded before training, of data that counts as large."""
    names: list[str] = []
    whole = inspection.inspect_picture

    def inspect(path: Path, limits: Limits) -> inspection.Inspected:
        names.append(f"{path.parent.name}/{path.name}")
        return whole(path, limits)

    monkeypatch.setattr(inspection, "inspect_picture", inspect)
    monkeypatch.setattr(object_folder, "MOST_INSPECTED", 10)
    return names


def counts(data: ImageData) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


@pytest.mark.parametrize("load", [load_objects, load_outlines])
def test_headers_say_what_decoding_says(folder: Path, decoded: list[str], load: Any) -> None:
    """Boxes on turned pictures too; what is measured on is whole."""
    findings = Findings()
    found = load(str(folder), findings=findings)
    object_folder.MOST_INSPECTED = 10_000  # set back by `decoded`
    small = load(str(folder))

    assert decoded[0] == "test/000.jpg"  # no whole JPEG by its end
    assert counts(found) == [12, 4, 3]
    assert counts(small) == [11, 4, 3]
    assert "test/000.jpg" in "; ".join(map(str, findings))
    by_name = {one.image: one for one in found.train}
    for example in (*small.train, *small.test):
        same = by_name.get(example.image) or next(one for one in found.test if one.image == example.image)
        assert same.size == example.size
        assert np.array_equal(same.boxes, example.boxes)
        assert same.outlines == example.outlines
    assert found.train[1].size == (48, 64)


def boxes_of(targets: Sequence[Any]) -> list[Any]:
    return [target["boxes"].tolist() for target in targets]


def prepared_boxes(data: ImageData, row: int) -> dict[str, torch.Tensor]:
    """As the input has them."""
    example = data.train[row]
    return {"boxes": torch.from_numpy(boxes_to_input(example.boxes, pixels.size_of(example), INPUT))}


@pytest.mark.parametrize("memory", [0, 10**9])
@pytest.mark.usefixtures("decoded", "home")
def test_a_damaged_picture_is_replaced_with_its_boxes(folder: Path, memory: int) -> None:
    """In memory and from disk, for both augmentations and for outlines; it is named once."""
    data = load_objects(str(folder))
    findings = Findings()
    storage = Storage(memory, 0, findings)
    prepared = pixels.Prepared.of(data.train, INPUT, "pictures", storage=storage)
    rows = [*range(12)]
    ((images, targets),) = prepared.ahead([rows])

    taken = [0, 1, 2, *range(4, 12), 0]  # a step without its damaged picture, filled up from its beginning
    assert [images[11].equal(images[row]) for row in (0, 1, 10)] == [True, False, False]
    assert boxes_of(targets) == boxes_of([prepared_boxes(data, row) for row in taken])
    seen = views.Views(data.train, INPUT, 12, (), 0, storage)
    ((pairs),) = seen.read([rows])
    assert pairs[11][0].equal(pairs[0][0])
    assert boxes_of([target for _, target in pairs]) == [data.train[row].boxes.tolist() for row in taken]
    ((_, labels),) = segmentation.Prepared.of(
        load_outlines(str(folder)).train, INPUT, "pictures", storage
    ).ahead([rows])
    assert labels.shape == (12, 32, 32)
    assert all(bool(each.any()) for each in labels)
    (finding,) = findings
    assert finding.count == 3  # by each of the three readers
    assert all(name.endswith("train/003.jpg") for name in finding.examples)


@pytest.mark.usefixtures("decoded", "home")
def test_without_findings_a_damaged_picture_is_an_error(folder: Path) -> None:
    data = load_objects(str(folder))

    with pytest.raises(CallError, match=r"003\.jpg can't be read: .*; take it out of the data"):
        pixels.Prepared.of(data.train, INPUT, "pictures", storage=Storage(10**9, 0))
