"""How good a segmenter is: what it finds in prepared pictures, and how far that overlaps with the truth.

Everything is counted in the pixels of the pictures themselves, over all pictures together, as a client sees
the answers.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from handlers.inputs.images import ImageInput
from handlers.inputs.masks import label_map as found_map
from training.data import Example
from training.data.outlined_folder import IGNORED, label_map
from training.vision.detection.pixels import open_example
from training.vision.records import Column

BATCH = 16


@torch.no_grad()
def segment(
    module: torch.nn.Module,
    pixels: torch.Tensor | Column,
    truth: Sequence[np.ndarray],
    inputs: ImageInput,
) -> Iterator[np.ndarray]:
    """The label maps that `module` gives for prepared pictures, uint8 [N, 3, H, W], each in the size of
    its truth.
    """
    device = next(module.parameters()).device
    for start in range(0, len(pixels), BATCH):
        logits = module(pixels[start : start + BATCH].to(device)).cpu().numpy()
        sizes = [one.shape[::-1] for one in truth[start : start + BATCH]]
        for one, size in zip(logits, sizes, strict=True):
            yield found_map(one, (size[0], size[1]), inputs)


def truth_of(example: Example) -> np.ndarray:
    """The label map of an example in its own size."""
    return label_map(example, *open_example(example).size)


def pairs(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels are of which class, and found to be of which: int64 [classes of the truth, classes
    found].
    """
    counts = multiclass_confusion_matrix(
        torch.from_numpy(found).long(), torch.from_numpy(truth).long(), classes, ignore_index=IGNORED
    )
    return counts.numpy()  # type: ignore[no-any-return]


OVERLAP_METRICS = ("mean_iou", "dice", "pixel_accuracy")  # of `overlap`


def overlap(counts: np.ndarray) -> dict[str, float]:
    """{"mean_iou", "dice", "pixel_accuracy"} of `pairs` in 0..1: means over the classes that occur, the
    background included.
    """
    iou, dice = _per_class(counts)
    return {
        "mean_iou": float(np.nanmean(iou)),
        "dice": float(np.nanmean(dice)),
        "pixel_accuracy": float(np.trace(counts) / max(1, counts.sum())),
    }


def by_class(counts: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """{class: {"iou", "dice"}} for the classes that occur."""
    values = zip(classes, *_per_class(counts), strict=True)
    return {
        name: {"iou": round(float(iou), 4), "dice": round(float(dice), 4)}
        for name, iou, dice in values
        if not np.isnan(iou)
    }


def _per_class(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(intersection over union, Dice's coefficient) of each class; NaN where it neither is nor is found."""
    both, either = np.diag(counts).astype(float), counts.sum(0) + counts.sum(1)
    with np.errstate(invalid="ignore"):
        return both / (either - both), 2 * both / either
