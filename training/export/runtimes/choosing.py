"""Builds every candidate, checks and times it, and keeps the one that serves; the table is `runtime.json`.

Candidates are the portable program and what the spec's runtimes make of it in the spec's precisions, where
their tools are installed and the processor computes so. Each must equal the trained model: in float32 to the
spec's parity, in fewer bits by the same answers to a share of held-out instances (`agreement`) and to every
golden sample. Of those that do, the one with the least processor time serves.

All but the portable program, which the export has run already, are built and run in a trial process: a
candidate that crashes there, takes too long or needs too much memory is rejected, and the next is tried.
"""

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.export import ExportedProgram

from handlers.runtime.export import ONNX_PROGRAM, PROGRAM, RUNTIMES
from handlers.runtime.machine import processor_name
from handlers.runtime.predictor import Predictor
from handlers.runtime.runtimes import OnnxRuntime, Runtime, TorchRuntime, arrays, flat, form_of
from marina.core.spec import Spec
from training.export.runtimes import aotinductor_form, onnx_form, openvino_form
from training.export.runtimes.agreement import check_answers, check_instances, distance
from training.export.runtimes.candidates import (
    MAX_SECONDS,
    Builder,
    Candidate,
    Entry,
    ExportInputs,
    Rejected,
    arrays_of,
    median_milliseconds,
    one_line,
)
from training.export.runtimes.trial_process import (
    RemoteRuntime,
    TrialCrashed,
    TrialProcess,
    shared_trial_process,
)
from training.export.trained import Trained

logger = logging.getLogger(__name__)

BUILDERS: Mapping[str, Builder] = {
    "openvino": openvino_form.BUILDER,
    "onnxruntime": onnx_form.BUILDER,
    "aotinductor": aotinductor_form.BUILDER,
}
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "int8": "eight bits"}
# of what these take: another that takes no longer serves in their place. Their workers read torch: seconds,
# and half a gigabyte
AS_FAST = {"torch": 1.5, "aotinductor": 1.1}


class Trial(NamedTuple):
    """A candidate that was measured, its entry of runtime.json, and the runtime that computed it."""

    candidate: Candidate
    entry: Entry
    runtime: RemoteRuntime


def choose(
    spec: Spec, trained: Trained, predictor: Predictor, program: ExportedProgram | None, folder: Path
) -> dict[str, Any]:
    """Measure the candidates for an export in `folder`, keep what serves, and write runtime.json."""
    form = form_of(trained.module(*trained.example))
    onnx = folder / ONNX_PROGRAM if trained.onnx else None
    export_inputs = ExportInputs(spec, trained, predictor, program, form, onnx)
    tried = [_portable(export_inputs, folder)]
    candidates_folder = folder / ".candidates"
    candidates_folder.mkdir()
    trials = shared_trial_process()
    trials.open(export_inputs, onnx or folder / PROGRAM)
    for runtime in spec.export.runtimes:
        for precision in spec.export.precisions:
            is_portable = (runtime, precision) == (tried[0][0].runtime, tried[0][0].precision)
            if precision in BUILDERS[runtime].tools and not is_portable:
                candidate = Candidate(runtime, precision)
                tried.append(_try_candidate(candidate, export_inputs, candidates_folder, trials))
    serve = _serving(tried, export_inputs.batch)
    for entry in serve:
        for path in candidates_folder.glob(f"{Path(entry['file']).stem}.*"):
            path.rename(folder / path.name)
    shutil.rmtree(candidates_folder)
    content = {
        "serve": serve,
        "outputs": form,
        "batch": export_inputs.batch,
        "measured_on": processor_name(),
        "candidates": [candidate.as_json() for candidate, _ in tried],
    }
    (folder / RUNTIMES).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def _portable(export_inputs: ExportInputs, folder: Path) -> tuple[Candidate, Entry]:
    """The portable program, measured; an ONNX graph is an entry like others, since other runtimes may follow
    it.
    """
    if export_inputs.onnx is None:
        candidate, entry = Candidate("torch", "fp32"), Entry()
        runtime: Runtime = TorchRuntime.load(folder / PROGRAM)
    else:
        candidate = Candidate("onnxruntime", "fp32")
        entry = {"runtime": "onnxruntime", "precision": "fp32", "file": ONNX_PROGRAM}
        runtime = OnnxRuntime(export_inputs.onnx, "fp32", export_inputs.form)
    _measure(candidate, runtime, export_inputs)
    return candidate, entry


def _serving(tried: list[tuple[Candidate, Entry]], batch: int) -> list[Entry]:
    """The entries that are kept, best first: the cheapest, as far as the portable program isn't cheaper.

    Where that is one which another machine may not have, the cheapest of each next runtime follows, down to
    OpenVINO, which every installation has.
    """
    ranked = sorted(
        (pair for pair in tried if not pair[0].rejection),
        key=lambda pair: pair[0].cost(batch) * _handicap(pair[0]),
    )
    kept: dict[str, Entry] = {}
    for candidate, entry in ranked:
        if candidate.runtime == "torch":
            break
        kept.setdefault(candidate.runtime, entry)
        if candidate.runtime == "openvino":
            break
    return list(kept.values())


def _handicap(candidate: Candidate) -> float:
    return AS_FAST.get(candidate.runtime, 1.0) ** 2  # a cost is the product of two times


def _try_candidate(
    candidate: Candidate, export_inputs: ExportInputs, folder: Path, trials: TrialProcess
) -> tuple[Candidate, Entry]:
    """Build, check and time a candidate; its `rejection` says why where it may not serve."""
    entry: Entry = {}
    runtime: RemoteRuntime | None = None
    try:
        if candidate.precision != "fp32":
            check_instances(export_inputs)
        builder = BUILDERS[candidate.runtime]
        builder.check_tools(candidate.precision)
        entry = trials.build(builder.build, export_inputs, candidate.precision, folder)
        measured = _time_options(candidate, entry, builder, export_inputs, folder, trials)
        best = min(measured, key=lambda trial: trial.candidate.cost(export_inputs.batch))
        candidate, entry, runtime = best
        parity = export_inputs.spec.export.parity
        if candidate.precision != "fp32":
            check_answers(candidate, runtime, export_inputs)
        elif not candidate.difference <= parity:
            raise Rejected(f"off by {candidate.difference:.3g}, allowed {parity:g}")
    except Rejected as reason:
        # a predictor answers a crash with a failed request, so the runtime's own word goes first
        candidate.rejection = (runtime.crash if runtime else "") or str(reason)
    except Exception as error:  # whatever else fails here: the others serve
        candidate.rejection = one_line(error)
    return candidate, entry


def _time_options(
    candidate: Candidate,
    entry: Entry,
    builder: Builder,
    export_inputs: ExportInputs,
    folder: Path,
    trials: TrialProcess,
) -> list[Trial]:
    """Time a built form without options, and with each of its builder's that the graph allows.

    Raises Rejected as `_time`.
    """
    measured = [_time(candidate, entry, export_inputs, folder, trials)]
    for options in builder.options:
        name = f"{candidate.runtime} {candidate.precision}"
        with_options = {**entry, "options": dict(options)}
        try:
            measured.append(_time(candidate, with_options, export_inputs, folder, trials))
        except TrialCrashed as crash:
            logger.warning("%s does without %s, which %s", name, ", ".join(options), crash)
        except Exception as error:  # a graph that bears no fixed shapes serves without
            logger.info("%s does without %s: %s", name, options, error)
    return measured


def _time(
    candidate: Candidate, entry: Entry, export_inputs: ExportInputs, folder: Path, trials: TrialProcess
) -> Trial:
    """Time a built form as its entry says. Raises Rejected where this processor hasn't its precision."""
    runtime, candidate = RemoteRuntime(trials, folder, entry), replace(candidate)
    if runtime.precision != candidate.precision:
        raise Rejected(f"this processor doesn't compute in {PRECISIONS[candidate.precision]}")
    _measure(candidate, runtime, export_inputs)
    return Trial(candidate, entry, runtime)


def _measure(candidate: Candidate, runtime: Runtime, export_inputs: ExportInputs) -> None:
    """Write times and difference into `candidate`.

    Compared are batches of 1, 3 and the serving batch, of all sizes between as far as a second allows, and
    of other sizes of what has no fixed size.
    """
    threads = torch.get_num_threads()
    batch = export_inputs.batch
    try:
        runtime.set_threads(1)
        needed = sorted({1, min(3, export_inputs.spec.export.max_batch), batch})
        others = [size for size in range(2, batch) if size not in needed]
        started = time.monotonic()
        for size in [*needed, *others]:
            if size not in needed and time.monotonic() - started > MAX_SECONDS:
                break
            _compare(candidate, runtime, export_inputs, export_inputs.rows(size))
        for sizes in export_inputs.trained.sizes_to_check():
            _compare(candidate, runtime, export_inputs, export_inputs.trained.rows(2, sizes))
        candidate.milliseconds = _milliseconds(runtime, arrays_of(export_inputs.rows(1)))
        candidate.milliseconds_batch = _milliseconds(runtime, arrays_of(export_inputs.rows(batch)))
    finally:
        torch.set_num_threads(threads)


def _compare(
    candidate: Candidate, runtime: Runtime, export_inputs: ExportInputs, inputs: tuple[torch.Tensor, ...]
) -> None:
    """Write how far `runtime` is from the trained model on these inputs into `candidate`, if that is more."""
    with torch.inference_mode():
        expected = flat(arrays(export_inputs.trained.module(*inputs)))
    found = flat(runtime(*arrays_of(inputs)))
    distances = [distance(*pair) for pair in zip(expected, found, strict=True)]
    candidate.difference = max(candidate.difference, *distances)


def _milliseconds(runtime: Runtime, inputs: tuple[np.ndarray, ...]) -> float:
    """The median processor time of a call, in the process that computes it."""
    if isinstance(runtime, RemoteRuntime):
        return runtime.milliseconds(inputs)
    return median_milliseconds(lambda: runtime(*inputs))
