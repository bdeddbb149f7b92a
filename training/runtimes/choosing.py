"""Builds every candidate, checks and times it, and keeps the one that serves; the table is `runtime.json`.

Candidates are the portable program and what the spec's runtimes make of it in the spec's precisions, where their tools are
installed and the processor computes so. Each must equal the trained model: in float32 to the spec's parity, in fewer bits by the same
answers to a share of held-out instances (`agreement`) and to every golden sample. Of those that do, the one with the least
processor time serves.
"""

import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from marina.spec import Spec
from training.runtimes import aotinductor_form, onnx_form, openvino_form
from training.runtimes.agreement import check_answers, check_instances, distance
from training.runtimes.candidates import Builder, Candidate, Entry, Material, Refused, arrays_of
from training.trained import Trained

from bundle_handler import BundleHandler
from bundle_runtimes import INDEX, Runtime, TorchRuntime, arrays, flat, form_of, load

logger = logging.getLogger(__name__)

BUILDERS: Mapping[str, Builder] = {
    "openvino": openvino_form.BUILDER,
    "onnxruntime": onnx_form.BUILDER,
    "aotinductor": aotinductor_form.BUILDER,
}
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "int8": "eight bits"}
# of what these take: another that takes no longer serves in their place. Their workers read torch: seconds, and half a gigabyte
AS_FAST = {"torch": 1.5, "aotinductor": 1.1}
CALLS, SECONDS = 15, 1.0  # a measurement ends with the first that is reached, after three calls at least


def choose(spec: Spec, trained: Trained, handler: BundleHandler, program: ExportedProgram, folder: Path) -> dict[str, Any]:
    """Measure the candidates for an export in `folder`, keep what serves, write runtime.json, and return what it says."""
    form = form_of(trained.module(*trained.example))
    material = Material(spec, trained, handler, program, form)
    portable = Candidate("torch", "fp32")
    _measure(portable, TorchRuntime.load(folder / "model.pt2"), material)
    tried: list[tuple[Candidate, Entry]] = [(portable, {})]
    making = folder / ".candidates"
    making.mkdir()
    for runtime in spec.export.runtimes:
        precisions = [one for one in spec.export.precisions if one in BUILDERS[runtime].tools]
        tried += [_try(Candidate(runtime, precision), material, making) for precision in precisions]
    serve = _serving(tried, material.batch)
    for entry in serve:
        for path in making.glob(f"{Path(entry['file']).stem}.*"):
            path.rename(folder / path.name)
    shutil.rmtree(making)
    content = {
        "serve": serve,
        "outputs": form,
        "batch": material.batch,
        "measured_on": platform.processor() or platform.machine(),
        "candidates": [asdict(row) for row, _ in tried],
    }
    (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def _serving(tried: list[tuple[Candidate, Entry]], batch: int) -> list[Entry]:
    """The entries that are kept, best first: the cheapest, as far as the portable program isn't cheaper.

    Where that is one which another machine may not have, the cheapest of each next runtime follows, down to OpenVINO, which every
    installation has.
    """
    ranked = sorted((pair for pair in tried if not pair[0].refused), key=lambda pair: pair[0].cost(batch) * _handicap(pair[0]))
    kept: dict[str, Entry] = {}
    for row, entry in ranked:
        if row.runtime == "torch":
            break
        kept.setdefault(row.runtime, entry)
        if row.runtime == "openvino":
            break
    return list(kept.values())


def _handicap(row: Candidate) -> float:
    return AS_FAST.get(row.runtime, 1.0) ** 2  # a cost is two times multiplied


def _try(row: Candidate, material: Material, making: Path) -> tuple[Candidate, Entry]:
    """Build, check and time one; its row says why where it may not serve."""
    entry: Entry = {}
    try:
        if row.precision != "fp32":
            check_instances(material)
        builder = BUILDERS[row.runtime]
        builder.check_tools(row.precision)
        entry = builder.build(material, row.precision, making)
        ways = _ways(row, entry, builder, material, making)
        row, entry, runtime = min(ways, key=lambda way: way[0].cost(material.batch))
        if row.precision != "fp32":
            check_answers(row, runtime, material, making.parent)
        elif not row.difference <= material.spec.export.parity:
            raise Refused(f"off by {row.difference:.3g}, allowed {material.spec.export.parity:g}")
    except Refused as reason:
        row.refused = str(reason)
    except Exception as error:  # a graph that it can't convert or run: the others serve
        row.refused = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else 'no reason given'}"
    return row, entry


def _ways(row: Candidate, entry: Entry, builder: Builder, material: Material, making: Path) -> list[tuple[Candidate, Entry, Runtime]]:
    """A built form without options, and with each of its builder's that the graph allows. Raises Refused as `_timed`."""
    found = [_timed(row, entry, material, making)]
    for options in builder.ways:
        try:
            found.append(_timed(row, {**entry, "options": dict(options)}, material, making))
        except Exception as error:  # a graph that bears no fixed shapes serves without
            logger.info("%s %s does without %s: %s", row.runtime, row.precision, options, error)
    return found


def _timed(row: Candidate, entry: Entry, material: Material, making: Path) -> tuple[Candidate, Entry, Runtime]:
    """One way in which a built form computes. Raises Refused where this processor hasn't its precision."""
    runtime, row = load(making, entry, material.form), replace(row)
    if runtime.precision != row.precision:
        raise Refused(f"this processor doesn't compute in {PRECISIONS[row.precision]}")
    _measure(row, runtime, material)
    return row, entry, runtime


def _measure(row: Candidate, runtime: Runtime, material: Material) -> None:
    """Write times and difference into `row`."""
    threads = torch.get_num_threads()
    try:
        runtime.set_threads(1)
        with torch.inference_mode():
            for size in sorted({1, min(3, material.spec.export.max_batch), material.batch}):
                inputs = material.rows(size)
                pairs = zip(flat(arrays(material.trained.module(*inputs))), flat(runtime(*arrays_of(inputs))), strict=True)
                row.difference = max(row.difference, *(distance(*pair) for pair in pairs))
            one, batch = (arrays_of(material.rows(size)) for size in (1, material.batch))
            row.milliseconds = _milliseconds(lambda: runtime(*one))
            row.milliseconds_batch = _milliseconds(lambda: runtime(*batch))
    finally:
        torch.set_num_threads(threads)


def _milliseconds(call: Callable[[], Any]) -> float:
    """The median processor time of a call."""
    call()
    spent: list[float] = []
    while len(spent) < CALLS and (len(spent) < 3 or sum(spent) < SECONDS):
        started = time.process_time_ns()
        call()
        spent.append((time.process_time_ns() - started) / 1e9)
    return round(sorted(spent)[len(spent) // 2] * 1000, 4)
