"""Augmentation picture by picture, as SSD learns (Liu et al. 2016, section 2.2): zoomed out, cropped, mirrored, other colours.

Crops are cut from the pictures themselves, not from what the graph sees of them, so that what is enlarged is sharp. `pixels`
has the lighter augmentation, in whole batches, which is several times as fast.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torchvision import tv_tensors
from torchvision.transforms import v2

from marina.errors import CallError
from training.datasets import Example
from training.detection.architectures import Targets
from training.detection.pixels import MAX_BYTES, open_example
from training.running import batches

from bundle_images import ImageInput

GREY = 114  # what letterbox pads with
LEAST_PIXELS = 2  # an object that is narrower in a view is none


class Views(batches.Batches[tuple[torch.Tensor, Targets]]):
    """Shuffled batches of augmented pictures: (float32 [B, 3, height, width] in 0..255, their objects). A short rest is left out.

    The pictures lie in memory, at most twice as large as the input. Raises CallError for more than MAX_BYTES of them. The order
    comes from `seed`, the views from torch's own generator.
    """

    def __init__(self, examples: Sequence[Example], inputs: ImageInput, batch_size: int, flips: tuple[str, ...], seed: int) -> None:
        super().__init__(seed)
        self.pictures: list[torch.Tensor] = []
        self.targets: Targets = []
        used = 0
        for example in track(examples, "reading training pictures", transient=True):
            pixels, boxes = _source(example, inputs)
            self.pictures.append(pixels)
            self.targets.append({"boxes": boxes, "labels": torch.from_numpy(example.labels)})
            used += pixels.nbytes
            if used > MAX_BYTES:
                raise CallError(f"{len(examples):,} training pictures need too much memory; set a smaller height and width, or take fewer")
        self.size = min(batch_size, len(self.pictures))
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
        return len(self.pictures) // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """All pictures, shuffled."""
        return batches.shuffled(len(self.pictures), self.size, self.generator)

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, Targets]:
        """A view of each picture, with the objects that are seen in it."""
        views = [self._seen(row) for row in rows]
        return torch.stack([pixels for pixels, _ in views]).float(), [target for _, target in views]

    def _seen(self, row: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        picture, target = self.pictures[row], self.targets[row]
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=picture.shape[1:])  # type: ignore[call-overload]
        pixels, seen = self.view(tv_tensors.Image(picture), {"boxes": boxes, "labels": target["labels"]})
        return pixels.as_subclass(torch.Tensor), {name: value.as_subclass(torch.Tensor) for name, value in seen.items()}


def _source(example: Example, inputs: ImageInput) -> tuple[torch.Tensor, torch.Tensor]:
    """(uint8 [3, H, W], boxes float32 [N, 4]) of a picture, in the proportions of the input if that is a letterbox."""
    image = open_example(example)
    scale = min(1.0, 2 * max(inputs.height, inputs.width) / max(image.size))
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BILINEAR)
    if inputs.fit == "letterbox":
        ratio = inputs.width / inputs.height
        canvas = (max(image.width, round(image.height * ratio)), max(image.height, round(image.width / ratio)))
        padded = Image.new("RGB", canvas, (GREY,) * 3)
        padded.paste(image, (0, 0))
        image = padded
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(), torch.from_numpy(example.boxes) * scale
