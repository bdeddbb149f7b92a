"""Pictures and clips as the augmentation of a classifier varies them, to look at."""

from collections.abc import Sequence

import torch
from PIL import Image

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from training.data import Example
from training.vision.classification.augmentation import augmentation
from training.vision.classification.inputs import picture
from training.vision.classification.settings import ClassifierSettings

CLIP_DIMENSIONS = 4


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
