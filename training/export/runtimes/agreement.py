"""How far two forms of a model give the same answers."""

from typing import Any

import numpy as np
import torch

from handlers.protocol.errors import BrokenArchive
from handlers.protocol.requests import Prepared
from handlers.runtime.predictor import Predictor
from handlers.runtime.runtimes import Runtime, arrays
from training.export.runtimes.candidates import Candidate, ExportInputs, Rejected, arrays_of


def check_instances(export_inputs: ExportInputs) -> None:
    """Raise Rejected where fewer bits may not serve, or where held-out instances are too few to tell."""
    least = export_inputs.predictor.reduced_precision_instances
    if least is None:
        raise Rejected(f"a {export_inputs.spec.kind} serves exactly as it was evaluated, in float32")
    held_out = export_inputs.trained.validation
    if (count := len(held_out[0]) if held_out else 0) < least:
        raise Rejected(f"{count} held-out instances are too few to tell what is lost; {least} are needed")


def check_answers(row: Candidate, runtime: Runtime, export_inputs: ExportInputs) -> None:
    """Write the share of held-out instances with the same answer and the drop of the metric into `row`.

    Raises Rejected where the one is too small or the other too large, or where a golden sample is answered
    differently.
    """
    spec, trained, held_out, predictor = (
        export_inputs.spec,
        export_inputs.trained,
        export_inputs.trained.validation,
        export_inputs.predictor,
    )
    shares: list[float] = []
    answers: tuple[list[Any], list[Any]] = ([], [])
    with torch.inference_mode():
        for start in range(0, len(held_out[0]), export_inputs.batch):
            inputs = tuple(part[start : start + export_inputs.batch] for part in held_out)
            outputs = arrays(trained.module(*inputs)), runtime(*arrays_of(inputs))
            prepared = prepared_of(predictor, inputs)
            shares += predictor.agreement(*outputs, prepared, trained.sure)
            if trained.quality:
                for side, part in zip(answers, outputs, strict=True):
                    side.extend(predictor.postprocess(part, prepared))
    row.agreement = sum(shares) / len(shares)
    if row.agreement < spec.export.agreement:
        words = f"the same answer to {row.agreement:.4f} of {len(shares)} held-out instances"
        raise Rejected(f"{words}, wanted {spec.export.agreement:g}")
    if trained.quality:
        row.metric_drop = trained.quality(answers[0]) - trained.quality(answers[1])
        allowed = 1 - spec.export.agreement
        if row.metric_drop > allowed:
            words = f"the metric falls by {row.metric_drop:.4f} on {len(shares)} held-out instances"
            raise Rejected(f"{words}, allowed {allowed:g}")
    check_golden(runtime, predictor)


def check_golden(runtime: Runtime, predictor: Predictor) -> None:
    """Raise Rejected where `runtime` answers a golden sample differently, alone or in a batch of all."""
    before, predictor.model = predictor.model, runtime
    try:
        predictor.check_golden()
    except BrokenArchive as different:
        raise Rejected(str(different)) from different
    finally:
        predictor.model = before


def prepared_of(predictor: Predictor, inputs: tuple[torch.Tensor, ...]) -> list[Prepared]:
    """A batch of the graph's inputs as if each had been a request, in pixels of the graph's input."""
    size = (int(inputs[0].shape[-1]), int(inputs[0].shape[-2])) if inputs[0].ndim > 2 else (0, 0)
    options = {key: value for key, value in predictor.agreement_options.items() if key in predictor.options}
    rows = range(len(inputs[0]))
    return [Prepared(arrays_of(tuple(part[row] for part in inputs)), options, size) for row in rows]


def distance(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, relative to the largest value where that is above 1; infinite for another
    shape or no number.
    """
    if expected.shape != found.shape:
        return float("inf")
    one, other = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        # equal infinities too, as of forbidden actions
        apart = np.where(one == other, 0, np.abs(one - other))
    scale = np.abs(one, where=np.isfinite(one), out=np.ones_like(one)).max(initial=1)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0) / scale)
