"""Pictures and label maps for training a segmenter: prepared once by the transform that serves, augmented in whole batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track
from torch.nn import functional

from marina.errors import CallError
from training.datasets import Example
from training.datasets.outlined_folder import IGNORED, label_map
from training.detection.pixels import MAX_BYTES, fitted, open_example, view
from training.running import batches

from bundle_images import ImageInput, prepare


@dataclass(frozen=True)
class Prepared:
    """Pictures as the graph takes them, uint8 [N, 3, height, width], and for each the truth in its own size, uint8 [H, W]."""

    pixels: torch.Tensor
    truth: list[np.ndarray]

    @classmethod
    def of(cls, examples: Sequence[Example], inputs: ImageInput, what: str) -> "Prepared":
        """Read and prepare all `examples` behind a progress bar. Raises CallError for more than MAX_BYTES of pixels."""
        needed = len(examples) * 3 * inputs.height * inputs.width
        if needed > MAX_BYTES:
            raise CallError(
                f"{len(examples):,} {what} need {needed / 1e9:.0f} GB at this size; set a smaller height and width or take fewer"
            )
        pixels = torch.empty(len(examples), 3, inputs.height, inputs.width, dtype=torch.uint8)
        truth = []
        for k, example in enumerate(track(examples, f"preparing {what}", transient=True)):
            image = open_example(example)
            pixels[k] = torch.from_numpy(prepare(image, inputs))
            truth.append(label_map(example, *image.size))
        return cls(pixels, truth)

    def labels(self, inputs: ImageInput) -> torch.Tensor:
        """The truth as the graph sees the pictures, uint8 [N, height, width]; IGNORED where the input shows no picture."""
        return torch.stack([torch.from_numpy(fitted(one, inputs, IGNORED)) for one in self.truth])


class Batches(batches.Batches[tuple[torch.Tensor, torch.Tensor]]):
    """Shuffled, augmented batches: (float32 [B, 3, height, width] in 0..255, labels int64 [B, height, width]). A short rest is left out."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, batch_size: int, light: bool, flip: bool, seed: int) -> None:
        super().__init__(seed)
        self.pixels, self.labels, self.light, self.flip = pixels, labels, light, flip
        self.size = min(batch_size, len(pixels))

    def __len__(self) -> int:
        return len(self.pixels) // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """All pictures, shuffled."""
        return batches.shuffled(len(self.pixels), self.size, self.generator)

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures and labels, augmented."""
        pixels, labels = self.pixels[rows].float(), self.labels[rows]
        if self.light or self.flip:
            pixels, labels = augment(pixels, labels, self.light, self.flip, self.generator)
        return pixels, labels.long()


def augment(
    pixels: torch.Tensor, labels: torch.Tensor, light: bool, flip: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures as `detection.pixels.augment` changes them, with the labels moved along; what comes from outside is IGNORED."""
    seen, _, _, grid = view(pixels, light, flip, generator)
    beside = labels[:, None].float() - IGNORED  # outside, grid_sample finds 0
    moved = functional.grid_sample(beside, grid, mode="nearest", align_corners=False)[:, 0] + IGNORED
    return seen, moved.round().to(torch.uint8)
