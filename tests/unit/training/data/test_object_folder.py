"""A user's folders in Pascal VOC's and COCO's layout, with the faults that real ones have."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marina.core.errors import CallError
from training.data import load_objects, object_folder

# real data for building and testing, beside the repository


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    """Each path has another color: byte-equal pictures would be taken for copies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = hashlib.sha256(str(path).encode()).digest()[:3]
    Image.new("RGB", size, tuple(color)).save(path)


def voc(folder: Path, stem: str, objects: list[tuple[str, tuple[float, float, float, float]]]) -> None:
    picture(folder / "JPEGImages" / f"{stem}.jpg")
    (folder / "Annotations").mkdir(exist_ok=True)
    rows = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    (folder / "Annotations" / f"{stem}.xml").write_text(
        f"<annotation><filename>{stem}.jpg</filename>{rows}</annotation>"
    )


def coco(folder: Path, count: int = 20, name: str = "instances.json", first: int = 0) -> dict:
    content: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 44, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    for k in range(first, first + count):
        picture(folder / "images" / f"{k}.png")
        content["images"].append({"id": k, "file_name": f"{k}.png", "width": 40, "height": 30})
        row = {
            "id": k,
            "image_id": k,
            "category_id": 44 if k % 2 else 7,
            "bbox": [1, 2, 10, 20],
            "iscrowd": 0,
        }
        content["annotations"].append(row)
    write(folder / name, content)
    return content


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def warned(caplog: pytest.LogCaptureFixture, name: str) -> int:
    return sum(name in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def test_voc_boxes_are_as_written_and_classes_are_in_alphabetical_order(tmp_path):
    for k in range(10):
        voc(tmp_path, f"p{k}", [("zebra", (1, 2, 20, 25)), ("ant", (3.5, 4, 9, 9))])
    data = object_folder.load(tmp_path, seed=0)

    assert data.classes == ("ant", "zebra")
    assert data.train[0].boxes.tolist() == [[1, 2, 20, 25], [3.5, 4, 9, 9]]
    assert data.train[0].labels.tolist() == [1, 0]


def test_the_splits_of_image_sets_are_kept(tmp_path):
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, stems in {"train": ["a", "b"], "val": ["c"], "test": ["d"]}.items():
        (lists / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for stem in stems:
            voc(tmp_path, stem, [("x", (1, 1, 9, 9))])
    data = object_folder.load(tmp_path, seed=0)

    stems = [
        [Path(example.image).stem for example in part] for part in (data.train, data.validation, data.test)
    ]
    assert stems == [["a", "b"], ["c"], ["d"]]


def test_coco_boxes_become_corners_and_categories_are_counted_by_their_id(tmp_path):
    coco(tmp_path)
    data = object_folder.load(tmp_path, seed=0)

    assert data.classes == ("dog", "cat")
    for example in [*data.train, *data.validation, *data.test]:
        assert example.boxes.tolist() == [[1, 2, 11, 22]]
        assert example.labels.tolist() == [int(Path(example.image).stem) % 2]


def test_folder_is_split_70_15_15_by_the_seed(tmp_path):
    """A folder without splits is split 70/15/15 without overlap, by the seed."""
    coco(tmp_path, count=40)
    first, again, other = (object_folder.load(tmp_path, seed) for seed in (0, 0, 1))

    names = [{example.image for example in part} for part in (first.train, first.validation, first.test)]
    assert [len(part) for part in names] == [28, 6, 6]
    assert len(set.union(*names)) == 40
    assert [example.image for example in first.test] == [example.image for example in again.test]
    assert [example.image for example in first.test] != [example.image for example in other.test]


@pytest.mark.parametrize(
    "names",
    [("annotations/instances_{}2017.json", "val"), ("annotations/{}.json", "test"), ("{}.json", "valid")],
)
def test_the_splits_of_usual_coco_file_names_are_kept(tmp_path, names):
    """With train and one other split, the other is the test and validation comes out of the training
    pictures.
    """
    pattern, other = names
    coco(tmp_path, 20, pattern.format("train"))
    coco(tmp_path, 6, pattern.format(other), first=100)
    data = object_folder.load(tmp_path, seed=0)

    assert sorted(int(Path(example.image).stem) for example in data.test) == list(range(100, 106))
    assert (len(data.train), len(data.validation)) == (17, 3)


def test_pictures_beside_a_split_s_own_json_are_found(tmp_path):
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        content = coco(tmp_path / "made", count)
        write(tmp_path / split / "_annotations.coco.json", content)
        for row in content["images"]:
            picture(tmp_path / split / row["file_name"])
    data = object_folder.load(tmp_path, seed=0)

    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 2)


def test_crowds_are_dropped(tmp_path):
    content = coco(tmp_path)
    content["annotations"].append(
        {"id": 999, "image_id": 0, "category_id": 7, "bbox": [0, 0, 40, 30], "iscrowd": 1}
    )
    write(tmp_path / "instances.json", content)
    data = object_folder.load(tmp_path, seed=0)

    assert all(len(example.labels) == 1 for example in [*data.train, *data.validation, *data.test])


def test_faulty_boxes_and_pictures_cost_one_warning_each_and_nothing_else(tmp_path, caplog):
    content = coco(tmp_path)
    boxes = [[5, 5, 0, 9], [50, 50, 5, 5], [30, 20, 30, 30], [-0.4, 0, 40.7, 30]]
    for row, box in zip(content["annotations"], boxes, strict=False):
        row["bbox"] = box
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 6]
    write(tmp_path / "instances.json", content)
    (tmp_path / "images" / "4.png").write_bytes(b"no picture")
    (tmp_path / "images" / "5.png").unlink()
    with caplog.at_level(logging.WARNING, logger="marina"):
        data = object_folder.load(tmp_path, seed=0)

    found = {Path(example.image).name: example for example in [*data.train, *data.validation, *data.test]}
    assert found.keys() == {f"{k}.png" for k in range(20)} - {"4.png", "5.png"}
    assert [len(found[f"{k}.png"].labels) for k in (0, 1, 2, 3, 6)] == [0, 0, 1, 1, 0]
    assert found["2.png"].boxes.tolist() == [[30, 20, 40, 30]]
    assert found["3.png"].boxes.tolist() == [[0, 0, 40, 30]]
    folder = f"{tmp_path.name}/images"
    assert (
        warned(caplog, f"1 of 20 pictures left out: the file is no image that can be read: {folder}/4.png")
        == 1
    )
    assert warned(caplog, f"1 of 20 pictures left out: no such file or directory: {folder}/5.png") == 1
    flat = f"2 of 17 boxes left out: without area inside the picture: {folder}/0.png, {folder}/1.png"
    assert warned(caplog, flat) == 1
    assert warned(caplog, f"1 of 17 boxes cut at the edge of the picture: {folder}/2.png") == 1
    assert warned(caplog, "/3.png") == 0
    assert warned(caplog, "3 of 18 pictures have no box and are kept") == 1


@pytest.mark.parametrize(
    "text",
    [
        "<annotation><object>",
        "<!DOCTYPE a [<!ENTITY y "
        '"x">]><annotation><object><name>&y;</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>'
        "<ymax>9</ymax></bndbox></object></annotation>",
        "<annotation><object><name>x</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
        "",
    ],
    ids=["cut off", "entities", "half a box", "empty"],
)
def test_an_annotation_that_cannot_be_read_is_left_out_with_a_warning(tmp_path, caplog, text):
    for k in range(10):
        voc(tmp_path, f"p{k}", [("x", (1, 1, 9, 9))])
    (tmp_path / "Annotations" / "p3.xml").write_text(text)
    with caplog.at_level(logging.WARNING, logger="marina"):
        data = object_folder.load(tmp_path, seed=0)

    assert data.classes == ("x",)
    assert len(data.train) + len(data.validation) + len(data.test) == 9
    assert warned(caplog, "1 of 10 annotations left out: ") == warned(caplog, "p3.xml") == 1


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"images": []}', '{"images": [{"id": 1}], "annotations": [], "categories": []}']
)
def test_a_json_that_is_no_coco_is_refused_by_name(tmp_path, content):
    (tmp_path / "instances.json").write_text(content)

    with pytest.raises(CallError, match=r"instances\.json is no (COCO )?JSON"):
        object_folder.load(tmp_path, seed=0)


def test_a_folder_without_a_known_layout_is_refused_with_the_layouts(tmp_path):
    picture(tmp_path / "images" / "a.png")

    with pytest.raises(CallError, match=r"(?s)Annotations/a\.xml.*instances\.json"):
        load_objects(str(tmp_path))


def test_a_folder_without_boxes_is_refused(tmp_path):
    for k in range(10):
        voc(tmp_path, f"p{k}", [])

    with pytest.raises(CallError, match="no picture with a box"):
        object_folder.load(tmp_path, seed=0)


def test_blood_cells_load_and_two_empty_boxes_are_dropped(caplog, shared_data):
    """The real blood cells load; their two empty boxes are dropped with a warning."""
    with caplog.at_level(logging.WARNING, logger="marina"):
        data = object_folder.load(shared_data / "bccd", seed=0)

    assert (len(data.train), len(data.validation), len(data.test)) == (205, 87, 72)
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert warned(caplog, "2 of 4,888 boxes left out: without area") == 1
    assert warned(caplog, "BloodImage_00338.jpg") == warned(caplog, "BloodImage_00343.jpg") == 1
    assert all((example.boxes[:, 2:] > example.boxes[:, :2]).all() for example in data.train)


def test_real_coco_pictures_load_with_eighty_classes(shared_data):
    data = object_folder.load(shared_data / "coco_val128", seed=0)

    assert len(data.classes) == 80
    assert (
        sum(len(example.labels) for part in (data.train, data.validation, data.test) for example in part)
        == 898
    )
    assert all(np.all(example.labels < 80) for example in data.train)
