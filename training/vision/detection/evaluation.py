"""How good a detector is: what it finds in prepared pictures, what of that is right, and COCO's average
precision.

Everything is measured in the pixels of the pictures themselves, as a client sees the answers, for built-in
and own data alike.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from handlers.inputs.images import ImageInput, boxes_to_image, boxes_to_input
from handlers.inputs.masks import read_mask
from handlers.kinds.detections import detections_of, further_inputs
from handlers.kinds.instance_masks import place_mask
from handlers.runtime.runtimes import arrays
from training.data import Example
from training.vision.detection.pixels import object_masks, open_example
from training.vision.records import Column

LEAST = 0.02  # score from which on a detection counts for average precision
BATCH = 32
BATCH_OF_TWO_STAGES = 4  # a second look at every place takes more memory than the pictures


@dataclass
class Found:
    """What a detector found in one picture, best first: boxes [N, 4] in pixels of the picture, scores [N],
    labels [N].
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    # [N] {"size", "counts"}, COCO's compressed run lengths for the whole picture
    masks: list[dict[str, Any]] | None = None

    def above(self, threshold: float) -> "Found":
        """The part of it with scores above `threshold`."""
        keep = self.scores > threshold
        masks = (
            None
            if self.masks is None
            else [one for one, kept in zip(self.masks, keep.tolist(), strict=True) if kept]
        )
        return Found(self.boxes[keep], self.scores[keep], self.labels[keep], masks)


@torch.no_grad()
def detect(
    module: torch.nn.Module,
    pixels: torch.Tensor | Column,
    sizes: Sequence[tuple[int, int]],
    inputs: ImageInput,
    postprocess: dict[str, Any],
    masks: bool = False,
) -> list[Found]:
    """What `module` finds in pictures `pixels` (uint8 [N, 3, H, W], prepared from pictures of `sizes` as
    width, height).

    `postprocess` is as in postprocess_config.json; the caller chooses its "score_threshold", which is not
    that of the server, and whether the masks are wanted of a model that has some.
    """
    least = postprocess["score_threshold"]
    further = further_inputs(least, masks, postprocess)
    device = next(module.parameters()).device
    found = []
    many = BATCH_OF_TWO_STAGES if further else BATCH
    for start in range(0, len(pixels), many):
        part = pixels[start : start + many]
        more = [torch.from_numpy(one).expand(len(part)).to(device) for one in further]
        outputs = arrays(tuple(module(part.to(device), *more)))
        for size, one in zip(
            sizes[start : start + many], detections_of(outputs, [least] * len(part), postprocess), strict=True
        ):
            whole = boxes_to_image(one.boxes, size, inputs, clip=False)
            objects = zip(one.masks, whole, strict=True) if masks and one.masks is not None else None
            sent = (
                [place_mask(mask, box, size).sent("compressed_rle") for mask, box in objects]
                if objects is not None
                else None
            )
            boxes = boxes_to_image(one.boxes, size, inputs)
            found.append(
                Found(
                    torch.from_numpy(boxes), torch.from_numpy(one.scores), torch.from_numpy(one.labels), sent
                )
            )
    return found


@dataclass(frozen=True)
class Precision:
    """COCO's average precision of what was found, in 0..1.

    `summary` has "map" and "ap50", and "map_small", "map_medium", "map_large" of objects below, between and
    above 32 and 96 pixels a side, where there are such. `by_class` has {"map", "ap50", "objects"} by label,
    for the labels that there are objects of. `curves` is the precision at IoU 0.5 by
    recall, 0 to 1 in hundredths, as [101, labels], -1 where a label has no objects.
    """

    summary: dict[str, float]
    by_class: dict[int, dict[str, float]]
    curves: np.ndarray


def average_precision(found: Sequence[Found], examples: Sequence[Example]) -> Precision:
    """COCO's measure, by its own implementation."""
    metric = MeanAveragePrecision(extended_summary=True)
    metric.warn_on_many_detections = False  # COCO's rule cuts at 100 per picture, which is meant
    metric.update(
        [{"boxes": one.boxes, "scores": one.scores, "labels": one.labels} for one in found],
        [{"boxes": torch.from_numpy(one.boxes), "labels": torch.from_numpy(one.labels)} for one in examples],
    )
    result = metric.compute()
    sizes = {f"map_{size}": float(result[f"map_{size}"]) for size in ("small", "medium", "large")}
    summary = {"map": max(0.0, float(result["map"])), "ap50": max(0.0, float(result["map_50"]))}
    # of the truth or of what was found: only these have a column below
    occurring = result["classes"].reshape(-1).tolist()
    precision = result["precision"][:, :, :, 0, -1].numpy()  # [thresholds, recalls, occurring]
    curves = np.full((precision.shape[1], max(occurring, default=-1) + 1), -1.0)
    curves[:, occurring] = precision[0][:, : len(occurring)]
    counts = Counter(label for one in examples for label in one.labels.tolist())
    by_class = {
        label: {
            "map": float(precision[:, :, k].mean()),
            "ap50": float(precision[0, :, k].mean()),
            "objects": counts[label],
        }
        for k, label in enumerate(occurring)
        if counts[label]
    }
    return Precision(
        {**summary, **{name: value for name, value in sizes.items() if value >= 0}}, by_class, curves
    )


def precision_of_answers(
    answers: Sequence[dict[str, Any]], examples: Sequence[Example], inputs: ImageInput, classes: Sequence[str]
) -> float:
    """The average precision of a handler's answers {"detections": [...]} in pixels of the graph's input,
    to the first `examples`.
    """
    truth = [
        replace(example, boxes=boxes_to_input(example.boxes, open_example(example).size, inputs))
        for example, _ in zip(examples, answers, strict=False)
    ]
    columns = [
        {key: [found[key] for found in answer["detections"]] for key in ("bbox", "score", "class")}
        for answer in answers
    ]
    found = [
        Found(
            torch.tensor(one["bbox"]).reshape(-1, 4),
            torch.tensor(one["score"]),
            torch.tensor([classes.index(name) for name in one["class"]], dtype=torch.int64),
        )
        for one in columns
    ]
    return average_precision(found, truth).summary["map"]


# of `average_precision` and `mask_precision`
PRECISION_METRICS = ("map", "ap50", "map_small", "map_medium", "map_large", "mask_map", "mask_ap50")


def precision_recall(
    found: Sequence[Found], examples: Sequence[Example]
) -> tuple[dict[str, float], np.ndarray]:
    """The summary and the curves of `average_precision`."""
    measured = average_precision(found, examples)
    return measured.summary, measured.curves


def mask_precision(found: Sequence[Found], examples: Sequence[Example]) -> dict[str, float]:
    """{"mask_map", "mask_ap50"}: COCO's average precision by the overlap of masks; both sides must have a
    mask for every object.
    """
    metric = MeanAveragePrecision(iou_type="segm")
    metric.warn_on_many_detections = False
    for one, example in zip(found, examples, strict=True):
        size = open_example(example).size
        empty = np.zeros((0, size[1], size[0]), bool)
        ours = np.stack([read_mask(mask) for mask in one.masks]) if one.masks else empty  # type: ignore[misc]
        theirs = object_masks(example, *size).astype(bool)
        metric.update(
            [{"masks": torch.from_numpy(ours), "scores": one.scores, "labels": one.labels}],
            [{"masks": torch.from_numpy(theirs), "labels": torch.from_numpy(example.labels)}],
        )
    result = metric.compute()
    return {"mask_map": max(0.0, float(result["map"])), "mask_ap50": max(0.0, float(result["map_50"]))}


def match_detections(found: Found, example: Example, overlap: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right [N] and which objects were found [M], both bool.

    Best score first, each takes the free object of its class that it overlaps most, if by `overlap` (IoU) or
    more; COCO's rule.
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
    """The score in 0.05..0.95 from which on detections are worth serving: the middle of where F1 is within
    0.01 of its best.
    """
    scores = np.concatenate([one.scores.numpy() for one in found])
    right = np.concatenate(
        [match_detections(one, example)[0] for one, example in zip(found, examples, strict=True)]
    )
    objects = sum(len(example.labels) for example in examples)
    thresholds = np.arange(0.05, 0.951, 0.01)
    f1 = np.array(
        [2 * right[scores > least].sum() / max(1, (scores > least).sum() + objects) for least in thresholds]
    )
    return round(float(thresholds[f1 >= f1.max() - 0.01].mean()), 2)


def at_threshold(found: Sequence[Found], examples: Sequence[Example]) -> dict[str, float]:
    """{"precision", "recall"} in 0..1 of what is served, at IoU 0.5 and with the right class."""
    verdicts = [match_detections(one, example) for one, example in zip(found, examples, strict=True)]
    right, taken = (np.concatenate(column) for column in zip(*verdicts, strict=True))
    return {
        "precision": float(right.mean()) if len(right) else 0.0,
        "recall": float(taken.mean()) if len(taken) else 0.0,
    }
