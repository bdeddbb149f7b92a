"""Data sets: one file per source, all giving the same `ImageData`.

`load(data, kind)` takes the name of a built-in set, or a folder or file of the user's own, and finds the layout by looking. `held_out`
takes the same for a model that learned elsewhere: all that is not named as its training data measures it.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from marina.errors import CallError


@dataclass(frozen=True)
class Example:
    """One picture: a file, or pixels (uint8, [H, W] grey or [H, W, 3] RGB), with its class, its boxes or its outlines."""

    image: Path | np.ndarray
    label: int = -1  # classifiers
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))  # [N, 4] x1, y1, x2, y2 in pixels
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # [N], without background
    outlines: tuple[tuple[int, Any], ...] = ()  # segmenters: (class index or -1 for "don't count", what COCO calls a segmentation)
    segmentations: tuple[Any, ...] = ()  # [N] the same of each box, None where it has none; empty where no box can have one

    def content(self) -> bytes:
        """The file, or the pixels, for a fingerprint."""
        return self.image.read_bytes() if isinstance(self.image, Path) else np.ascontiguousarray(self.image).tobytes()

    def encoded(self) -> tuple[bytes, str]:
        """The picture as a client would send it: (bytes, content type). Pixels become a PNG."""
        if isinstance(self.image, Path):
            suffix = self.image.suffix.lower().lstrip(".")
            kind = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
            return self.image.read_bytes(), f"image/{kind}"
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "PNG")
        return buffer.getvalue(), "image/png"


@dataclass(frozen=True)
class ImageData:
    """A data set in three splits. `test` is what the floor is measured on and is touched for nothing else."""

    name: str
    classes: tuple[str, ...]
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    source: str
    licence: str

    def about(self) -> dict[str, Any]:
        """Name, origin, counts and fingerprint, for the export's metadata."""
        return {
            "name": self.name,
            "source": self.source,
            "licence": self.licence,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "fingerprint": fingerprint([*self.train, *self.validation, *self.test]),
        }


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 over pictures and labels in their order, so that two runs can tell whether they saw the same data."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.content())
        digest.update(f"{example.label}".encode() + example.boxes.tobytes() + example.labels.tobytes())
        digest.update(repr(example.outlines).encode() if example.outlines else b"")
    return digest.hexdigest()


def load(data: str, kind: str, seed: int = 0) -> ImageData:
    """The built-in set, folder or file that `data` names, for a model of `kind` (any of `marina.spec.Kind` but "policy").

    Raises CallError, with the layouts that are understood, when `data` is none of them.
    """
    if kind == "classifier":
        from training.datasets import digits, image_folder, medmnist

        if medmnist.is_one(data):
            return medmnist.load(Path(data).expanduser())
        return digits.load() if data == "digits" else image_folder.load(_folder(data, "digits"), seed)
    if kind == "segmenter":
        from training.datasets import outlined_folder

        return outlined_folder.load(_folder(data), seed)
    if kind == "video_classifier":
        from training.datasets import clip_folder, motions

        return motions.load() if data == "motions" else clip_folder.load(_folder(data, "motions"), seed)
    from training.datasets import object_folder, scenes

    return scenes.load() if data == "scenes" else object_folder.load(_folder(data, "scenes"), seed)


def held_out(data: str, kind: str) -> ImageData:
    """What measures a model that learned elsewhere, as `test`: the split that the data names so, else all of it; nothing else.

    Takes what `load` does, and for a classifier a folder with labels.json. Raises CallError.
    """
    if data in ("digits", "scenes") or data.endswith(".npz"):
        return replace(load(data, kind), train=[], validation=[])
    folder = _folder(data, "digits" if kind == "classifier" else "scenes")
    if kind == "classifier":
        from training.datasets import image_folder, labels_file

        return labels_file.load(folder) if (folder / labels_file.NAME).is_file() else image_folder.held_out(folder)
    from training.datasets import object_folder

    return object_folder.held_out(folder)


def _folder(data: str, built_in: str | None = None) -> Path:
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise CallError(
            f"data {data!r} is neither the built-in set {built_in!r} nor a folder" if built_in else f"data {data!r} is no folder"
        )
    return folder.resolve()
