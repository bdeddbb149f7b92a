"""How far two forms of a model give the same answers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.runtimes.candidates import Candidate, Material, Refused, arrays_of

from bundle_detections import overlaps
from bundle_errors import BrokenArchive
from bundle_golden import REDUCED
from bundle_handler import BundleHandler
from bundle_requests import Prepared
from bundle_runtimes import Runtime, arrays, flat

GUESS = 0.02  # a detector's score from which on its average precision is measured
MANY, FEW = 100, 16  # held-out instances that tell what is lost, where each has one answer or many


def check_instances(material: Material) -> None:
    """Raise Refused where fewer bits may not serve, or where there are too few held-out instances to tell what is lost."""
    if material.spec.kind == "policy":
        raise Refused("a policy acts step for step as it was evaluated")
    held_out, least = material.trained.validation, FEW if material.spec.kind in ("detector", "segmenter") else MANY
    if (count := len(held_out[0]) if held_out else 0) < least:
        raise Refused(f"{count} held-out instances are too few to tell what is lost; {least} are needed")


def check_answers(row: Candidate, runtime: Runtime, material: Material, folder: Path) -> None:
    """Write the share of held-out instances with the same answer into `row`, and what the task's metric falls by on them.

    Raises Refused where the one is too small or the other too large, or where a golden sample of the export in `folder` is answered
    differently.
    """
    spec, trained, held_out = material.spec, material.trained, material.trained.validation
    shares: list[float] = []
    answers: tuple[list[Any], list[Any]] = ([], [])
    with torch.inference_mode():
        for start in range(0, len(held_out[0]), material.batch):
            inputs = tuple(part[start : start + material.batch] for part in held_out)
            both = arrays(trained.module(*inputs)), runtime(*arrays_of(inputs))
            if spec.kind == "segmenter":
                shares += same_pixels(*both)
                continue
            part = [answered(material.handler, inputs, outputs) for outputs in both]
            shares += [same_answer(spec.kind, one, other, trained.sure) for one, other in zip(*part, strict=True)]
            if trained.quality:
                answers[0].extend(part[0])
                answers[1].extend(part[1])
    row.agreement = sum(shares) / len(shares)
    if row.agreement < spec.export.agreement:
        said = f"the same answer to {row.agreement:.4f} of {len(shares)} held-out instances"
        raise Refused(f"{said}, wanted {spec.export.agreement:g}")
    if trained.quality:
        row.lost = trained.quality(answers[0]) - trained.quality(answers[1])
        if row.lost > 1 - spec.export.agreement:
            raise Refused(f"the metric falls by {row.lost:.4f} on {len(shares)} held-out instances, allowed {1 - spec.export.agreement:g}")
    check_golden(runtime, material.handler, folder)


def check_golden(runtime: Runtime, handler: BundleHandler, folder: Path) -> None:
    """Raise Refused where `runtime` answers a golden sample differently, alone or in a batch of all."""
    before, handler.model = handler.model, runtime
    try:
        handler.check_golden(folder)
    except BrokenArchive as different:
        raise Refused(str(different)) from different
    finally:
        handler.model = before


def same_pixels(expected: Any, found: Any) -> list[float]:
    """The share of pixels with the same class, for each picture of a segmenter."""
    same = flat(expected)[0].argmax(1) == flat(found)[0].argmax(1)
    return [float(share) for share in same.mean((1, 2))]


def answered(handler: BundleHandler, inputs: tuple[torch.Tensor, ...], outputs: Any) -> list[Any]:
    """What `handler` answers to the outputs for one batch, in pixels of the graph's input; of a detector down to guesses."""
    height, width = inputs[0].shape[-2:]
    options = {"confidence_threshold": GUESS} if "confidence_threshold" in handler.options else {}
    prepared = [Prepared(arrays_of(tuple(part[row] for part in inputs)), options, (width, height)) for row in range(len(inputs[0]))]
    return handler.postprocess(outputs, prepared)


def same_answer(kind: str, one: Any, other: Any, sure: float) -> float:
    """How far two answers are the same, 0..1: the first class of a classifier's; see `partners` for a detector's."""
    if kind == "detector":
        return partners(one["detections"], other["detections"], sure)
    return float(one["predictions"][0]["class"] == other["predictions"][0]["class"])


def partners(one: list[dict[str, Any]], other: list[dict[str, Any]], sure: float, overlap: float = 0.75) -> float:
    """The share of the detections in both lists with scores above `sure` that have a partner in the other one; 1 where there are none.

    A partner is of the same class, overlaps by three quarters, and may itself be less sure by what a golden sample's score may differ.
    """
    one, other = ([found for found in side if found["score"] > sure - REDUCED.number] for side in (one, other))
    counted = sum(found["score"] > sure for found in (*one, *other))
    if not counted or not one or not other:
        return 0.0 if counted else 1.0
    boxes, classes = ([np.array([found[key] for found in side]) for side in (one, other)] for key in ("bbox", "class"))
    shares = np.nan_to_num(overlaps(*boxes)) * (classes[0][:, None] == classes[1])
    matched = 0
    for row, found in zip(shares, one, strict=True):  # a partner is taken: its column is, too
        best = int(row.argmax())
        if row[best] >= overlap:
            shares[:, best] = 0
            matched += (found["score"] > sure) + (other[best]["score"] > sure)
    return float(matched / counted)


def distance(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, relative to the largest value where that is above 1; infinite for another shape or no number."""
    if expected.shape != found.shape:
        return float("inf")
    one, other = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(one == other, 0, np.abs(one - other))  # equal infinities too, as of forbidden actions
    scale = np.abs(one, where=np.isfinite(one), out=np.ones_like(one)).max(initial=1)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0) / scale)
