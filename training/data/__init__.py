"""Data sets: one file per source, all giving the same `ImageData`.

`load_images`, `load_labels`, `load_clips`, `load_objects` and `load_outlines` take the name of a built-in
set, or a folder or file of the user's own, and find the layout by looking. `held_out_…` takes the same for
a model that learned elsewhere. All of them add what they leave out, cut or guess to the `findings` of the
run and report it before they return; without a run it is logged.
"""

import gc
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from marina.core import paths
from marina.core.errors import CallError
from training.data.limits import Limits
from training.data.packed_files import DataFile
from training.findings import Findings

SAMPLED_BYTES = 1_000_000_000  # of files: data above it gets its fingerprint from a sample
SAMPLED = 256  # examples


@dataclass(frozen=True)
class Example:
    """One picture: a file, in a folder or an archive, or pixels (uint8, [H, W] grey or [H, W, 3] RGB), with
    its class, its boxes or its outlines.
    """

    image: DataFile | np.ndarray
    label: int = -1  # classifiers
    # [N, 4] x1, y1, x2, y2 in pixels
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # [N], without background
    # segmenters: (class index or -1 for "don't count", what COCO calls a segmentation)
    outlines: tuple[tuple[int, Any], ...] = ()
    # [N] the same of each box, None where it has none; empty where no box can have one
    segmentations: tuple[Any, ...] = ()
    mask: Any = None  # segmenters: a `class_masks.ClassMask`, instead of outlines
    value_range: float | None = None  # what is white in a picture of more than 8 bits
    stated_size: tuple[int, int] | None = None  # width and height of the picture, where an annotation says it
    size: tuple[int, int] | None = None  # the same, upright, where the file was inspected

    @property
    def file(self) -> DataFile | None:
        """Where the picture lies; None for pixels."""
        return None if isinstance(self.image, np.ndarray) else self.image

    def files(self) -> list[Any]:
        """The files that it is read from (`DataFile`); none for pixels."""
        return [*([self.file] if self.file else []), *([self.mask.file] if self.mask else [])]

    def content(self) -> bytes:
        """The file, or the pixels, for a fingerprint."""
        if isinstance(self.image, np.ndarray):
            return np.ascontiguousarray(self.image).tobytes()
        return b"".join(file.read_bytes() for file in self.files())

    def encoded(self) -> tuple[bytes, str]:
        """The picture as a client would send it: (bytes, content type). Pixels become a PNG."""
        if not isinstance(self.image, np.ndarray):
            suffix = self.image.suffix.lower().lstrip(".")
            kind = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
            return self.image.read_bytes(), f"image/{kind}"
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "PNG")
        return buffer.getvalue(), "image/png"


@dataclass(frozen=True)
class ImageData:
    """A data set in three splits. `test` is used to measure the floor, and only for that."""

    name: str
    classes: tuple[str, ...]
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    source: str
    licence: str
    splits: str = "as the source has them"  # how they came about
    has_several: bool = False  # whether a picture has `labels`, several or none, instead of one `label`

    def about(self, full: bool = False) -> dict[str, Any]:
        """Name, origin, counts and fingerprint, a `full` one if asked for, for the export's metadata."""
        examples = [*self.train, *self.validation, *self.test]
        return {
            "name": self.name,
            "source": self.source,
            "licence": self.licence,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "splits": self.splits,
            "fingerprint": fingerprint(examples, full),
        }


def fingerprint(examples: Sequence[Example], full: bool = False) -> str:
    """SHA-256 over pictures and labels in their order, so that two runs can tell whether they saw the same
    data.

    Of files that have more than SAMPLED_BYTES together, it covers names, sizes, times and the content of
    SAMPLED of them, unless it is to be `full`; it then begins with "sampled-".
    """
    digest = hashlib.sha256()
    stats = [] if full else _stats(examples)
    every = len(examples) // SAMPLED + 1
    for row, example in enumerate(examples):
        if stats:
            digest.update(stats[row].encode())
        if not stats or row % every == 0:
            digest.update(example.content())
        digest.update(f"{example.label}".encode() + example.boxes.tobytes() + example.labels.tobytes())
        for shapes in (example.outlines, example.segmentations):
            digest.update(repr(shapes).encode() if shapes else b"")
        digest.update(repr(example.mask.classes).encode() if example.mask else b"")
    return ("sampled-" if stats else "") + digest.hexdigest()


def _stats(examples: Sequence[Example]) -> list[str]:
    """Name, sizes and times of the files of each example; empty where they have SAMPLED_BYTES or less."""
    total, described = 0, []
    for example in examples:
        said = []
        for file in example.files():
            stat = file.stat()
            total += stat.st_size
            said.append((file.name, stat.st_size, stat.st_mtime_ns))
        described.append(repr(said))
    return described if total > SAMPLED_BYTES else []


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the garbage collector: of the many objects that data is listed as none is garbage, and it would
    look at all of them again and again, which takes as long as reading them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_collection()
def load_images(
    data: str, seed: int = 0, findings: Findings | None = None, limits: Limits | None = None
) -> ImageData:
    """Pictures with a class each: "digits", a MedMNIST file, one of torchvision's sets, or the user's own in
    a layout of `layouts.class_listing`. Raises CallError.
    """
    from training.data import digits, labeled_files, layouts, medmnist, torchvision_sets

    findings, limits = findings or Findings(), limits or Limits()
    if medmnist.is_one(data):
        return medmnist.load(paths.expanded(data), findings)
    if data == "digits":
        return digits.load()
    if torchvision_sets.is_one(data):
        return torchvision_sets.load(data, seed, findings, limits)
    with findings.reported():
        listing = layouts.class_listing(_place(data, "digits"), findings)
        return labeled_files.load(listing, seed, findings, limits)


@_without_collection()
def load_labels(
    data: str,
    seed: int = 0,
    findings: Findings | None = None,
    limits: Limits | None = None,
    separator: str | None = None,
) -> ImageData:
    """Pictures with several labels each, in a layout of `several_labels`; `separator` is between those of a
    cell. Raises CallError.
    """
    from training.data import several_labels

    place = _place(data, None)
    return several_labels.load(place, seed, findings or Findings(), limits or Limits(), separator)


@_without_collection()
def load_clips(
    data: str, seed: int = 0, findings: Findings | None = None, limits: Limits | None = None
) -> ImageData:
    """Clips with a class each: "motions", or a folder or table of one's own. Raises CallError."""
    from training.data import clip_folder, motions

    if data == "motions":
        return motions.load()
    return clip_folder.load(_place(data, "motions"), seed, findings, limits)


@_without_collection()
def load_objects(
    data: str, seed: int = 0, findings: Findings | None = None, limits: Limits | None = None
) -> ImageData:
    """Pictures with boxes: "scenes", or a folder with COCO, VOC or YOLO annotations. Raises CallError."""
    from training.data import object_folder, scenes

    if data == "scenes":
        return scenes.load()
    return object_folder.load(_folder(data, "scenes"), seed, findings, limits)


@_without_collection()
def load_outlines(
    data: str,
    seed: int = 0,
    findings: Findings | None = None,
    limits: Limits | None = None,
    ignore_index: int | None = 255,
) -> ImageData:
    """Pictures with an outline per object, or with a mask that gives every pixel its class.

    `ignore_index` is the value of masks that doesn't count. Raises CallError.
    """
    from training.data import class_masks, coco, outlined_folder

    folder = _folder(data)
    is_coco = any(coco.is_likely(path) for path in coco.annotation_files(folder).values())
    if found := {} if is_coco else class_masks.pairs(folder):
        return class_masks.load(folder, found, seed, findings or Findings(), limits or Limits(), ignore_index)
    return outlined_folder.load(folder, seed, findings, limits)


def held_out_images(data: str, findings: Findings | None = None, limits: Limits | None = None) -> ImageData:
    """What measures a classifier that learned elsewhere, as `test`: the split of that name, else all of it.

    Takes what `load_images` does. Raises CallError.
    """
    from training.data import labeled_files, layouts, medmnist, torchvision_sets

    findings = findings or Findings()
    if data == "digits" or medmnist.is_one(data) or torchvision_sets.is_one(data):
        return replace(load_images(data, 0, findings, limits), train=[], validation=[])
    with findings.reported():
        listing = layouts.class_listing(_place(data, "digits"), findings)
        return labeled_files.held_out(listing, findings, limits or Limits())


def held_out_labels(
    data: str,
    findings: Findings | None = None,
    limits: Limits | None = None,
    separator: str | None = None,
) -> ImageData:
    """What measures a model of several labels, as `test`. Takes what `load_labels` does. Raises CallError."""
    from training.data import several_labels

    return several_labels.held_out(_place(data, None), findings or Findings(), limits or Limits(), separator)


def held_out_objects(data: str, findings: Findings | None = None, limits: Limits | None = None) -> ImageData:
    """What measures a detector that learned elsewhere, as `test`.

    Takes what `load_objects` does. Raises CallError.
    """
    from training.data import object_folder

    if data == "scenes":
        return replace(load_objects(data), train=[], validation=[])
    return object_folder.held_out(_folder(data, "scenes"), findings, limits)


def _folder(data: str, built_in: str | None = None) -> Path:
    """The folder that `data` names, also one of torchvision's sets. Raises CallError where there is none."""
    from training.data import torchvision_sets

    if torchvision_sets.is_one(data):
        return torchvision_sets.folder(data)
    folder = paths.expanded(data)
    if not folder.is_dir():
        raise CallError(
            f"data {data!r} is neither the built-in set {built_in!r} nor a folder"
            if built_in
            else f"data {data!r} is no folder"
        )
    return folder.resolve()


def _place(data: str, built_in: str | None) -> Path:
    """The folder, or the table or shard, that `data` names. Raises CallError where there is none."""
    from training.data import layouts

    path = paths.expanded(data)
    return path.resolve() if layouts.is_listing(path) else _folder(data, built_in)
