"""From the outputs of a detector's graph to what it found, for the server and for the evaluation alike.

A one-stage graph gives every candidate, and thresholds and non-maximum suppression follow here. The order of the steps is
torchvision's (`SSD.postprocess_detections`, `FCOS.postprocess_detections`), so the detections are too. A two-stage graph looks twice,
and selects by itself in between ("selection": "graph"): it takes the threshold as an input, and fills up with scores of 0.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

if not hasattr(torch.ops.torchvision, "nms"):  # torchvision's operators without the rest of it, which takes a worker seconds to read
    for package in getattr(find_spec("torchvision"), "submodule_search_locations", None) or []:
        for library in sorted(Path(package).glob("_C*.so")):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]

FEW = 1000  # boxes: of more, one class after the other is faster than all in one pass


class Detections(NamedTuple):
    """What was found in one picture, best first, in pixels of the graph's input."""

    boxes: torch.Tensor  # float32 [N, 4] as x1, y1, x2, y2
    scores: torch.Tensor  # float32 [N]
    labels: torch.Tensor  # int64 [N]
    masks: torch.Tensor | None = None  # float32 [N, s, s], probabilities inside the boxes; zeros where none were asked for


def further_inputs(threshold: float, masks: bool, settings: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """What the graph takes of one picture beside its pixels: nothing, or the least score and, with masks, whether they are wanted."""
    if settings.get("selection") != "graph":
        return ()
    return (torch.tensor(threshold), torch.tensor(masks)) if settings.get("masks") else (torch.tensor(threshold),)


def detections_of(outputs: Any, thresholds: Sequence[float], settings: dict[str, Any]) -> list[Detections]:
    """What a graph's outputs for a batch say of each picture; `settings` is postprocess_config.json, `thresholds` one per picture."""
    if settings.get("selection") == "graph":
        return [Detections(*(part[row[1] > 0] for part in row)) for row in zip(*outputs, strict=True)]
    own = {key: value for key, value in settings.items() if key != "type"}
    pictures = zip(*outputs, thresholds, strict=True)
    return [Detections(*select(boxes, scores, **{**own, "score_threshold": least})) for boxes, scores, least in pictures]


def select(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    score_threshold: float,
    candidates: int,
    nms_threshold: float,
    detections_per_image: int,
    candidates_per: str = "image",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What was found in one picture, best first: boxes float32 [N, 4], scores float32 [N], labels int64 [N].

    `boxes` [A, 4] are x1, y1, x2, y2 in pixels and `scores` [A, classes] in 0..1 without background. Of the scores above
    `score_threshold` the best `candidates` go on, in the whole image or in each class ("image" | "class", SSD's way); of boxes
    of one class that overlap by more than `nms_threshold` (intersection over union) the best one stays; the best
    `detections_per_image` are given back.
    """
    above = scores > score_threshold
    if candidates_per == "class" and bool((above.sum(0) > candidates).any()):
        least = scores.topk(min(candidates, len(scores)), dim=0).values[-1]
        above &= scores >= least
    places, labels = above.nonzero(as_tuple=True)
    kept = scores[places, labels]
    if candidates_per == "image" and len(kept) > candidates:
        kept, best = kept.topk(candidates)
        places, labels = places[best], labels[best]
    found = boxes[places]
    order = _nms_by_class(found, kept, labels, nms_threshold)[:detections_per_image]
    return found[order], kept[order], labels[order]


def _nms_by_class(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices of what stays, best first, int64: each class by itself, as its boxes are moved to where no other's are."""
    if len(boxes) <= FEW:
        apart = labels.to(boxes) * (boxes.max() + 1) if len(boxes) else scores
        stays: torch.Tensor = torch.ops.torchvision.nms(boxes + apart[:, None], scores, threshold)
        return stays
    rows = [(labels == label).nonzero().flatten() for label in set(labels.tolist())]
    kept = torch.cat([row[torch.ops.torchvision.nms(boxes[row], scores[row], threshold)] for row in rows])
    return kept[scores[kept].argsort(descending=True)]
