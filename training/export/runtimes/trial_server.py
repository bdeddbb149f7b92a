"""The other side of `trial_process`: builds, runs and times candidates until its parent hangs up."""

import gc
import os
import resource
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from handlers.runtime.export import ONNX_PROGRAM
from handlers.runtime.runtimes import Runtime, load, read_program
from marina.core.processes import offer_to_oom_killer
from marina.core.spec import Spec
from training.export.runtimes.candidates import Entry, ExportInputs, Rejected, median_milliseconds, one_line
from training.export.trained import Trained


@dataclass
class Trials:
    """The steps that `TrialProcess` requests, for the candidates of one export."""

    program: Path
    spec: Spec
    example: tuple[np.ndarray, ...]
    form: Mapping[str, Any]
    runtimes: list[Runtime] = field(default_factory=list)

    @cached_property
    def export_inputs(self) -> ExportInputs:
        """What builders read: the graph, its example and, for eight bits, its calibration."""
        example = tuple(torch.from_numpy(part) for part in self.example)
        trained = Trained(self.spec.kind, torch.nn.Identity(), example, {}, {}, {}, [], {})
        if self.program.name == ONNX_PROGRAM:
            return ExportInputs(self.spec, trained, cast(Any, None), None, self.form, self.program)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = read_program(self.program)
        if any("torchvision" in str(node.target) for node in program.graph.nodes):
            import torchvision  # noqa: F401  # its operators' forms in ONNX
        return ExportInputs(
            self.spec, trained, cast(Any, None), program, self.form
        )  # no builder needs a predictor

    def build(
        self,
        build: Callable[..., Entry],
        precision: str,
        folder: str,
        calibration: tuple[np.ndarray, ...],
    ) -> Entry:
        """As `TrialProcess.build`."""
        inputs = tuple(torch.from_numpy(part) for part in calibration)
        self.export_inputs.trained.calibration = lambda: inputs
        return build(self.export_inputs, precision, Path(folder))

    def load(self, folder: str, entry: Entry) -> tuple[int, str]:
        """Load a runtime; return its index for the other steps, and its precision."""
        self.runtimes.append(load(Path(folder), entry, self.form))
        return len(self.runtimes) - 1, self.runtimes[-1].precision

    def precision(self, index: int) -> str:
        """As it computes on this machine."""
        return self.runtimes[index].precision

    def set_threads(self, index: int, threads: int) -> None:
        """As of a Runtime."""
        self.runtimes[index].set_threads(threads)

    def compute(self, index: int, inputs: tuple[np.ndarray, ...]) -> Any:
        """Compute one batch."""
        return self.runtimes[index](*inputs)

    def milliseconds(self, index: int, inputs: tuple[np.ndarray, ...]) -> float:
        """As of a RemoteRuntime."""
        return median_milliseconds(lambda: self.runtimes[index](*inputs))


def serve(descriptor: int) -> None:
    """Answer the steps of a TrialProcess until it closes its end of the pipe."""
    _prepare_process()
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    connection.send("ready")
    trials: Trials | None = None
    while True:
        try:
            step, arguments = connection.recv()
        except (EOFError, OSError):
            return
        if step == "open":
            program, spec, example, form, environment = arguments
            os.environ.clear()  # a variable may be gone since the last export
            os.environ.update(environment)
            trials = Trials(Path(program), spec, example, form)
            gc.collect()
            connection.send((None, None))
            continue
        answer: tuple[Any, str | None]
        try:
            answer = getattr(trials, step)(*arguments), None
        except Rejected as reason:
            answer = None, str(reason)
        except Exception as error:  # a graph that it can't convert or run
            answer = None, one_line(error)
        connection.send(answer)


def _prepare_process() -> None:
    """Default signal handlers, no core dumps, first in line when memory ends, and the slow import done."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # a job in the background inherits them ignored
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected, nobody reads its core
    offer_to_oom_killer()  # before the training itself
    import_module("torch._dynamo.config")  # a second, and reading a program needs it
