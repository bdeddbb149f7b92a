"""ONNX graphs: their inputs and outputs by name, and the graph as a module that ONNX Runtime computes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from handlers.inputs.tensors import Size, TensorField
from marina.core.errors import CallError
from training.imports.files import first_line
from training.tensors.programs import MOST, check_declared, free_name
from training.tensors.signatures import DTYPES, Bounds, Input

MOST_BYTES = 2_000_000_000  # a graph is one message of protobuf
NEEDED = "ONNX graphs need onnx and onnxruntime: pip install 'marina[onnx]'"
FLOATS = (1, 10, 11, 16)  # of TensorProto: float, float16, double, bfloat16
STRANGE = re.compile(r"[^A-Za-z0-9_.-]")


class OnnxModule(nn.Module):
    """A graph as a module: tensors [B, ...] in its order -> {output: [B, ...]}. Torch can't export it."""

    def __init__(self, graph: bytes, outputs: list[str], path: str, count: int = 0) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever it raises for a graph that it can't compute
            raise CallError(f"{path}: ONNX Runtime can't compute it: {first_line(error)}") from error
        self.graph, self.outputs, self.count = graph, outputs, count  # of the numbers that it has learned
        self.names = [one.name for one in self.session.get_inputs()]

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """One batch."""
        arrays = [one.numpy() for one in inputs]
        found = self.session.run(None, dict(zip(self.names, arrays, strict=True)))
        return {name: torch.from_numpy(one) for name, one in zip(self.outputs, found, strict=True)}


def read_onnx(path: Path) -> Any:
    """The model in a file, with tensors that lie beside it in it.

    Raises CallError without the packages, and for a file that is none, too large, or has tensors of its own
    elsewhere.
    """
    onnx = read_packages(str(path))
    try:
        model = onnx.load(path)
        if model.ByteSize() > MOST_BYTES:
            raise CallError(f"{path} has more than {MOST_BYTES:,} bytes; a graph in an archive can't")
        onnx.checker.check_model(model)
    except CallError:
        raise
    except Exception as error:  # of protobuf, of a missing file beside it, of the checker
        raise CallError(f"{path} is no ONNX graph, or a damaged one: {first_line(error)}") from error
    return model


def read_packages(path: str) -> Any:
    """Import what ONNX graphs need; return onnx. Raises CallError where it isn't installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise CallError(f"{path}: {NEEDED}") from error
    return onnx


def count_of(model: Any) -> int:
    """How many numbers of a graph were learned."""
    learned = [one for one in model.graph.initializer if one.data_type in FLOATS]
    return int(sum(np.prod(one.dims, dtype=np.int64) for one in learned))


def inputs_of_graph(
    model: Any, declared: Mapping[str, Input], dimensions: Mapping[str, Bounds], path: str
) -> tuple[tuple[TensorField, ...], dict[str, Size]]:
    """The graph's inputs by their names, with what the spec says beside.

    Raises CallError for inputs that are no tensors of numbers with a batch of any size, and where the spec
    contradicts the graph.
    """
    constants = {one.name for one in model.graph.initializer}
    values = [one for one in model.graph.input if one.name not in constants]
    names = list(declared) or _names([one.name for one in values], path)
    if len(names) != len(values):
        raise CallError(f"{path} takes {len(values)} inputs, and the spec declares {len(names)}")
    fields: list[TensorField] = []
    sizes: dict[str, Size] = {}
    for name, value in zip(names, values, strict=True):
        dtype, dims = _tensor_of(value, path)
        if not dims or dims[0].HasField("dim_value"):
            raise CallError(
                f"{path}: the input {value.name!r} must have a batch of any size as its first dimension; "
                "export it with dynamic_shapes (or dynamic_axes={…: {0: 'batch'}})"
            )
        about = declared.get(name, Input())
        shape: list[int | str] = []
        for place, dim in enumerate(dims[1:]):
            if dim.HasField("dim_value"):
                shape.append(int(dim.dim_value))
                continue
            spelled = about.shape[place] if place < len(about.shape) else None
            label = STRANGE.sub("_", dim.dim_param) or f"{name}_{place}"
            label = spelled if isinstance(spelled, str) else label if label[0].isalpha() else f"size_{label}"
            shape.append(label)
            said = dimensions.get(label)
            sizes[label] = Size(said.minimum, said.maximum) if said else Size(1, MOST)
        check_declared(path, name, about, tuple(shape), DTYPES.get(dtype, torch.complex64))
        fields.append(TensorField(name, **{**about.model_dump(), "dtype": dtype, "shape": tuple(shape)}))
    return tuple(fields), sizes


def module_of(model: Any, path: str) -> OnnxModule:
    """The graph, computed. Raises CallError for outputs that are no tensors of numbers."""
    for value in model.graph.output:
        _tensor_of(value, path)
    names = _names([one.name for one in model.graph.output], path)
    count = count_of(model)
    return OnnxModule(model.SerializeToString(), names, path, count)


def _tensor_of(value: Any, path: str) -> tuple[str, list[Any]]:
    """The dtype and the dimensions of an input or output."""
    import onnx

    if not value.type.HasField("tensor_type"):
        hint = "; of scikit-learn's classifiers convert with options={'zipmap': False}"
        raise CallError(f"{path}: {value.name!r} is no tensor{hint}")
    of_tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(of_tensor.elem_type).name
    except (KeyError, ValueError):
        dtype = "unknown"
    if dtype not in DTYPES:
        raise CallError(f"{path}: {value.name!r} holds {dtype}; known: {', '.join(DTYPES)}")
    return dtype, list(of_tensor.shape.dim)


def _names(names: list[str], path: str) -> list[str]:
    """Names that requests can have, in their order: "input.1" stays, "serving:0" becomes "serving_0"."""
    found = [STRANGE.sub("_", name)[:63] for name in names]
    found = [name if name[:1].isalpha() or name[:1] == "_" else f"_{name}" for name in found]
    if len(set(found)) < len(found):
        raise CallError(f"{path}: names that differ in signs alone: {', '.join(names)}; declare inputs")
    return [free_name(name) for name in found]
