"""YOLO's text files, in the folders that people and tools make of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marina.core.errors import CallError
from tests.support.data_folders import every, picture, read_with_findings, voc_folder
from training.data import held_out_objects, load_images, load_objects, load_outlines

LINE = "1 0.5 0.5 0.25 0.5"  # in 16 x 12: 6, 3, 10, 9


def pair(image: Path, label: Path, number: int, text: str = LINE) -> None:
    picture(image, number)
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text(text + "\n")


def ultralytics(folder: Path, path: str = "") -> None:
    for split, first, count in (("train", 0, 12), ("val", 20, 4), ("test", 30, 4)):
        for k in range(first, first + count):
            place = folder / "images" / split / f"{k}.png"
            pair(place, folder / "labels" / split / f"{k}.txt", k)
    said_path = f"path: {path}\n" if path else ""
    lines = "train: images/train\nval: images/val\ntest: images/test\nnames:\n  0: cat\n  1: dog\n"
    (folder / "data.yaml").write_text(said_path + lines)


def roboflow(folder: Path) -> None:
    for split, first, count in (("train", 0, 12), ("valid", 20, 4), ("test", 30, 4)):
        for k in range(first, first + count):
            pair(folder / split / "images" / f"{k}.png", folder / split / "labels" / f"{k}.txt", k)
    (folder / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: [cat, dog]\n"
    )


def darknet(folder: Path) -> None:
    for k in range(20):
        pair(folder / "obj_train_data" / f"{k}.png", folder / "obj_train_data" / f"{k}.txt", k)
    (folder / "obj.names").write_text("cat\ndog\n")


def listed(folder: Path) -> None:
    for k in range(20):
        pair(folder / "images" / f"{k}.png", folder / "labels" / f"{k}.txt", k)
    for name, rows in {"train": range(12), "val": range(12, 16), "test": range(16, 20)}.items():
        (folder / f"{name}.txt").write_text("\n".join(f"./images/{k}.png" for k in rows))
    (folder / "data.yaml").write_text("train: train.txt\nval: val.txt\ntest: test.txt\nnames: [cat, dog]\n")


def plain(folder: Path) -> None:
    for k in range(20):
        pair(folder / "images" / f"{k}.png", folder / "labels" / f"{k}.txt", k)
    (folder / "classes.txt").write_text("cat\ndog\n")


@pytest.mark.parametrize("layout", [ultralytics, roboflow, darknet, listed, plain])
def test_boxes_classes_and_splits_are_read(tmp_path: Path, layout) -> None:
    layout(tmp_path)
    data = load_objects(str(tmp_path))

    assert data.classes == ("cat", "dog")
    assert len(every(data)) == 20
    for example in every(data):
        assert example.labels.tolist() == [1]
        assert example.boxes.tolist() == [[6, 3, 10, 9]]
    if layout in (ultralytics, roboflow, listed):
        assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 4]
        assert len(held_out_objects(str(tmp_path)).test) == 4


def test_a_path_that_leads_elsewhere_is_taken_in_the_folder(tmp_path: Path) -> None:
    ultralytics(tmp_path / "mine", "/content/datasets/mine")

    assert len(load_objects(str(tmp_path / "mine")).train) == 12


def test_boxes_of_rotated_photos_lie_on_the_upright_picture(tmp_path: Path) -> None:
    plain(tmp_path)
    for k in range(20):
        image = Image.open(tmp_path / "images" / f"{k}.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").save(tmp_path / "images" / f"{k}.jpg", exif=exif)
        (tmp_path / "images" / f"{k}.png").unlink()

    assert every(load_objects(str(tmp_path)))[0].boxes.tolist() == [[4.5, 4, 7.5, 12]]


def test_outlines_are_boxes_for_detectors_and_areas_for_segmenters(tmp_path: Path) -> None:
    plain(tmp_path)
    for path in (tmp_path / "labels").iterdir():
        path.write_text("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    objects, outlined = load_objects(str(tmp_path)), load_outlines(str(tmp_path))

    assert objects.train[0].boxes.tolist() == [[4, 3, 12, 9]]
    assert outlined.classes == ("background", "cat", "dog")
    assert outlined.train[0].outlines == ((0, [[4, 3, 12, 3, 12, 9, 4, 9]]),)


def test_bad_lines_are_findings_that_name_file_and_line(tmp_path: Path) -> None:
    plain(tmp_path)
    bad = ["1 0.5 0.5", "7 0.5 0.5 0.1 0.1", "cat 0.5 0.5 0.1 0.1", "0 80 60 20 20", "0 nan 0.5 0.1 0.1"]
    (tmp_path / "labels" / "3.txt").write_text("\n".join([LINE, *bad]))
    (tmp_path / "labels" / "4.txt").unlink()
    data, lines = read_with_findings(load_objects, tmp_path)
    (three,) = [example for example in every(data) if example.image.name == "3.png"]

    assert three.boxes.tolist() == [[6, 3, 10, 9]]
    place = f"{tmp_path.name}/labels/3.txt, line 3"
    assert f"left out: no class has their number; there are 2, from 0 on: {place}" in lines
    assert "left out: their numbers are no shares of the picture's width and height" in lines
    assert "1 of 20 pictures have no box and are kept" in lines


def test_lines_with_keypoints_give_their_box(tmp_path: Path) -> None:
    ultralytics(tmp_path)
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 3]\n")
    for path in (tmp_path / "labels").rglob("*.txt"):
        path.write_text(f"{LINE} 0.5 0.5 2 0.6 0.6 1")

    assert load_objects(str(tmp_path)).train[0].boxes.tolist() == [[6, 3, 10, 9]]


def test_a_folder_of_no_layout_is_told_the_nearest_one(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / "images" / f"{k}.png", k)
    said_ = r"it holds 3 \.png in images/; nearest is COCO, of which there is no \*instances\*\.json or"
    with pytest.raises(CallError, match=said_):
        load_objects(str(tmp_path))


def test_boxes_given_to_a_classifier_name_the_recipe(tmp_path: Path) -> None:
    voc_folder(tmp_path / "voc")
    plain(tmp_path / "yolo")
    for name, layout in (("voc", "Pascal VOC"), ("yolo", "YOLO")):
        with pytest.raises(CallError, match=f"nearest is {layout}, which the recipe detector"):
            load_images(str(tmp_path / name))


@pytest.mark.slow
def test_real_blood_cells_read_the_same_as_their_voc_boxes(tmp_path: Path, shared_data: Path) -> None:
    """Real annotations, written as YOLO's, give the same boxes to a tenth of a pixel."""
    source = load_objects(str(shared_data / "bccd"))
    (tmp_path / "images").symlink_to(shared_data / "bccd" / "JPEGImages")
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("\n".join(source.classes))
    truth = {}
    for example in every(source):
        width, height = example.size
        truth[example.image.name] = example.boxes
        lines = []
        for (x1, y1, x2, y2), label in zip(example.boxes, example.labels, strict=True):
            numbers = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
            lines.append(f"{label} {' '.join(f'{number:.6f}' for number in numbers)}")
        (tmp_path / "labels" / f"{example.image.stem}.txt").write_text("\n".join(lines))
    data = load_objects(str(tmp_path))

    assert data.classes == source.classes
    assert len(every(data)) == len(truth)
    for example in every(data):
        assert np.allclose(example.boxes, truth[example.image.name], atol=0.1)
