"""From the outputs of a detector's graph to what it found, for the server and for the evaluation alike.

A one-stage graph gives every candidate, and thresholds and non-maximum suppression follow here. The order of the steps is
torchvision's (`SSD.postprocess_detections`, `FCOS.postprocess_detections`), so the detections are too. A two-stage graph looks twice,
and selects by itself in between ("selection": "graph"): it takes the threshold as an input, and fills up with scores of 0.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK = 256  # boxes that are compared with each other at once


class Detections(NamedTuple):
    """What was found in one picture, best first, in pixels of the graph's input."""

    boxes: np.ndarray  # float32 [N, 4] as x1, y1, x2, y2
    scores: np.ndarray  # float32 [N]
    labels: np.ndarray  # int64 [N]
    masks: np.ndarray | None = None  # float32 [N, s, s], probabilities inside the boxes; zeros where none were asked for


def further_inputs(threshold: float, masks: bool, settings: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """What the graph takes of one picture beside its pixels: nothing, or the least score and, with masks, whether they are wanted."""
    if settings.get("selection") != "graph":
        return ()
    least = np.array(threshold, np.float32)
    return (least, np.array(masks)) if settings.get("masks") else (least,)


def detections_of(outputs: Any, thresholds: Sequence[float], settings: dict[str, Any]) -> list[Detections]:
    """What a graph's outputs for a batch say of each picture; `settings` is postprocess_config.json, `thresholds` one per picture."""
    if settings.get("selection") == "graph":
        return [Detections(*(part[row[1] > 0] for part in row)) for row in zip(*outputs, strict=True)]
    own = {key: value for key, value in settings.items() if key != "type"}
    pictures = zip(*outputs, thresholds, strict=True)
    return [Detections(*select(boxes, scores, **{**own, "score_threshold": least})) for boxes, scores, least in pictures]


def select(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    candidates: int,
    nms_threshold: float,
    detections_per_image: int,
    candidates_per: str = "image",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was found in one picture, best first: boxes float32 [N, 4], scores float32 [N], labels int64 [N].

    `boxes` [A, 4] are x1, y1, x2, y2 in pixels and `scores` [A, classes] in 0..1 without background. Of the scores above
    `score_threshold` the best `candidates` go on, in the whole image or in each class ("image" | "class", SSD's way); of boxes
    of one class that overlap by more than `nms_threshold` (intersection over union) the best one stays; the best
    `detections_per_image` are given back.
    """
    above = scores > score_threshold
    if candidates_per == "class" and np.count_nonzero(above) > candidates and bool((above.sum(0) > candidates).any()):
        most = min(candidates, len(scores))
        above &= scores >= np.partition(scores, -most, axis=0)[-most]
    places, labels = np.divmod(np.flatnonzero(above), scores.shape[1])  # in a third of the time of two-dimensional indices
    kept = scores[places, labels]
    best = np.argsort(-kept, kind="stable")
    if candidates_per == "image":
        best = best[:candidates]
    found, kept, labels = boxes[places[best]], kept[best], labels[best]
    order = _non_maximum_suppression(found, labels, nms_threshold, detections_per_image)
    return found[order], kept[order], labels[order]


def _non_maximum_suppression(boxes: np.ndarray, labels: np.ndarray, threshold: float, most: int) -> np.ndarray:
    """Indices of the first `most` boxes [N, 4] that no better one of their class overlaps by more than `threshold`; best come first.

    Each class by itself, as its boxes are moved to where no other's are (torchvision's `batched_nms`).
    """
    apart = boxes + (labels.astype(boxes.dtype) * (boxes.max(initial=0) + 1))[:, None]
    stays: list[int] = []
    most_overlap = np.float64(threshold)  # compared in double precision, as by torchvision
    for start in range(0, len(apart), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(apart)))
        block = block[~(overlaps(apart[stays], apart[block]) > most_overlap).any(0)]
        over = overlaps(apart[block], apart[block]) > most_overlap
        free = np.ones(len(block), bool)
        for place, index in enumerate(block.tolist()):
            if free[place]:
                stays.append(index)
                free &= ~over[place]
            if len(stays) == most:
                return np.array(stays)
    return np.array(stays, np.int64)


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N, 4] and [M, 4], [N, M]; NaN for two without an area."""
    left, top, right, bottom = (column[:, None] for column in one.T)
    x1, y1, x2, y2 = other.T
    common = np.maximum(np.minimum(right, x2) - np.maximum(left, x1), 0)
    common *= np.maximum(np.minimum(bottom, y2) - np.maximum(top, y1), 0)
    with np.errstate(invalid="ignore"):
        shares: np.ndarray = common / ((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - common)
    return shares
