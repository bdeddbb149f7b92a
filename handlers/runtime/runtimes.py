"""What computes a served graph: its portable program anywhere, or a compiled form where that was measured to
be faster.

`runtime.json` lists the runtimes of an export, best first, as `training/runtimes/` measured them; the last is
always the portable program: `model.pt2`, or `model.onnx` of a model that came as an ONNX graph. A worker
takes the first that its machine can run and that answers the golden samples.

Runtimes take and give numpy arrays: torch, which costs a worker more than all the rest of it, is read by the
runtime that needs it.
"""

import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..protocol.errors import BrokenArchive
from .checksums import file_digest
from .export import ONNX_PROGRAM, RUNTIMES, Export
from .lazy_imports import without
from .machine import processor_instructions
from .start_guard import StartGuard

logger = logging.getLogger(__name__)


class Runtime(Protocol):
    """Computes one batch: the graph's inputs -> its outputs, in the form of the module that was exported."""

    name: str
    precision: str

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch."""

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads from now on."""


class TorchRuntime:
    """A torch module, computed by torch itself on `device`: the graph of the portable program, or one that
    was never exported. In bfloat16 (bf16) torch chooses by operation: automatic mixed precision.
    """

    name = "torch"

    def __init__(self, module: Any, device: str = "cpu", precision: str = "fp32") -> None:
        import torch

        self.torch, self.module, self.device, self.precision = torch, module, device, precision
        self.set_threads(1)

    @classmethod
    def load(cls, path: Path, device: str = "cpu", precision: str = "fp32") -> "TorchRuntime":
        """The program of a .pt2 file."""
        from torch.export.passes import move_to_device_pass

        program = read_program(path)
        if device != "cpu":  # the graph itself names the device that it was exported on
            program = move_to_device_pass(program, device)
        return cls(program.module(), device, precision)

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch."""
        kind, torch = self.device.partition(":")[0], self.torch
        mixed = torch.autocast(kind, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with torch.inference_mode(), mixed:
            return arrays(self.module(*(torch.from_numpy(one).to(self.device) for one in inputs)))

    def set_threads(self, threads: int) -> None:
        """Of the whole process, as torch has it."""
        self.torch.set_num_threads(threads)


@cache
def openvino_core() -> Any:
    """OpenVINO's one Core of this process, never given up.

    Its CPU plugin puts an alternate signal stack into place, and back the one before it. Of two plugins the
    one that goes last would put back the other's, which is unmapped by then: the next signal that Python
    handles, be it Ctrl-C, would be a segmentation fault.
    """
    with without("openvino.tools.ovc"):  # its converter, which would bring what tells its makers
        import openvino

    core = openvino.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # reads the plugin
    return core


class OpenVinoRuntime:
    """The graph as OpenVINO's model, on the CPU: in bfloat16 where that is asked for and the processor has
    it, else in float32.

    `form` says how the outputs were named: {"form": "tensor" | "tuple" | "dict", "names": [...]}. Where a
    graph has much to do between its layers it takes a tenth to a quarter less for shapes that are known:
    `one_by_one` compiles it for a batch of one, and computes larger ones in so many turns.
    """

    name = "openvino"

    def __init__(self, path: Path, precision: str, form: Mapping[str, Any], one_by_one: bool = False) -> None:
        self.core = openvino_core()
        import openvino

        self.tensor = openvino.Tensor
        self.source, self.one_by_one = self.core.read_model(path), one_by_one
        if one_by_one:
            self.source.reshape({place: [1, *list(place.partial_shape)[1:]] for place in self.source.inputs})
        capable = "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = precision if capable or precision != "bf16" else "fp32"
        self.form = form
        self.set_threads(1)

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch."""
        given = [np.ascontiguousarray(one) for one in inputs]  # they are read while the request runs
        if not self.one_by_one or len(given[0]) == 1:
            return in_form([view.copy() for view in self._computed(given)], self.form)
        outputs: list[np.ndarray] = []
        for row in range(len(given[0])):
            views = self._computed([one[row : row + 1] for one in given])
            outputs = outputs or [np.empty((len(given[0]), *view.shape[1:]), view.dtype) for view in views]
            for whole, view in zip(outputs, views, strict=True):
                whole[row] = view[0]
        return in_form(outputs, self.form)

    def _computed(self, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in memory that the next ones are written into."""
        for index, array in enumerate(given):
            self.request.set_input_tensor(index, self.tensor(array, shared_memory=True))
        self.request.start_async()  # `infer` would look at its inputs for a third of a small policy's time
        # no limit: the server ends a worker whose batch takes longer than responseTimeout
        self.request.wait()
        return [self.request.get_output_tensor(index).data for index in range(self.count)]

    def set_threads(self, threads: int) -> None:
        """Compile again. Threads aren't pinned: several workers would be put onto the same cores."""
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # eight-bit layers are so in the file
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "ENABLE_CPU_PINNING": False,
            **({"SNIPPETS_MODE": "DISABLE"} if self.one_by_one and self._fusion_may_crash() else {}),
        }
        compiled = self.core.compile_model(self.source, "CPU", settings)
        self.request, self.count = compiled.create_infer_request(), len(compiled.outputs)

    def _fusion_may_crash(self) -> bool:
        """Whether OpenVINO 2026.4 may crash when it fuses a perceptron's layers for fixed shapes.

        It does where a layer takes more than 256 numbers, and where an odd number of hidden layers is
        followed by an operation on their result and on another computed value, such as an inverted mask. The
        fusion saves a tenth of 50 us per call, so every perceptron whose graph joins two computed values does
        without it.
        """
        nodes = self.source.get_ops()
        products = [node for node in nodes if node.get_type_name() == "MatMul"]
        shapes = [node.input(0).get_partial_shape() for node in products]
        layers = [shape for shape in shapes if len(shape) == 2]
        if len(layers) < 2:
            return False
        is_wide = any(shape[1].get_max_length() > 256 for shape in layers)
        return is_wide or any(_joins_computed_values(node) for node in nodes)


def _joins_computed_values(node: Any) -> bool:
    """Whether an operation of OpenVINO takes two or more inputs that are not constants."""
    sources = [value.get_source_output().get_node() for value in node.inputs()]
    return len([source for source in sources if source.get_type_name() != "Constant"]) > 1


class OnnxRuntime:
    """The graph as ONNX Runtime's session, on the CPU, in the file's own precision; `form` as above."""

    name = "onnxruntime"

    def __init__(self, path: Path, precision: str, form: Mapping[str, Any]) -> None:
        # from 1.29 on it tells its makers, unless this is there at its import
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        self.library, self.path, self.precision, self.form = onnxruntime, path, precision, form
        self.set_threads(1)

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch."""
        return in_form(self.session.run(None, dict(zip(self.names, inputs, strict=True))), self.form)

    def set_threads(self, threads: int) -> None:
        """Make a new session. Threads sleep while they wait, so that other work can use the core."""
        options = self.library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = self.library.InferenceSession(
            str(self.path), options, providers=["CPUExecutionProvider"]
        )
        self.names = [one.name for one in self.session.get_inputs()]


class AotInductorRuntime:
    """The graph as torch's compiler made machine code of it, on the CPU; `form` as above."""

    name = "aotinductor"

    def __init__(self, path: Path, precision: str, form: Mapping[str, Any]) -> None:
        import torch

        self.torch, self.precision, self.form = torch, precision, form
        _load_operators(torch.ops)
        # The loader in C++: its public face in Python would read torch's compilers, which takes a worker
        # seconds.
        self.compiled = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
        self.set_threads(1)

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch."""
        with self.torch.inference_mode():
            outputs = self.compiled.boxed_run(
                [self.torch.from_numpy(np.ascontiguousarray(one)) for one in inputs]
            )
        return in_form([one.numpy() for one in outputs], self.form)

    def set_threads(self, threads: int) -> None:
        """Of the whole process, as torch has it."""
        self.torch.set_num_threads(threads)


COMPILED: dict[str, Callable[..., Runtime]] = {
    one.name: one for one in (OpenVinoRuntime, OnnxRuntime, AotInductorRuntime)
}


def load(folder: Path, entry: Mapping[str, Any], form: Mapping[str, Any]) -> Runtime:
    """The compiled form that an entry of runtime.json names: {"runtime", "precision", "file"}, what it
    "needs", and its "options", if any.

    Raises ImportError where its package is missing, RuntimeError where it was made for another processor or
    another torch, and whatever a file raises that can't be read.
    """
    needs = entry.get("needs", {})
    lacking = sorted(set(needs.get("instructions", ())) - processor_instructions())
    if lacking:
        raise RuntimeError(f"it was compiled for a processor with {', '.join(lacking)}")
    if "torch" in needs and needs["torch"] != (here := version("torch")):
        raise RuntimeError(f"it was compiled by torch {needs['torch']}, and here is {here}")
    return COMPILED[entry["runtime"]](
        folder / entry["file"], entry["precision"], form, **entry.get("options", {})
    )


def read_program(path: Path) -> Any:
    """Torch's ExportedProgram of a .pt2 file."""
    import torch._dynamo.config  # reading a program needs it

    _load_operators(torch.ops)
    return torch.export.load(path)


def _load_operators(operators: Any) -> None:
    """torchvision's, which two-stage detectors' graphs hold, without the rest of it, which takes a worker
    seconds to read.
    """
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
    """A torch module's outputs in the same form, as numpy arrays; bfloat16, which numpy has not, becomes
    float32.
    """
    parts = [one.detach().cpu() for one in flat(outputs)]
    return in_form(
        [(one.float() if str(one.dtype) == "torch.bfloat16" else one).numpy() for one in parts],
        form_of(outputs),
    )


def usable(export: Export, device: str, precision: str = "auto") -> Generator[Runtime]:
    """The runtimes of an export that this machine has, best first; the last is the portable program.

    On a GPU it computes in bfloat16 first where `precision` is "bfloat16", or "auto" and the export has a
    form of that precision, which was measured to answer like the trained model.

    A runtime that ends the process while it is loaded, or before the next one is requested, is skipped at the
    next start. Close the generator once a runtime is taken. Raises BrokenArchive where the portable
    program is the last one and torch is not installed.
    """
    index = export.runtimes
    for entry in index.get("serve", []) if device == "cpu" else []:
        guard = StartGuard(export.checksum or file_digest(export.folder / RUNTIMES), entry)
        name = entry["runtime"]
        if guard.ended_start():
            logger.warning("the runtime %s is left out, the next is taken: it ended a worker's start", name)
            continue
        with guard.marked():
            try:
                runtime = load(export.folder, entry, index["outputs"])
            except (
                Exception
            ) as error:  # whatever is missing or fails here: there is another way to compute it
                logger.warning("the runtime %s can't be used here, the next is taken: %s", name, error)
                continue
            yield runtime
    is_onnx = export.program.name == ONNX_PROGRAM
    package = "onnxruntime" if is_onnx else "torch"
    if find_spec(package) is None:
        raise BrokenArchive(
            "no compiled form of this model can be used here (the log says why), and its portable program "
            f"needs {package}, which is not installed"
        )
    if is_onnx:
        yield OnnxRuntime(export.program, "fp32", index["outputs"])
        return
    measured = precision == "auto" and any(entry["precision"] == "bf16" for entry in index.get("serve", []))
    if device != "cpu" and (measured or precision == "bfloat16"):
        yield TorchRuntime.load(export.program, device, "bf16")
    yield TorchRuntime.load(export.program, device)
