"""Masks that give every pixel its class, in the layouts that segmenters are trained from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from tests.support.data_folders import every, picture, read_with_findings, said
from training.data import ImageData, load_outlines
from training.data.outlined_folder import IGNORED, label_map
from training.findings import Findings
from training.vision.records import Storage
from training.vision.segmentation.pixels import Prepared


def values(number: int, last: int = 2) -> np.ndarray:
    """A mask of 16 x 12 with 0, a block of another value, and a frame of 255."""
    mask = np.zeros((12, 16), np.uint8)
    mask[3:8, 4:10] = 1 + number % last
    mask[0] = 255
    return mask


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask, "P")
    image.putpalette([7 * k % 256 for k in range(768)])
    return image


def voc(folder: Path) -> None:
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "SegmentationClass").mkdir()
    for k in range(20):
        picture(folder / "JPEGImages" / f"{k}.jpg", k)
        palette(values(k)).save(folder / "SegmentationClass" / f"{k}.png")
    for name, rows in {"train": range(12), "val": range(12, 16), "test": range(16, 20)}.items():
        text = "\n".join(map(str, rows))
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(text)


def side_by_side(folder: Path) -> None:
    for k in range(20):
        split = "train" if k < 12 else "val" if k < 16 else "test"
        picture(folder / "images" / split / f"{k}.jpg", k)
        (folder / "masks" / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values(k)).save(folder / "masks" / split / f"{k}_mask.png")
    (folder / "classes.txt").write_text("ground\ntree\nhouse\n")


def unsplit(folder: Path) -> None:
    side_by_side(folder)
    for kind in ("images", "masks"):
        for path in list((folder / kind).glob("*/*")):
            path.rename(folder / kind / path.name)
        for place in list((folder / kind).iterdir()):
            if place.is_dir():
                place.rmdir()


def camvid(folder: Path) -> None:
    for k in range(20):
        split = "train" if k < 12 else "val" if k < 16 else "test"
        picture(folder / split / f"{k}.png", k)
        (folder / f"{split}annot").mkdir(exist_ok=True)
        Image.fromarray(values(k)).save(folder / f"{split}annot" / f"{k}.png")
    (folder / "id2label.json").write_text('{"0": "ground", "1": "tree", "2": "house"}')


def colored(folder: Path) -> None:
    side_by_side(folder)
    (folder / "classes.txt").unlink()
    (folder / "class_dict.csv").write_text("name,r,g,b\nground,0,0,0\ntree,0,128,0\nhouse,128,0,0\n")
    colors = np.array([[0, 0, 0], [0, 128, 0], [128, 0, 0]], np.uint8)
    for path in folder.glob("masks/*/*.png"):
        mask = np.array(Image.open(path))
        painted = colors[np.where(mask == 255, 0, mask)]
        painted[mask == 255] = 9  # a color of no class
        Image.fromarray(painted).save(path)


def cityscapes(folder: Path) -> None:
    ids = np.array([7, 26, 33], np.uint8)
    for k in range(20):
        split = "train" if k < 12 else "val" if k < 16 else "test"
        picture(folder / "leftImg8bit" / split / "ulm" / f"ulm_{k}_leftImg8bit.png", k)
        place = folder / "gtFine" / split / "ulm"
        place.mkdir(parents=True, exist_ok=True)
        mask = values(k)
        Image.fromarray(np.where(mask == 255, 3, ids[mask % 3])).save(place / f"ulm_{k}_gtFine_labelIds.png")
        Image.fromarray(mask).save(place / f"ulm_{k}_gtFine_instanceIds.png")


LAYOUTS = {"side by side": side_by_side, "camvid": camvid, "colors": colored, "voc": voc, "unsplit": unsplit}


def number_of(example) -> int:
    return int(example.image.stem)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_pixel_has_the_class_of_its_mask(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    layout(tmp_path)
    data = load_outlines(str(tmp_path))

    names = ("background", "aeroplane", "bicycle") if layout is voc else ("ground", "tree", "house")
    assert data.classes[:3] == names
    assert IGNORED == 255
    for example in every(data):
        assert (label_map(example, 16, 12) == values(number_of(example))).all()
    if layout is not unsplit:
        assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 4]


def test_cityscapes_ids_become_its_nineteen_classes(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    data = load_outlines(str(tmp_path))
    seen = label_map(data.train[0], 16, 12)

    assert len(data.classes) == 19
    assert [data.classes[label] for label in np.unique(seen) if label != IGNORED] == ["road", "car"]
    assert (seen[0] == IGNORED).all()
    assert len(data.train) == 12


def test_masks_of_0_and_255_are_background_and_foreground(tmp_path: Path) -> None:
    side_by_side(tmp_path)
    (tmp_path / "classes.txt").unlink()
    for path in tmp_path.glob("masks/*/*.png"):
        Image.fromarray(np.where(values(0) == 1, 255, 0).astype(np.uint8)).save(path)
    findings = Findings()
    data = load_outlines(str(tmp_path), findings=findings)

    assert data.classes == ("background", "foreground")
    assert (label_map(data.train[0], 16, 12) == (values(0) == 1)).all()
    assert "masks of 0 and 255 are read as background and foreground" in said(findings)


def test_another_value_may_be_the_one_that_does_not_count(tmp_path: Path) -> None:
    side_by_side(tmp_path)
    data = load_outlines(str(tmp_path), ignore_index=0)

    assert (label_map(data.train[0], 16, 12) == np.where(values(0) == 0, IGNORED, values(0))).all()


def test_faults_of_masks_are_findings_that_name_the_file(tmp_path: Path) -> None:
    side_by_side(tmp_path)
    masks = tmp_path / "masks" / "train"
    (masks / "0_mask.png").unlink()
    (masks / "1_mask.png").write_bytes(b"no mask")
    Image.new("L", (8, 8)).save(masks / "2_mask.png")
    odd = values(3)
    odd[5, 5] = 77
    Image.fromarray(odd).save(masks / "3_mask.png")
    data, lines = read_with_findings(load_outlines, tmp_path)

    assert len(data.train) == 9
    assert "1 of 20 pictures left out: they have no mask" in lines
    assert "left out with their pictures: no mask that can be read" in lines
    assert "left out with their pictures: of another size than the picture" in lines
    assert "1 of 17 masks have values that are no class; those pixels don't count" in lines
    assert "3_mask.png: 77" in lines


def test_colors_without_a_list_are_refused(tmp_path: Path) -> None:
    colored(tmp_path)
    (tmp_path / "class_dict.csv").unlink()
    with pytest.raises(CallError, match=r"masks are in colors; write a class_dict\.csv"):
        load_outlines(str(tmp_path))


def test_masks_of_stored_pixels_are_rotated_with_the_photo(tmp_path: Path) -> None:
    side_by_side(tmp_path)
    for path in tmp_path.glob("images/*/*.jpg"):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(path).save(path, exif=exif)
    data = load_outlines(str(tmp_path))

    assert (label_map(data.train[0], 12, 16) == np.rot90(values(number_of(data.train[0])), -1)).all()


def test_what_is_learned_from_is_the_same_in_memory_and_on_disk(tmp_path: Path) -> None:
    side_by_side(tmp_path)
    data: ImageData = load_outlines(str(tmp_path))
    config = ImageInput(32, 32, fit="letterbox")
    memory = Prepared.of(data.train, config, "pictures", Storage(cache_bytes=0))
    disk = Prepared.of(data.train, config, "pictures", Storage(0, 0))

    assert (memory.labels[:] == disk.labels[:]).all()
    assert set(np.unique(memory.labels[:])) == {0, 1, 2, IGNORED}
