"""What a data set has, before anything is learned from it: counts, sizes, copies, and pictures with their
boxes and masks drawn.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput, open_image
from handlers.inputs.masks import palette
from handlers.protocol.errors import RequestError
from handlers.runtime.machine import usable_cores
from marina.core import paths
from marina.core.errors import CallError
from training.data import (
    Example,
    ImageData,
    class_masks,
    coco,
    load_clips,
    load_images,
    load_objects,
    load_outlines,
    object_folder,
)
from training.data.clip_folder import TYPES, Clip
from training.data.near_copies import Sketch, near_pairs, sketch
from training.data.outlined_folder import BACKGROUND, IGNORED, label_map
from training.data.picture_files import files_below
from training.findings import Findings

SPLITS = ("train", "validation", "test")
MOST_COMPARED = 50_000  # pictures, for near copies
MOST_PIXELS = 1 << 28
SHOWN_SIDE = 360  # pixels of a drawn picture's longer side
PART = 16


MOVING = {suffix for suffix in TYPES if suffix not in (".png", ".webp")}
Loader = Callable[..., ImageData]
NAMED: dict[str, Loader] = {
    "scenes": load_objects,
    "motions": load_clips,
    "torchvision:VOCDetection": load_objects,
    "torchvision:VOCSegmentation": load_outlines,
}
MOST_SEEN = 5_000  # files, to tell clips from pictures


class Place(NamedTuple):
    """An example by its split and row."""

    split: str
    row: int


@dataclass(frozen=True)
class Overview:
    """Figures of a data set.

    `counts` is class -> split -> examples of it, or boxes where there are boxes, or pictures that show it.
    `sizes` are width and height of each picture, in the order of the splits; `near` are pairs of pictures
    that are nearly the same.
    """

    data: ImageData
    counts: dict[str, dict[str, int]]
    counted: str
    sizes: list[tuple[int, int]]
    bytes: int
    near: list[tuple[Place, Place]]
    is_sampled: bool

    @property
    def splits(self) -> dict[str, int]:
        """Examples of each split."""
        return {split: len(getattr(self.data, split)) for split in SPLITS}

    def example(self, place: Place) -> Example:
        """The example at a place."""
        found: Example = getattr(self.data, place.split)[place.row]
        return found

    def name(self, place: Place) -> str:
        """Its file, or its split and row."""
        file = self.example(place).file
        return file.name if file else f"{place.split} {place.row}"

    def across(self) -> list[tuple[Place, Place]]:
        """The near pairs of two splits."""
        return [pair for pair in self.near if pair[0].split != pair[1].split]


def load(data: str, findings: Findings) -> ImageData:
    """The data set that `data` names, read as the recipe that its layout is for does. Raises CallError."""
    folder = paths.expanded(data)
    return (_loader_of(folder) if folder.is_dir() else NAMED.get(data, load_images))(data, 0, findings)


def _loader_of(folder: Path) -> Loader:
    coco_files = coco.annotation_files(folder, to_learn=False).values()
    is_coco = any(coco.is_likely(path) for path in coco_files)
    if not is_coco and class_masks.pairs(folder):
        return load_outlines
    if is_coco or object_folder.is_one(folder):
        return load_objects
    suffixes = [path.suffix.lower() for path in islice(files_below(folder), MOST_SEEN)]
    moving = sum(suffix in MOVING for suffix in suffixes)
    return load_clips if 2 * moving > len(suffixes) else load_images


def overview(data: ImageData) -> Overview:
    """The figures of `data`: every picture is read once, of more than MOST_COMPARED the headers alone."""
    places = [Place(split, row) for split in SPLITS for row in range(len(getattr(data, split)))]
    examples = [getattr(data, place.split)[place.row] for place in places]
    is_sampled = len(examples) > MOST_COMPARED
    every = -(-len(examples) // MOST_COMPARED)
    looked = [example if k % every == 0 else None for k, example in enumerate(examples)]
    with ThreadPoolExecutor(max(2, usable_cores())) as pool:
        parts = [looked[start : start + PART] for start in range(0, len(looked), PART)]
        read = pool.map(lambda part: [_look(example) for example in part], parts)
        looks = (look for part in read for look in part)
        seen = list(track(looks, "looking at pictures", total=len(looked), transient=True))
    kept = [(place, look[1]) for place, look in zip(places, seen, strict=True) if look]
    pairs = near_pairs([each for _, each in kept])
    counts, counted = _counts(data)
    return Overview(
        data=data,
        counts=counts,
        counted=counted,
        sizes=[look[0] for look in seen if look],
        bytes=sum(file.stat().st_size for example in examples for file in example.files()),
        near=[(kept[one][0], kept[other][0]) for one, other in pairs],
        is_sampled=is_sampled,
    )


def _look(example: Example | None) -> tuple[tuple[int, int], Sketch] | None:
    """Size and sketch; None for one that is not looked at, or can't be read."""
    if example is None:
        return None
    try:
        image = picture_of(example)
    except (RequestError, OSError, ValueError):
        return None
    return image.size, sketch(image)


def picture_of(example: Example) -> Image.Image:
    """The picture, RGB and upright, or the first frame of a clip. Raises RequestError or OSError."""
    if isinstance(example, Clip):
        config = ClipInput(1, ImageInput(SHOWN_SIDE, SHOWN_SIDE), max_pixels=MOST_PIXELS)
        return example.chosen(config)[0]
    if isinstance(example.image, np.ndarray):
        return Image.fromarray(example.image).convert("RGB")
    return open_image(
        example.image.read_bytes(),
        max_bytes=1 << 30,
        max_pixels=MOST_PIXELS,
        value_range=example.value_range,
    )


def _counts(data: ImageData) -> tuple[dict[str, dict[str, int]], str]:
    """(class -> split -> how many, of what)."""
    counts = {name: dict.fromkeys(SPLITS, 0) for name in data.classes}
    every = [(split, example) for split in SPLITS for example in getattr(data, split)]
    counted = "examples"
    for split, example in every:
        labels: Sequence[int] = [example.label] if example.label >= 0 else example.labels.tolist()
        if _is_painted(example, data.classes):
            labels, counted = _shown(example), "pictures that show it"
        elif example.label < 0:
            counted = "pictures" if data.has_several else "boxes"
        for label, count in Counter(labels).items():
            counts[data.classes[label]][split] += count
    return counts, counted


def _is_painted(example: Example, classes: Sequence[str]) -> bool:
    """Whether what it shows is an area for each class."""
    return example.mask is not None or (bool(example.outlines) and classes[0] == BACKGROUND)


def _shown(example: Example) -> list[int]:
    """The classes of a picture's outlines or mask."""
    if example.mask is None:
        return sorted({label + 1 for label, _ in example.outlines if label >= 0})
    try:
        return [int(label) for label in np.unique(example.mask.read()) if label != IGNORED]
    except (OSError, ValueError):
        return []


def samples(data: ImageData, most: int) -> list[Example]:
    """Examples of the training, taken from each class in turn where they have one, else evenly."""
    if not data.train:
        return list(data.test[:most])
    if data.train[0].label < 0:
        every = max(1, len(data.train) // most)
        return list(data.train[::every][:most])
    by_class: dict[int, list[Example]] = {}
    for example in data.train:
        by_class.setdefault(example.label, []).append(example)
    turns = zip_longest(*(by_class[label] for label in sorted(by_class)))
    return [example for turn in turns for example in turn if example is not None][:most]


def drawn(example: Example, classes: Sequence[str], side: int = SHOWN_SIDE) -> Image.Image:
    """The picture with its boxes and their names, or its mask, at most `side` pixels long. Raises CallError
    for one that can't be read.
    """
    try:
        image = picture_of(example)
        if _is_painted(example, classes):
            image = painted(image, label_map(example, *image.size), len(classes))
    except (RequestError, OSError, ValueError) as error:
        raise CallError(f"{example.image} can't be read: {error}") from error
    scale = side / max(image.size)
    resampling = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BILINEAR
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), resampling
    )
    if len(example.boxes) and not _is_painted(example, classes):
        names = [classes[label] for label in example.labels]
        draw_boxes(image, (example.boxes * scale).tolist(), names, classes)
    return image


def painted(image: Image.Image, labels: np.ndarray, count: int) -> Image.Image:
    """`image` with its classes but the first in their colors, and gray where none counts."""
    colors = np.zeros((256, 3))
    colors[:count] = palette(count)
    colors[IGNORED] = 128
    pixels = np.asarray(image, float)
    mixed = np.where(labels[..., None] > 0, 0.45 * pixels + 0.55 * colors[labels], pixels)
    return Image.fromarray(mixed.astype(np.uint8))


def draw_boxes(
    image: Image.Image, boxes: Sequence[Any], names: Sequence[str], classes: Sequence[str]
) -> None:
    """Draw boxes in the colors of their classes, with their names."""
    pen, letters = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    colors = palette(len(classes) + 1)[1:]
    for (left, top, right, bottom), name in zip(boxes, names, strict=True):
        color = tuple(int(value) for value in colors[list(classes).index(name)])
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=2)
        place = (left + 2, max(0, top - 16))
        pen.rectangle(pen.textbbox(place, name, font=letters), fill=color)
        pen.text(place, name, font=letters, fill="black" if sum(color) > 380 else "white")
