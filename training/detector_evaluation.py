"""How good a detector is: what it finds in prepared pictures, what of that is right, and COCO's average precision.

Everything is measured in the pixels of the pictures themselves, as a client sees the answers, for built-in and own data alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from training.datasets import Example

from bundle_detections import select
from bundle_images import ImageInput, boxes_to_image

LEAST = 0.02  # score from which on a detection counts for average precision
BATCH = 32


@dataclass
class Found:
    """What a detector found in one picture, best first: boxes [N, 4] in pixels of the picture, scores [N], labels [N]."""

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor

    def above(self, threshold: float) -> "Found":
        """The part of it with scores above `threshold`."""
        keep = self.scores > threshold
        return Found(self.boxes[keep], self.scores[keep], self.labels[keep])


@torch.no_grad()
def detect(
    module: torch.nn.Module, pixels: torch.Tensor, sizes: Sequence[tuple[int, int]], inputs: ImageInput, postprocess: dict[str, Any]
) -> list[Found]:
    """What `module` finds in pictures `pixels` (uint8 [N, 3, H, W], prepared from pictures of `sizes` as width, height).

    `postprocess` is as in postprocess_config.json; the caller chooses its "score_threshold", which is not that of the server.
    """
    options = {key: value for key, value in postprocess.items() if key != "type"}
    device = next(module.parameters()).device
    found = []
    for start in range(0, len(pixels), BATCH):
        boxes, scores = (output.cpu() for output in module(pixels[start : start + BATCH].to(device)))
        for k, size in enumerate(sizes[start : start + BATCH]):
            kept, kept_scores, labels = select(boxes[k], scores[k], **options)
            found.append(Found(boxes_to_image(kept, size, inputs), kept_scores, labels))
    return found


def precision_recall(found: Sequence[Found], examples: Sequence[Example]) -> tuple[dict[str, float], np.ndarray]:
    """COCO's average precision in 0..1, and precision at IoU 0.5 over recall 0, 0.01 … 1 as [101, classes] (-1: none).

    {"map", "ap50"}, and of small, medium and large objects (32 and 96 pixels a side lie between) those that there are.
    """
    result = _coco(found, examples)
    summary = {"map": max(0.0, float(result["map"])), "ap50": max(0.0, float(result["map_50"]))}
    sizes = {f"map_{size}": float(result[f"map_{size}"]) for size in ("small", "medium", "large")}
    return summary | {name: value for name, value in sizes.items() if value >= 0}, result["precision"][0, :, :, 0, -1].numpy()


def by_class(found: Sequence[Found], examples: Sequence[Example], classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """{class: {"map", "ap50", "objects"}} for the classes that the examples have."""
    result = _coco(found, examples)
    precision = result["precision"][:, :, :, 0, -1].numpy()  # [thresholds, recalls, classes that occur, in their order]
    labels = np.concatenate([one.labels for one in examples])
    return {
        classes[label]: {
            "map": round(float(precision[:, :, k].mean()), 4),
            "ap50": round(float(precision[0, :, k].mean()), 4),
            "objects": int((labels == label).sum()),
        }
        for k, label in enumerate(result["classes"].reshape(-1).tolist())
        if precision[0, 0, k] >= 0
    }


def _coco(found: Sequence[Found], examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    metric = MeanAveragePrecision(extended_summary=True)
    metric.warn_on_many_detections = False  # COCO's rule cuts at 100 per picture, which is meant
    metric.update(
        [{"boxes": one.boxes, "scores": one.scores, "labels": one.labels} for one in found],
        [{"boxes": torch.from_numpy(one.boxes), "labels": torch.from_numpy(one.labels)} for one in examples],
    )
    return metric.compute()  # type: ignore[no-any-return]


def judge(found: Found, example: Example, overlap: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right [N] and which objects were found [M], both bool.

    Best score first, each takes the free object of its class that it overlaps most, if by `overlap` (IoU) or more; COCO's rule.
    """
    right, taken = np.zeros(len(found.labels), bool), np.zeros(len(example.labels), bool)
    if not (len(right) and len(taken)):
        return right, taken
    shared = box_iou(found.boxes, torch.from_numpy(example.boxes)).numpy()
    shared[found.labels.numpy()[:, None] != example.labels[None, :]] = 0
    for k, row in enumerate(shared):
        best = int(np.where(taken, 0, row).argmax())
        if not taken[best] and row[best] >= overlap:
            right[k] = taken[best] = True
    return right, taken


def best_threshold(found: Sequence[Found], examples: Sequence[Example]) -> float:
    """The score in 0.05..0.95 from which on detections are worth serving: the middle of where F1 is within 0.01 of its best."""
    scores = np.concatenate([one.scores.numpy() for one in found])
    right = np.concatenate([judge(one, example)[0] for one, example in zip(found, examples, strict=True)])
    objects = sum(len(example.labels) for example in examples)
    thresholds = np.arange(0.05, 0.951, 0.01)
    f1 = np.array([2 * right[scores > least].sum() / max(1, (scores > least).sum() + objects) for least in thresholds])
    return round(float(thresholds[f1 >= f1.max() - 0.01].mean()), 2)


def at_threshold(found: Sequence[Found], examples: Sequence[Example]) -> dict[str, float]:
    """{"precision", "recall"} in 0..1 of what is served, at IoU 0.5 and with the right class."""
    verdicts = [judge(one, example) for one, example in zip(found, examples, strict=True)]
    right, taken = (np.concatenate(column) for column in zip(*verdicts, strict=True))
    return {"precision": float(right.mean()) if len(right) else 0.0, "recall": float(taken.mean()) if len(taken) else 0.0}
