"""How far two forms of a model give the same answers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.runtimes.candidates import Candidate, Material, Refused, arrays_of

from bundle_detections import overlaps
from bundle_errors import BrokenArchive
from bundle_handler import BundleHandler
from bundle_requests import Prepared
from bundle_runtimes import Runtime, arrays, flat

MANY, FEW = 100, 16  # held-out instances that tell what is lost, where each has one answer or many


def check_instances(material: Material) -> None:
    """Raise Refused where fewer bits may not serve, or where there are too few held-out instances to tell what is lost."""
    if material.spec.kind == "policy":
        raise Refused("a policy acts step for step as it was evaluated")
    held_out, least = material.trained.validation, FEW if material.spec.kind in ("detector", "segmenter") else MANY
    if (count := len(held_out[0]) if held_out else 0) < least:
        raise Refused(f"{count} held-out instances are too few to tell what is lost; {least} are needed")


def check_answers(row: Candidate, runtime: Runtime, material: Material, folder: Path) -> None:
    """Write the share of held-out instances with the same answer into `row`.

    Raises Refused where it is too small, or where a golden sample of the export in `folder` is answered differently.
    """
    spec, held_out, shares = material.spec, material.trained.validation, []
    with torch.inference_mode():
        for start in range(0, len(held_out[0]), material.batch):
            inputs = tuple(part[start : start + material.batch] for part in held_out)
            expected = arrays(material.trained.module(*inputs))
            shares += agreements(spec.kind, material.handler, inputs, expected, runtime(*arrays_of(inputs)))
    row.agreement = sum(shares) / len(shares)
    if row.agreement < spec.export.agreement:
        said = f"the same answer to {row.agreement:.4f} of {len(shares)} held-out instances"
        raise Refused(f"{said}, wanted {spec.export.agreement:g}")
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


def agreements(kind: str, handler: BundleHandler, inputs: tuple[torch.Tensor, ...], expected: Any, found: Any) -> list[float]:
    """How far two outputs, arrays for one batch, give the same answers, 0..1 for each instance.

    Classifiers: whether the answered class is the same. Detectors: the share of detections, of both, that have a partner of the
    same class which overlaps by three quarters. Segmenters: the share of pixels with the same class.
    """
    if kind == "segmenter":
        same = flat(expected)[0].argmax(1) == flat(found)[0].argmax(1)
        return [float(share) for share in same.mean((1, 2))]
    height, width = inputs[0].shape[-2:]
    prepared = [Prepared(arrays_of(tuple(part[row] for part in inputs)), {}, (width, height)) for row in range(len(inputs[0]))]
    pairs = list(zip(handler.postprocess(expected, prepared), handler.postprocess(found, prepared), strict=True))
    if kind == "detector":
        return [partners(one["detections"], other["detections"]) for one, other in pairs]
    return [float(one["predictions"][0]["class"] == other["predictions"][0]["class"]) for one, other in pairs]


def partners(one: list[dict[str, Any]], other: list[dict[str, Any]], overlap: float = 0.75) -> float:
    """The share of the detections in both lists that have a partner in the other one; 1 where there are none at all."""
    if not one or not other:
        return float(len(one) == len(other))
    boxes, classes = ([np.array([found[key] for found in side]) for side in (one, other)] for key in ("bbox", "class"))
    shares = np.nan_to_num(overlaps(*boxes)) * (classes[0][:, None] == classes[1])
    matched = 0
    for row in shares:  # a partner is taken: its column is, too
        best = int(row.argmax())
        if row[best] >= overlap:
            shares[:, best] = 0
            matched += 1
    return 2 * matched / (len(one) + len(other))


def distance(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, relative to the largest value where that is above 1; infinite for another shape or no number."""
    if expected.shape != found.shape:
        return float("inf")
    one, other = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(one == other, 0, np.abs(one - other))  # equal infinities too, as of forbidden actions
    scale = np.abs(one, where=np.isfinite(one), out=np.ones_like(one)).max(initial=1)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0) / scale)
