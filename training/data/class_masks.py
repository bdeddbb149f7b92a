"""Pictures with a mask each that gives every pixel its class: PNG in grey, with a palette, or in the colors
that a list of classes names.

Layouts: Pascal VOC's (JPEGImages, SegmentationClass), Cityscapes' (leftImg8bit, gtFine), and folders of
pictures and masks side by side. Class k is the value k, unless a list says otherwise.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.inputs.levels import TURNS
from handlers.inputs.masks import MAX_CLASSES
from handlers.runtime.machine import usable_cores
from marina.core.errors import CallError
from training.data import Example, ImageData, object_folder
from training.data.copies import report_copies
from training.data.inspection import SIDEWAYS, Inspected, report_faults
from training.data.limits import Limits
from training.data.mask_classes import MaskClasses, classes_of
from training.data.picture_files import SPLITS, SUFFIXES, files_below, folders
from training.findings import Findings, inside

IGNORED = MAX_CLASSES  # the value of pixels that are left out of loss and metrics
MASKS = {".png", ".bmp", ".tif", ".tiff", ".gif"}
PICTURE_FOLDERS = ("images", "imgs", "image", "img", "jpegimages", "leftimg8bit")
MASK_FOLDERS = (
    *("masks", "mask", "segmentationclass", "annotations", "annotation", "labels", "label", "gtfine", "gt"),
    *("trimaps", "segmentations"),
)
CITYSCAPES = ("_gtFine_labelTrainIds", "_gtFine_labelIds")
ENDINGS = (*CITYSCAPES, "_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_L")
PICTURE_ENDINGS = ("_leftImg8bit",)
LISTS = {"train": "train", "val": "validation", "test": "test"}
LAYOUT = """
  Class masks: PNG files of the pictures' sizes with a class per pixel, 255 for pixels that don't count
    images/train/a.jpg, masks/train/a.png    (or train/images/a.jpg, train/masks/a.png; or without splits)
    classes.txt                              (names of the values 0, 1, …; or class_dict.csv: name,r,g,b)
    Pascal VOC: JPEGImages/a.jpg, SegmentationClass/a.png, ImageSets/Segmentation/{train,val,test}.txt
    Cityscapes: leftImg8bit/train/CITY/a_leftImg8bit.png, gtFine/train/CITY/a_gtFine_labelIds.png"""


@dataclass(frozen=True)
class ClassMask:
    """A mask's file, what its values mean, and the EXIF orientation that it is turned by."""

    file: Path
    classes: MaskClasses
    orientation: int = 1

    def read(self) -> np.ndarray:
        """The class of every pixel, uint8 [height, width]; IGNORED where none counts. Raises OSError or
        ValueError for what is no mask.
        """
        with Image.open(self.file) as image:
            turned = image.transpose(TURNS[self.orientation]) if self.orientation in TURNS else image
            return self.classes.labels(values_of(turned))


def values_of(mask: Image.Image) -> np.ndarray:
    """What a mask says: whole numbers [H, W], or colors [H, W, 3]. Raises ValueError for other pictures."""
    if mask.mode == "1":
        return np.array(mask, np.uint8) * 255
    if mask.mode in ("L", "P", "I", "I;16"):
        return np.array(mask)
    if mask.mode in ("LA", "RGB", "RGBA"):
        colors = np.array(mask.convert("RGB"))
        is_grey = (colors[..., 0] == colors[..., 1]).all() and (colors[..., 0] == colors[..., 2]).all()
        return colors[..., 0] if is_grey else colors
    raise ValueError(f"a picture of mode {mask.mode}, not of values or colors")


def pairs(folder: Path) -> dict[str, list[tuple[Path, Path | None]]]:
    """Split ("all" where none is named) -> pictures with their masks, None where there is none; empty where
    the folder has no such layout.
    """
    found: dict[str, list[tuple[Path, Path | None]]] = {}
    for split, pictures, masks in _places(folder):
        by_stem = {_stem(path, ENDINGS): path for path in _masks(masks)}
        for path in files_below(pictures):
            if path.suffix.lower() in SUFFIXES and path.parent != masks:
                pair = path, by_stem.get(_stem(path, PICTURE_ENDINGS))
                found.setdefault(split, []).append(pair)
    if not any(mask for files in found.values() for _, mask in files):
        return {}
    return _by_lists(folder, found["all"]) if set(found) == {"all"} else found


def _places(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """(split, folder of pictures, folder of masks)."""
    inner = {path.name.lower(): path for path in folders(folder)}
    pictures, masks = _first(inner, PICTURE_FOLDERS), _first(inner, MASK_FOLDERS)
    if pictures and masks:
        by_split = [path for path in folders(pictures) if path.name.lower() in SPLITS]
        for path in by_split:
            yield SPLITS[path.name.lower()], path, masks / path.name
        if not by_split:
            yield "all", pictures, masks
        return
    for name, path in inner.items():
        if name not in SPLITS:
            continue
        of_split = {each.name.lower(): each for each in folders(path)}
        pictures, masks = _first(of_split, PICTURE_FOLDERS), _first(of_split, MASK_FOLDERS)
        masks = masks or _first(inner, (f"{name}_masks", f"{name}annot", f"{name}_labels"))
        if masks:
            yield SPLITS[name], pictures or path, masks


def _first(places: Mapping[str, Path], names: Sequence[str]) -> Path | None:
    return next((places[name] for name in names if name in places), None)


def _masks(folder: Path) -> list[Path]:
    """The masks below `folder`; of Cityscapes' several files the one with classes."""
    if not folder.is_dir():
        return []
    files = [path for path in files_below(folder) if path.suffix.lower() in MASKS]
    if any("_gtFine_" in path.name for path in files):
        for ending in CITYSCAPES:
            if chosen := [path for path in files if path.stem.endswith(ending)]:
                return chosen
    return files


def _stem(path: Path, endings: Sequence[str]) -> str:
    return next((path.stem.removesuffix(each) for each in endings if path.stem.endswith(each)), path.stem)


def _by_lists(
    folder: Path, files: list[tuple[Path, Path | None]]
) -> dict[str, list[tuple[Path, Path | None]]]:
    """As Pascal VOC's lists split them, if there is one to learn from."""
    by_stem = {picture.stem: (picture, mask) for picture, mask in files}
    splits = {}
    for name, split in LISTS.items():
        path = folder / "ImageSets" / "Segmentation" / f"{name}.txt"
        if path.is_file():
            stems = path.read_text(encoding="utf-8-sig", errors="replace").split()
            splits[split] = [by_stem[stem] for stem in dict.fromkeys(stems) if stem in by_stem]
    return splits if splits.get("train") else {"all": files}


def load(
    folder: Path,
    found: Mapping[str, Sequence[tuple[Path, Path | None]]],
    seed: int,
    findings: Findings,
    limits: Limits,
    ignore_index: int | None,
) -> ImageData:
    """The pictures of `pairs` with their masks, split as `object_folder.load` does.

    Pictures without a mask, and masks that can't be read or are of another size, are left out and go to the
    `findings`, as do values that no class has. Raises CallError for too few, and for masks in colors that no
    list names.
    """
    with findings.reported():
        count = sum(map(len, found.values()))
        bare = [inside(picture, folder) for files in found.values() for picture, mask in files if not mask]
        findings.add("pictures", "left out: they have no mask", bare, count)
        together = {picture: mask for files in found.values() for picture, mask in files if mask}
        inspected = object_folder.inspected_pictures(together, limits)
        report_faults(inspected, "pictures", folder, findings)
        sound = {picture: mask for picture, mask in together.items() if not inspected[picture].fault}
        classes = classes_of(folder, _values(sound, inspected, folder, findings), ignore_index, findings)
        splits = {
            split: [_example(each, together, classes, inspected[each]) for each, _ in files if each in sound]
            for split, files in found.items()
        }
        given = object_folder.Given(folder, classes.names, splits, inspected)
        parts, words = object_folder.split(given, seed)
        parts = object_folder.without_damaged(given, parts, findings, limits)
        for name, part in zip(("training", "validation", "test"), parts, strict=True):
            if not part:
                raise CallError(f"{folder} has no picture with a mask for {name}; add more:{LAYOUT}")
        (train, validation, test), source = parts, f"folder {folder.name}"
        names = classes.names
        data = ImageData(folder.name, names, train, validation, test, source, "the owner's", words)
        report_copies(data, inspected, folder, findings)
    return data


def _example(picture: Path, masks: Mapping[Path, Path], classes: MaskClasses, seen: Inspected) -> Example:
    mask = masks[picture]
    return Example(picture, mask=ClassMask(mask, classes, _turn(mask, seen)), size=seen.size)


def _turn(mask: Path, seen: Inspected) -> int:
    """The picture's orientation where the mask has the size of its stored pixels, else 1."""
    if seen.orientation not in SIDEWAYS:
        return 1
    with Image.open(mask) as image:
        return seen.orientation if image.size == seen.size[::-1] != seen.size else 1


def _values(
    masks: dict[Path, Path], inspected: Mapping[Path, Inspected], folder: Path, findings: Findings
) -> dict[Path, Any]:
    """Mask -> its values, a set; pictures whose mask has a fault are removed from `masks`."""
    faults: dict[str, list[str]] = {}
    values = {}
    with ThreadPoolExecutor(max(2, usable_cores())) as pool:
        read = pool.map(lambda picture: _read_values(masks[picture], inspected[picture]), masks)
        for picture, (found, fault) in zip(list(masks), read, strict=True):
            if fault:
                faults.setdefault(fault, []).append(inside(masks[picture], folder))
            else:
                values[masks[picture]] = found
    total = len(masks)
    for fault, names in faults.items():
        findings.add("masks", f"left out with their pictures: {fault}", names, total)
    for picture in [picture for picture, mask in masks.items() if mask not in values]:
        del masks[picture]
    return values


def _read_values(mask: Path, seen: Inspected) -> tuple[Any, str]:
    """(values or colors that occur, what is wrong)."""
    try:
        with Image.open(mask) as image:
            sizes = {seen.size, seen.size[::-1]} if seen.orientation in SIDEWAYS else {seen.size}
            if image.size not in sizes:
                return None, "of another size than the picture"
            values = values_of(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, "no mask that can be read"
    if values.ndim == 3:
        return {tuple(color) for color in np.unique(values.reshape(-1, 3), axis=0).tolist()}, ""
    return set(np.unique(values).tolist()), ""
