"""Augmentation picture by picture, as SSD learns (Liu et al. 2016, section 2.2): zoomed out, cropped,
mirrored, other colours.

Crops are cut from the pictures themselves, not from what the graph sees of them, so that what is enlarged is
sharp. `pixels` has the lighter augmentation, in whole batches, which is several times as fast.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from handlers.inputs.images import ImageInput
from training.data import Example
from training.runs import batches
from training.vision.detection.architectures import Targets
from training.vision.detection.pixels import open_example, size_of
from training.vision.records import UNCACHED, Record, Records, Storage, Stream, example_records

GREY = 114  # what letterbox pads with
LEAST_PIXELS = 2  # an object that is narrower in a view is none


class Views(batches.Batches[tuple[torch.Tensor, Targets]]):
    """Shuffled batches of augmented pictures: (float32 [B, 3, height, width] in 0..255, their objects). A
    short rest is left out.

    The pictures, at most twice as large as the input, lie in memory or on disk. The place of one that can't
    be read is taken by another one where the storage has findings for it, else CallError is raised. The order
    comes from `seed`, the views from torch's own generator.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        inputs: ImageInput,
        batch_size: int,
        flips: tuple[str, ...],
        seed: int,
        storage: Storage = UNCACHED,
    ) -> None:
        super().__init__(seed)
        self.records = _records(examples, inputs, storage)
        self.targets: Targets = [_target(example, inputs) for example in examples]
        read = self.records.all("reading training pictures") if storage.holds(self.records) else ()
        pairs = list(read)  # of a damaged picture, those of another one
        self.memory = [record for _, record in pairs]
        self.targets = [self.targets[row] for row, _ in pairs] or self.targets
        self.size = min(batch_size, len(examples))
        self.view = v2.Compose(
            [
                v2.RandomPhotometricDistort(p=0.5),
                v2.RandomZoomOut(fill=GREY, side_range=(1.0, 2.0), p=0.3),
                v2.RandomIoUCrop(min_scale=0.4),
                *([v2.RandomHorizontalFlip(0.5)] if "horizontal" in flips else []),
                *([v2.RandomVerticalFlip(0.5)] if "vertical" in flips else []),
                v2.Resize((inputs.height, inputs.width), antialias=inputs.antialias),
                v2.SanitizeBoundingBoxes(min_size=LEAST_PIXELS),
            ]
        )

    def __len__(self) -> int:
        return len(self.targets) // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """All pictures, shuffled."""
        return batches.shuffled(len(self.targets), self.size, self.generator)

    def read(self, steps: batches.Steps) -> Stream[list[tuple[torch.Tensor, dict[str, torch.Tensor]]]]:
        """The pictures with their objects."""
        if self.memory:
            for rows in steps:
                yield [(self.memory[row]["pixels"], self.targets[row]) for row in rows]
            return
        for read_rows, records in self.records.ahead(steps):
            pairs = zip(read_rows, records, strict=True)
            yield [(record["pixels"], self.targets[row]) for row, record in pairs]

    def batch(self, read: list[tuple[torch.Tensor, dict[str, torch.Tensor]]]) -> tuple[torch.Tensor, Targets]:
        """A view of each picture, with the objects that are seen in it."""
        views = [self._seen(*pair) for pair in read]
        return torch.stack([pixels for pixels, _ in views]).float(), [target for _, target in views]

    def _seen(
        self, picture: torch.Tensor, target: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        canvas: Any = {"format": "XYXY", "canvas_size": picture.shape[1:]}
        boxes = tv_tensors.BoundingBoxes(target["boxes"], **canvas)
        pixels, seen = self.view(tv_tensors.Image(picture), {"boxes": boxes, "labels": target["labels"]})
        return pixels.as_subclass(torch.Tensor), {
            name: value.as_subclass(torch.Tensor) for name, value in seen.items()
        }


def _records(examples: Sequence[Example], inputs: ImageInput, storage: Storage) -> Records:
    def make(row: int) -> Record:
        return {"pixels": _source(examples[row], inputs)}

    longer, shorter = sorted((inputs.height, inputs.width), reverse=True)
    # at most twice the longer side, padded to the proportions of the input
    most = 3 * (2 * longer) ** 2 * longer // shorter
    return example_records(examples, make, most, ["source", inputs.as_config()], storage)


def _target(example: Example, inputs: ImageInput) -> dict[str, torch.Tensor]:
    scale = _scale(size_of(example), inputs)
    return {"boxes": torch.from_numpy(example.boxes) * scale, "labels": torch.from_numpy(example.labels)}


def _scale(size: tuple[int, int], inputs: ImageInput) -> float:
    return min(1.0, 2 * max(inputs.height, inputs.width) / max(size))


def _source(example: Example, inputs: ImageInput) -> torch.Tensor:
    """uint8 [3, H, W] of a picture, in the proportions of the input if that is a letterbox."""
    image = open_example(example)
    scale = _scale(image.size, inputs)
    if scale < 1:
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
            Image.Resampling.BILINEAR,
        )
    if inputs.fit == "letterbox":
        ratio = inputs.width / inputs.height
        canvas = (
            max(image.width, round(image.height * ratio)),
            max(image.height, round(image.width / ratio)),
        )
        padded = Image.new("RGB", canvas, (GREY,) * 3)
        padded.paste(image, (0, 0))
        image = padded
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
