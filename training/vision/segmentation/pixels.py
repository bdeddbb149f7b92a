"""Pictures and label maps for training a segmenter: prepared once by the transform that serves, augmented
in whole batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from handlers.inputs.images import ImageInput, prepare
from training.data import Example
from training.data.outlined_folder import IGNORED, label_map
from training.runs import batches
from training.vision.detection.pixels import Flip, PictureBatches, fitted, open_example, size_of, view
from training.vision.records import UNCACHED, Column, Record, Records, Storage, Stream, example_records
from training.vision.transforms import with_labels


@dataclass(frozen=True)
class Prepared:
    """Pictures as the graph takes them, uint8 [N, 3, height, width], and for each the truth in its own
    size, uint8 [H, W].

    `labels` is the truth as the graph sees the pictures, uint8 [N, height, width]; IGNORED where the input
    shows no picture.
    """

    pixels: torch.Tensor | Column
    labels: torch.Tensor | Column
    truth: Sequence[np.ndarray]

    @classmethod
    def of(
        cls, examples: Sequence[Example], inputs: ImageInput, what: str, storage: Storage = UNCACHED
    ) -> "Prepared":
        """Prepare `examples`: here, behind a progress bar, where they fit into memory, else when they are
        needed. The place of a picture that can't be read is taken by another one where the storage has
        findings for it. Raises CallError where it has none.
        """
        records = _records(examples, inputs, storage)
        truth = LabelMaps(examples, storage)
        if not storage.holds(records):
            return cls(Column(records, "pixels"), Column(records, "labels"), truth)
        pixels = torch.empty(len(examples), 3, inputs.height, inputs.width, dtype=torch.uint8)
        labels = torch.empty(len(examples), inputs.height, inputs.width, dtype=torch.uint8)
        for place, (_, record) in enumerate(records.all(f"preparing {what}")):
            pixels[place], labels[place] = record["pixels"], record["labels"]
        return cls(pixels, labels, truth)

    def ahead(self, steps: batches.Steps) -> Stream[tuple[torch.Tensor, torch.Tensor]]:
        """The pictures and labels of each step, read ahead where they lie on disk."""
        if isinstance(self.pixels, torch.Tensor):
            for rows in steps:
                yield self.pixels[rows], self.labels[rows]
            return
        for _, read in self.pixels.records.ahead(steps):
            pixels, labels = (torch.stack([record[name] for record in read]) for name in ("pixels", "labels"))
            yield pixels, labels


class LabelMaps(Sequence[np.ndarray]):
    """The truth of each example in its own size, uint8 [H, W]: painted when it is asked for, and kept as long
    as memory allows.
    """

    def __init__(self, examples: Sequence[Example], storage: Storage) -> None:
        self.examples, self.left = examples, storage.memory_bytes
        self.kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: Any) -> Any:
        """One map by its index, or some by a slice."""
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        if row not in self.kept:
            example = self.examples[row]
            painted = label_map(example, *size_of(example))
            if painted.nbytes > self.left:
                return painted
            self.left -= painted.nbytes
            self.kept[row] = painted
        return self.kept[row]


def _records(examples: Sequence[Example], inputs: ImageInput, storage: Storage) -> Records:
    """Records of "pixels" and "labels"."""

    def make(row: int) -> Record:
        image = open_example(examples[row])
        labels = fitted(label_map(examples[row], *image.size), inputs, IGNORED)
        return {"pixels": torch.from_numpy(prepare(image, inputs)), "labels": torch.from_numpy(labels)}

    return example_records(
        examples, make, 4 * inputs.height * inputs.width, ["labels", inputs.as_config()], storage
    )


class Batches(PictureBatches[torch.Tensor]):
    """Augmented batches: (float32 [B, 3, height, width] in 0..255, labels int64 [B, height, width])."""

    def batch(self, read: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures and labels, augmented."""
        pixels, labels = read
        if self.transforms is not None:
            seen = [with_labels(self.transforms, *pair) for pair in zip(pixels, labels, strict=True)]
            pixels, labels = (torch.stack(part) for part in zip(*seen, strict=True))
        pixels = pixels.float()
        if self.light or self.flips:
            pixels, labels = augment(pixels, labels, self.light, self.flips, self.generator)
        return pixels, labels.long()


def augment(
    pixels: torch.Tensor, labels: torch.Tensor, light: bool, flips: Sequence[Flip], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures as `detection.pixels.augment` changes them, with the labels moved along; what comes from
    outside is IGNORED.
    """
    seen, _, _, grid = view(pixels, light, flips, generator)
    beside = labels[:, None].float() - IGNORED  # outside, grid_sample finds 0
    moved = functional.grid_sample(beside, grid, mode="nearest", align_corners=False)[:, 0] + IGNORED
    return seen, moved.round().to(torch.uint8)
