"""What computes a served graph: its portable program anywhere, or a compiled form where that was measured to be faster.

`runtime.json` lists the runtimes of an export, best first, as `training/runtimes.py` measured them; the last is always the
portable program `model.pt2`. A worker takes the first that its machine can run and that answers the golden samples.

Runtimes take and give numpy arrays: torch, which costs a worker more than all the rest of it, is read by the runtime that needs it.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bundle_imports import without

logger = logging.getLogger(__name__)

INDEX = "runtime.json"
PROGRAM = "model.pt2"


class Runtime(Protocol):
    """Computes one batch: the graph's inputs -> its outputs, in the form of the module that was exported."""

    name: str
    precision: str

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch."""

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads from now on."""


class TorchRuntime:
    """A torch module, computed by torch itself on `device`: the graph of the portable program, or one that was never exported."""

    name, precision = "torch", "fp32"

    def __init__(self, module: Any, device: str = "cpu") -> None:
        import torch

        self.torch, self.module, self.device = torch, module, device
        self.set_threads(1)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> "TorchRuntime":
        """The program of a .pt2 file."""
        import torch._dynamo.config  # reading a program needs it
        from torch.export.passes import move_to_device_pass

        _load_operators(torch.ops)
        program = torch.export.load(path)
        if device != "cpu":  # the graph itself names the device that it was exported on
            program = move_to_device_pass(program, device)
        return cls(program.module(), device)

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch."""
        with self.torch.inference_mode():
            return arrays(self.module(*(self.torch.from_numpy(one).to(self.device) for one in inputs)))

    def set_threads(self, threads: int) -> None:
        """Of the whole process, as torch has it."""
        self.torch.set_num_threads(threads)


class OpenVinoRuntime:
    """The graph as OpenVINO's model, on the CPU: in bfloat16 where that is asked for and the processor has it, else in float32.

    `form` says how the outputs were named: {"form": "tensor" | "tuple" | "dict", "names": [...]}.
    """

    name = "openvino"

    def __init__(self, path: Path, precision: str, form: Mapping[str, Any]) -> None:
        with without("openvino.tools.ovc"):  # its converter, which would bring what tells its makers
            import openvino

        self.core, self.tensor = openvino.Core(), openvino.Tensor
        self.source = self.core.read_model(path)
        capable = "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = precision if capable or precision == "fp32" else "fp32"
        self.form = form
        self.set_threads(1)

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch; the outputs are copies, as the runtime writes its next answer into the same memory."""
        given = [np.ascontiguousarray(one) for one in inputs]  # they are read while the request runs
        for index, array in enumerate(given):
            self.request.set_input_tensor(index, self.tensor(array, shared_memory=True))
        self.request.start_async()  # `infer` would look at its inputs for a third of a small policy's time
        self.request.wait()
        outputs = [self.request.get_output_tensor(index).data.copy() for index in range(self.count)]
        return in_form(outputs, self.form)

    def set_threads(self, threads: int) -> None:
        """Compiles anew. Threads aren't pinned: several workers would be put onto the same cores."""
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[self.precision],
            "ENABLE_CPU_PINNING": False,
        }
        compiled = self.core.compile_model(self.source, "CPU", settings)
        self.request, self.count = compiled.create_infer_request(), len(compiled.outputs)


def _load_operators(operators: Any) -> None:
    """torchvision's, which two-stage detectors' graphs hold, without the rest of it, which takes a worker seconds to read."""
    if not hasattr(operators.torchvision, "nms"):
        for package in getattr(find_spec("torchvision"), "submodule_search_locations", None) or []:
            for library in sorted(Path(package).glob("_C*.so")):
                operators.load_library(library)


def form_of(outputs: Any) -> dict[str, Any]:
    """How a module's outputs are named, as JSON; `in_form` gives a list of arrays that form."""
    if isinstance(outputs, dict):
        return {"form": "dict", "names": list(outputs)}
    return {"form": "tuple" if isinstance(outputs, tuple | list) else "tensor"}


def flat(outputs: Any) -> list[Any]:
    """The arrays or tensors of a module's outputs, in their order."""
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def in_form(parts: Sequence[Any], form: Mapping[str, Any]) -> Any:
    """The reverse of `flat`."""
    if form["form"] == "dict":
        return dict(zip(form["names"], parts, strict=True))
    return tuple(parts) if form["form"] == "tuple" else parts[0]


def arrays(outputs: Any) -> Any:
    """A torch module's outputs in the same form, as numpy arrays; bfloat16, which numpy has not, becomes float32."""
    parts = [one.detach().cpu() for one in flat(outputs)]
    return in_form([(one.float() if str(one.dtype) == "torch.bfloat16" else one).numpy() for one in parts], form_of(outputs))


def usable(folder: Path, device: str) -> Iterator[Runtime]:
    """The runtimes of an export that this machine has, best first; the last is the portable program."""
    chosen = read(folder)
    if device == "cpu":
        for entry in chosen.get("serve", []):
            try:
                yield OpenVinoRuntime(folder / entry["file"], entry["precision"], chosen["outputs"])
            except Exception as error:  # whatever is missing or fails here: there is another way to compute it
                logger.warning("the runtime %s can't be used here, the next is taken: %s", entry["runtime"], error)
    yield TorchRuntime.load(folder / PROGRAM, device)


def read(folder: Path) -> dict[str, Any]:
    """runtime.json; empty for an export without one, which only has its portable program."""
    path = folder / INDEX
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
