"""Which runtime computes a model fastest and still answers as it was trained to: measured at export, never believed.

Candidates are the portable program and OpenVINO's form of it, in float32 and, where the processor computes it, in bfloat16. Each must
equal the trained model: in float32 to the spec's parity, in bfloat16 by the same answers to a share of held-out instances (`agreement`)
and to every golden sample. Of those that do, the one with the least processor time serves. The table is `runtime.json`.
"""

import json
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from marina.spec import Spec
from training.trained import Trained

from bundle_golden import difference, read_samples
from bundle_handler import BundleHandler
from bundle_requests import Prepared
from bundle_runtimes import INDEX, OpenVinoRuntime, Runtime, TorchRuntime, arrays, flat, form_of

FILE = "openvino.xml"
AS_FAST = 1.1  # of the portable program's time: a compiled form that takes no longer is still ready seconds earlier
CALLS, SECONDS = 15, 1.0  # a measurement ends with the first that is reached, after three calls at least
MANY, FEW = 100, 16  # held-out instances that tell what is lost, where each has one answer or many
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass
class Candidate:
    """A row of the table: processor milliseconds per call at batch 1 and at the serving batch, and what it was checked by.

    `difference` is the largest of all outputs from the trained model's, relative to values above 1; `agreement` the share of
    held-out instances with the same answer; `refused` says why it may not serve.
    """

    runtime: str
    precision: str
    milliseconds: float = 0.0
    milliseconds_batch: float = 0.0
    difference: float = 0.0
    agreement: float | None = None
    refused: str = ""

    def cost(self, batch: int) -> float:
        """What a request costs, alone or in company; both count alike."""
        return self.milliseconds * self.milliseconds_batch / batch


def choose(spec: Spec, trained: Trained, handler: BundleHandler, program: ExportedProgram, folder: Path) -> dict[str, Any]:
    """Measure the candidates for an export in `folder`, keep what serves, write runtime.json, and return what it says."""
    portable = TorchRuntime.load(folder / "model.pt2")
    table = [_measured(Candidate("torch", "fp32"), portable, spec, trained)]
    form = form_of(trained.module(*_rows(trained.example, 2)))
    wanted = spec.export.precisions if "openvino" in spec.export.runtimes else ()
    table += [_openvino(precision, spec, trained, handler, program, folder, form) for precision in wanted]
    fit = [one for one in table if not one.refused]
    best = min(fit, key=lambda one: one.cost(_batch(spec)) * (AS_FAST**2 if one.runtime == "torch" else 1))
    serve = []
    if best.runtime == "openvino":
        serve = [{"runtime": best.runtime, "precision": best.precision, "file": FILE}]
    else:
        for path in folder.glob("openvino.*"):
            path.unlink()
    content = {
        "serve": serve,
        "outputs": form,
        "batch": _batch(spec),
        "measured_on": platform.processor() or platform.machine(),
        "candidates": [asdict(one) for one in table],
    }
    (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def converted(program: ExportedProgram, path: Path) -> None:
    """Write OpenVINO's form of `program` to `path` (.xml, and .bin beside it).

    Its own converter isn't called, because that would tell its makers; these are its steps.
    """
    import openvino  # half a second, for exports alone
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of decompositions that this torch doesn't have
    try:
        decoder = TorchFXPythonDecoder.from_exported_program(program)  # the frontend keeps no reference to it
    finally:
        logging.disable(before)
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    if len(model.inputs) != len(inputs):
        raise ValueError(f"{len(model.inputs)} of {len(inputs)} inputs are left")
    kinds = openvino.Type
    types = {torch.uint8: kinds.u8, torch.int64: kinds.i64, torch.float32: kinds.f32, torch.bool: kinds.boolean}
    for place, given in zip(model.inputs, inputs, strict=True):
        place.get_node().set_element_type(types[given.dtype])
    model.reshape({place: openvino.PartialShape([-1, *given.shape[1:]]) for place, given in zip(model.inputs, inputs, strict=True)})
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, path, compress_to_fp16=False)


def _openvino(
    precision: str, spec: Spec, trained: Trained, handler: BundleHandler, program: ExportedProgram, folder: Path, form: dict[str, Any]
) -> Candidate:
    row = Candidate("openvino", precision)
    if precision != "fp32" and spec.kind == "policy":
        row.refused = "a policy acts step for step as it was evaluated"
        return row
    try:
        if not (folder / FILE).exists():
            converted(program, folder / FILE)
        runtime = OpenVinoRuntime(folder / FILE, precision, form)
        if runtime.precision != precision:
            row.refused = f"this processor doesn't compute in {PRECISIONS[precision]}"
            return row
        _measured(row, runtime, spec, trained)
    except Exception as error:  # a graph that it can't convert or run: the others serve
        row.refused = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else 'no reason given'}"
        return row
    if precision == "fp32":
        row.refused = "" if row.difference <= spec.export.parity else f"off by {row.difference:.3g}, allowed {spec.export.parity:g}"
    else:
        row.refused = _disagreement(row, runtime, spec, trained, handler, folder)
    return row


def _measured(row: Candidate, runtime: Runtime, spec: Spec, trained: Trained) -> Candidate:
    threads = torch.get_num_threads()
    try:
        runtime.set_threads(1)
        with torch.inference_mode():
            for size in sorted({1, min(3, spec.export.max_batch), _batch(spec)}):
                inputs = _rows(trained.example, size)
                pairs = zip(flat(arrays(trained.module(*inputs))), flat(runtime(*_arrays(inputs))), strict=True)
                row.difference = max(row.difference, *(distance(*pair) for pair in pairs))
            one, batch = (_arrays(_rows(trained.example, size)) for size in (1, _batch(spec)))
            row.milliseconds = _milliseconds(lambda: runtime(*one))
            row.milliseconds_batch = _milliseconds(lambda: runtime(*batch))
    finally:
        torch.set_num_threads(threads)
    return row


def _milliseconds(call: Callable[[], Any]) -> float:
    """The median processor time of a call."""
    call()
    spent: list[float] = []
    while len(spent) < CALLS and (len(spent) < 3 or sum(spent) < SECONDS):
        started = time.process_time_ns()
        call()
        spent.append((time.process_time_ns() - started) / 1e9)
    return round(sorted(spent)[len(spent) // 2] * 1000, 4)


def _disagreement(row: Candidate, runtime: Runtime, spec: Spec, trained: Trained, handler: BundleHandler, folder: Path) -> str:
    """Why answers of reduced precision are too different; empty where they are not."""
    held_out = trained.validation
    count, least = len(held_out[0]) if held_out else 0, FEW if spec.kind in ("detector", "segmenter") else MANY
    if count < least:
        return f"{count} held-out instances are too few to tell what is lost; {least} are needed"
    shares = []
    with torch.inference_mode():
        for start in range(0, len(held_out[0]), _batch(spec)):
            inputs = tuple(part[start : start + _batch(spec)] for part in held_out)
            shares += agreements(spec.kind, handler, inputs, arrays(trained.module(*inputs)), runtime(*_arrays(inputs)))
    row.agreement = sum(shares) / len(shares)
    if row.agreement < spec.export.agreement:
        return f"the same answer to {row.agreement:.4f} of {len(shares)} held-out instances, wanted {spec.export.agreement:g}"
    return _golden_difference(runtime, handler, folder)


def _golden_difference(runtime: Runtime, handler: BundleHandler, folder: Path) -> str:
    samples = read_samples(folder)
    before, handler.model = handler.model, runtime
    try:
        rows: list[Any] = [({"body": sample["body"]}, {}) for sample in samples]
        answers = [answer for batch in [*([row] for row in rows), rows] for answer in handler.answer_rows(batch)]
    finally:
        handler.model = before
    for sample, answer in zip([*samples, *samples], answers, strict=True):
        if found := str(answer) if isinstance(answer, Exception) else difference(sample["answer"], answer, reduced=True):
            return f"golden sample {sample['name']!r}: {found}"
    return ""


def agreements(kind: str, handler: BundleHandler, inputs: tuple[torch.Tensor, ...], expected: Any, found: Any) -> list[float]:
    """How far two outputs, arrays for one batch, give the same answers, 0..1 for each instance.

    Classifiers: whether the answered class is the same. Detectors: the share of detections, of both, that have a partner of the
    same class which overlaps by three quarters. Segmenters: the share of pixels with the same class.
    """
    if kind == "segmenter":
        same = flat(expected)[0].argmax(1) == flat(found)[0].argmax(1)
        return [float(share) for share in same.mean((1, 2))]
    height, width = inputs[0].shape[-2:]
    prepared = [Prepared(_arrays(tuple(part[row] for part in inputs)), {}, (width, height)) for row in range(len(inputs[0]))]
    pairs = list(zip(handler.postprocess(expected, prepared), handler.postprocess(found, prepared), strict=True))
    if kind == "detector":
        return [_partners(one["detections"], other["detections"]) for one, other in pairs]
    return [float(one["predictions"][0]["class"] == other["predictions"][0]["class"]) for one, other in pairs]


def _partners(one: list[dict[str, Any]], other: list[dict[str, Any]], overlap: float = 0.75) -> float:
    if not one and not other:
        return 1.0
    left, matched = list(other), 0
    for detection in one:
        fitting = [found for found in left if found["class"] == detection["class"]]
        best = max(fitting, key=lambda found: _overlap(detection["bbox"], found["bbox"]), default=None)
        if best is not None and _overlap(detection["bbox"], best["bbox"]) >= overlap:
            left.remove(best)
            matched += 1
    return 2 * matched / (len(one) + len(other))


def _overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union of two boxes, x1, y1, x2, y2."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common) if areas > common else 0.0


def distance(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, relative to the largest value where that is above 1; infinite for another shape or no number."""
    if expected.shape != found.shape:
        return float("inf")
    one, other = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(one == other, 0, np.abs(one - other))  # equal infinities too, as of forbidden actions
    scale = np.abs(one, where=np.isfinite(one), out=np.ones_like(one)).max(initial=1)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0) / scale)


def _arrays(inputs: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, ...]:
    return tuple(one.numpy() for one in inputs)


def _batch(spec: Spec) -> int:
    """The serving batch, as far as the graph takes it; a larger one comes in slices."""
    return min(spec.serving.batch_size, spec.export.max_batch)


def _rows(example: tuple[torch.Tensor, ...], size: int) -> tuple[torch.Tensor, ...]:
    """A batch of `size` made of the example's rows."""
    rows = torch.arange(size) % len(example[0])
    return tuple(part[rows] for part in example)
