"""Pictures and clips as the augmentation of a classifier varies them, to look at."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from training.data import Example, ImageData
from training.data.overview import samples
from training.vision.classification.augmentation import augmentation
from training.vision.classification.inputs import picture
from training.vision.classification.settings import ClassifierSettings

CLIP_DIMENSIONS = 4
Augmented = Callable[[Any, ImageData, int, int], list[list[Image.Image]]]


def augmented_by(network_of: Callable[[Any, ImageData], tuple[Any, ImageInput | ClipInput]]) -> Augmented:
    """A recipe's function `augmented(settings, data, count, views)`: for `count` training examples, each as
    it is and in `views` variations. `network_of(settings, data)` gives the network and what its graph takes.
    """

    def augmented(
        settings: ClassifierSettings, data: ImageData, count: int, views: int
    ) -> list[list[Image.Image]]:
        config = network_of(settings.model_copy(update={"weights": "none"}), data)[1]
        return varied(samples(data, count), config, settings, views)

    return augmented


def varied(
    examples: Sequence[Example], config: ImageInput | ClipInput, settings: ClassifierSettings, views: int
) -> list[list[Image.Image]]:
    """For each example itself, as the graph gets it, and `views` variations; of clips the middle frame."""
    vary, rows = augmentation(settings, config), []
    for example in examples:
        pixels = picture(example, config)
        batch = vary(pixels[None].repeat(views, *(1,) * pixels.ndim))
        rows.append([image_of(each) for each in (pixels, *batch)])
    return rows


def image_of(pixels: torch.Tensor) -> Image.Image:
    """uint8 [C, H, W], or the middle frame of [T, C, H, W]."""
    frame = pixels[len(pixels) // 2] if pixels.ndim == CLIP_DIMENSIONS else pixels
    return Image.fromarray(frame.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
