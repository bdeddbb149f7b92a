"""What computes a served graph: its portable program anywhere, or a compiled form where that was measured to be faster.

`runtime.json` lists the runtimes of an export, best first, as `training/runtimes.py` measured them; the last is always the
portable program `model.pt2`. A worker takes the first that its machine can run and that answers the golden samples.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

logger = logging.getLogger(__name__)

INDEX = "runtime.json"
PROGRAM = "model.pt2"


class Runtime(Protocol):
    """Computes one batch: the graph's inputs -> its outputs, in the form of the module that was exported."""

    name: str
    precision: str

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """One batch."""

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads from now on."""


class TorchRuntime:
    """The portable program, computed by torch itself; `module` is its graph."""

    name, precision = "torch", "fp32"

    def __init__(self, path: Path, device: torch.device) -> None:
        import torch._dynamo.config  # torch.export's reading needs it, and a compiled form doesn't
        from torch.export.passes import move_to_device_pass

        program = torch.export.load(path)
        if device.type != "cpu":  # the graph itself names the device that it was exported on
            program = move_to_device_pass(program, device)
        self.module = program.module()

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """One batch."""
        return self.module(*inputs)

    def set_threads(self, threads: int) -> None:
        """Of the whole process, as torch has it."""
        torch.set_num_threads(threads)


class OpenVinoRuntime:
    """The graph as OpenVINO's model, on the CPU: in bfloat16 where that is asked for and the processor has it, else in float32.

    `form` says how the outputs were named: {"form": "tensor" | "tuple" | "dict", "names": [...]}.
    """

    name = "openvino"

    def __init__(self, path: Path, precision: str, form: Mapping[str, Any]) -> None:
        import openvino  # only where it serves

        self.core, self.tensor = openvino.Core(), openvino.Tensor
        self.source = self.core.read_model(path)
        capable = "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = precision if capable or precision == "fp32" else "fp32"
        self.form = form
        self.set_threads(1)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """One batch; the outputs are copies, as the runtime writes its next answer into the same memory."""
        arrays = [one.contiguous().numpy() for one in inputs]  # they are read while the request runs
        for index, array in enumerate(arrays):
            self.request.set_input_tensor(index, self.tensor(array, shared_memory=True))
        self.request.start_async()  # `infer` would look at its inputs for a third of a small policy's time
        self.request.wait()
        outputs = [torch.from_numpy(self.request.get_output_tensor(index).data.copy()) for index in range(self.count)]
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


def form_of(outputs: Any) -> dict[str, Any]:
    """How a module's outputs are named, as JSON; `in_form` gives a list of tensors that form."""
    if isinstance(outputs, dict):
        return {"form": "dict", "names": list(outputs)}
    return {"form": "tuple" if isinstance(outputs, tuple | list) else "tensor"}


def flat(outputs: Any) -> list[torch.Tensor]:
    """The tensors of a module's outputs, in their order."""
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def in_form(tensors: list[torch.Tensor], form: Mapping[str, Any]) -> Any:
    """The reverse of `flat`."""
    if form["form"] == "dict":
        return dict(zip(form["names"], tensors, strict=True))
    return tuple(tensors) if form["form"] == "tuple" else tensors[0]


def usable(folder: Path, device: torch.device) -> Iterator[Runtime]:
    """The runtimes of an export that this machine has, best first; the last is the portable program."""
    chosen = read(folder)
    if device.type == "cpu":
        for entry in chosen.get("serve", []):
            try:
                yield OpenVinoRuntime(folder / entry["file"], entry["precision"], chosen["outputs"])
            except Exception as error:  # whatever is missing or fails here: there is another way to compute it
                logger.warning("the runtime %s can't be used here, the next is taken: %s", entry["runtime"], error)
    yield TorchRuntime(folder / PROGRAM, device)


def read(folder: Path) -> dict[str, Any]:
    """runtime.json; empty for an export without one, which only has its portable program."""
    path = folder / INDEX
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
