"""What every candidate is built from, how its calls are timed, and its row in the table of runtime.json."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from handlers.runtime.predictor import Predictor
from marina.core.spec import Spec
from training.export.trained import Trained

Entry = dict[str, Any]  # of runtime.json, as `runtime.runtimes.load` takes it
# a measurement ends with the first that is reached, after three calls at least
MAX_CALLS, MAX_SECONDS = 15, 1.0


class Rejected(Exception):
    """Why a candidate can't be built, or may not serve; the others do."""


@dataclass
class Candidate:
    """A row of the table: processor milliseconds per call at batch 1 and at the serving batch, and what it
    was checked by.

    `difference` is the largest of all outputs from the trained model's, relative to values above 1;
    `agreement` the share of held-out instances with the same answer; `metric_drop` what the task's metric
    falls by on them, where it is measured; `rejection` says why it may not serve.
    """

    runtime: str
    precision: str
    milliseconds: float = 0.0
    milliseconds_batch: float = 0.0
    difference: float = 0.0
    agreement: float | None = None
    metric_drop: float | None = None
    rejection: str = ""

    def cost(self, batch: int) -> float:
        """What a request costs, alone or in company; both count alike."""
        return self.milliseconds * self.milliseconds_batch / batch

    def as_json(self) -> dict[str, Any]:
        """The row in runtime.json, whose names are older than ours: "lost" and "refused"."""
        names = {"metric_drop": "lost", "rejection": "refused"}
        return {names.get(name, name): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class ExportInputs:
    """A trained model on its way into an export; `program` is its graph, or `onnx` the file of it, and `form`
    how its outputs are named.
    """

    spec: Spec
    trained: Trained
    predictor: Predictor
    program: ExportedProgram | None
    form: Mapping[str, Any]
    onnx: Path | None = None

    @property
    def torch_program(self) -> ExportedProgram:
        """Its graph. Raises Rejected for a model that came as ONNX."""
        if self.program is None:
            raise Rejected("the model came as an ONNX graph, of which torch has no program")
        return self.program

    @property
    def batch(self) -> int:
        """The serving batch, as far as the graph takes it; a larger one comes in slices."""
        return min(self.spec.serving.batch_size, self.spec.export.max_batch)

    def rows(self, size: int) -> tuple[torch.Tensor, ...]:
        """A batch of `size` made of the example's rows."""
        return self.trained.rows(size)

    def calibration(self) -> list[tuple[np.ndarray, ...]]:
        """The graph's inputs for some training instances, each a batch of one. Raises Rejected where there
        are none.
        """
        inputs = arrays_of(self.trained.calibration())
        if not inputs:
            raise Rejected("there is no training data to measure the ranges of eight bits on")
        return [tuple(part[row : row + 1] for part in inputs) for row in range(len(inputs[0]))]


@dataclass(frozen=True)
class Builder:
    """How the files of a runtime come about.

    `build(export_inputs, precision, folder)` writes them and returns their entry; it raises Rejected, or
    whatever a graph that can't be converted raises. `tools` are the packages that each precision needs beside
    marina's own, and `extra` is what installs them. `options` of the runtime are each timed beside none; the
    best goes into the entry.
    """

    build: Callable[[ExportInputs, str, Path], Entry]
    tools: Mapping[str, tuple[str, ...]]
    extra: str = ""
    options: Sequence[Mapping[str, Any]] = ()

    def check_tools(self, precision: str) -> None:
        """Raise Rejected, with what installs it, where a package is missing."""
        missing = [name for name in self.tools[precision] if not is_installed(name)]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            raise Rejected(
                f"{' and '.join(missing)} {are} not installed; run: pip install 'marina[{self.extra}]'"
            )


def is_installed(package: str) -> bool:
    """Whether an import would find it."""
    try:
        return find_spec(package) is not None
    except ValueError:  # a module without a spec, such as a stand-in
        return False


def arrays_of(inputs: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, ...]:
    """A graph's inputs as its runtimes take them."""
    return tuple(one.numpy() for one in inputs)


def median_milliseconds(call: Callable[[], Any]) -> float:
    """The median processor time of a call, after one that is not counted."""
    call()
    seconds: list[float] = []
    while len(seconds) < MAX_CALLS and (len(seconds) < 3 or sum(seconds) < MAX_SECONDS):
        started = time.process_time_ns()
        call()
        seconds.append((time.process_time_ns() - started) / 1e9)
    return round(sorted(seconds)[len(seconds) // 2] * 1000, 4)


def one_line(error: Exception) -> str:
    """An error in one line: its first, or its last where the first names only the place, as in OpenVINO's."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[-1 if lines[0].endswith(':') else 0].strip()[:300]}"
