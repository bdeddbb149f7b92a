"""From the outputs of a detector's graph to what it found, for the server and for the evaluation alike.

A one-stage graph gives every candidate, and thresholds and non-maximum suppression follow here. The order of
the steps is torchvision's (`SSD.postprocess_detections`, `FCOS.postprocess_detections`), so the detections
are too. A two-stage graph looks twice, and selects by itself in between ("selection": "graph"): it takes the
threshold as an input, and fills up with scores of 0.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..runtime.golden import REDUCED

GUESS = 0.02  # the score from which on average precision is measured
BLOCK = 128  # boxes that are compared with each other at once
# candidates per detection that are looked at first, and so many times as many where they are not enough
FIRST, MORE = 6, 8
SAMPLED = 17  # of so many scores one is looked at; a prime number, so that it is of every class


class Detections(NamedTuple):
    """What was found in one picture, best first, in pixels of the graph's input."""

    boxes: np.ndarray  # float32 [N, 4] as x1, y1, x2, y2
    scores: np.ndarray  # float32 [N]
    labels: np.ndarray  # int64 [N]
    # float32 [N, s, s], probabilities inside the boxes; zeros where none were asked for
    masks: np.ndarray | None = None


def further_inputs(threshold: float, masks: bool, settings: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """What the graph takes of one picture beside its pixels: nothing, or the least score and, with masks,
    whether they are wanted.
    """
    if settings.get("selection") != "graph":
        return ()
    least = np.array(threshold, np.float32)
    return (least, np.array(masks)) if settings.get("masks") else (least,)


def detections_of(outputs: Any, thresholds: Sequence[float], settings: dict[str, Any]) -> list[Detections]:
    """What a graph's outputs for a batch say of each picture; `settings` is postprocess_config.json,
    `thresholds` one per picture.
    """
    if settings.get("selection") == "graph":
        return [Detections(*(part[row[1] > 0] for part in row)) for row in zip(*outputs, strict=True)]
    own = {key: value for key, value in settings.items() if key != "type"}
    pictures = zip(*outputs, thresholds, strict=True)
    return [
        Detections(*select(boxes, scores, **{**own, "score_threshold": least}))
        for boxes, scores, least in pictures
    ]


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

    `boxes` [A, 4] are x1, y1, x2, y2 in pixels and `scores` [A, classes] in 0..1 without background. Of the
    scores above `score_threshold` the best `candidates` go on, in the whole image or in each class ("image" |
    "class", SSD's way); of boxes of one class that overlap by more than `nms_threshold` (intersection over
    union) the best one stays; the best `detections_per_image` are given back.
    """
    flat, looked_at = scores.reshape(-1), FIRST * detections_per_image
    while True:
        least = max(score_threshold, _exceeded_by(flat, looked_at))
        places = np.flatnonzero(flat > least)
        places = places[np.argsort(-flat[places], kind="stable")]
        if candidates_per == "image":
            places = places[:candidates]
        anchors, labels = np.divmod(places, scores.shape[1])
        if candidates_per == "class" and len(labels) > candidates:
            ahead = _rank_within(labels) < candidates
            places, anchors, labels = places[ahead], anchors[ahead], labels[ahead]
        order = _non_maximum_suppression(boxes[anchors], labels, nms_threshold, detections_per_image)
        if least <= score_threshold or len(order) == detections_per_image:
            return boxes[anchors[order]], flat[places[order]], labels[order]
        looked_at *= MORE


def _exceeded_by(scores: np.ndarray, many: int) -> float:
    """What some `many` of `scores` [N] are above, by a sample of them; minus infinity where it is too
    small to tell.
    """
    sample, rank = scores[::SAMPLED], many // SAMPLED
    return float(np.partition(sample, -rank)[-rank]) if 0 < rank <= len(sample) else -np.inf


def _rank_within(labels: np.ndarray) -> np.ndarray:
    """How many of `labels` [N] before each are the same."""
    order, counts = np.argsort(labels, kind="stable"), np.bincount(labels)
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def _non_maximum_suppression(
    boxes: np.ndarray, labels: np.ndarray, threshold: float, most: int
) -> np.ndarray:
    """Indices of the first `most` boxes [N, 4] that no better one of their class overlaps by more than
    `threshold`; best come first.

    Each class by itself, as its boxes are moved to where no other's are (torchvision's `batched_nms`).
    """
    apart = boxes + (labels.astype(boxes.dtype) * (boxes.max(initial=0) + 1))[:, None]
    stays: list[int] = []
    most_overlap = np.float64(threshold)  # compared in double precision, as by torchvision
    for start in range(0, len(apart), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(apart)))
        block = block[~(overlaps(apart[stays], apart[block]) > most_overlap).any(0)]
        beside = ~(overlaps(apart[block], apart[block]) > most_overlap)
        free = np.ones(len(block), bool)
        for place, index in enumerate(block.tolist()):
            if free[place]:
                stays.append(index)
                free &= beside[place]
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


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes [x1, y1, x2, y2]; 0 if they don't touch."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    total = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / total if total > 0 else 0.0


def partners(
    one: list[dict[str, Any]], other: list[dict[str, Any]], certain: float, overlap: float = 0.75
) -> float:
    """The share of the detections in both lists with scores above `certain` that have a partner in the other
    list; 1 if there are none.

    A partner is of the same class, overlaps by three quarters, and its own score may be lower by what a
    golden sample's score may differ.
    """
    one, other = (
        [found for found in side if found["score"] > certain - REDUCED.number] for side in (one, other)
    )
    counted = sum(found["score"] > certain for found in (*one, *other))
    if not counted or not one or not other:
        return 0.0 if counted else 1.0
    boxes, classes = (
        [np.array([found[key] for found in side]) for side in (one, other)] for key in ("bbox", "class")
    )
    shares = np.nan_to_num(overlaps(*boxes)) * (classes[0][:, None] == classes[1])
    matched = 0
    for row, found in zip(shares, one, strict=True):  # a partner is taken: its column is, too
        best = int(row.argmax())
        if row[best] >= overlap:
            shares[:, best] = 0
            matched += (found["score"] > certain) + (other[best]["score"] > certain)
    return float(matched / counted)
