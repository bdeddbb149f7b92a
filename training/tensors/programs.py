"""The inputs of a program of torch.export, and the program as a module that takes them by position."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from handlers.inputs.tensors import Size, TensorField
from marina.core.errors import CallError
from training.tensors.signatures import DTYPES, RESERVED, Bounds, Input

MOST = 4096  # of a dimension for which neither the program nor the spec has a bound


def inputs_of_program(
    program: ExportedProgram, declared: Mapping[str, Input], dimensions: Mapping[str, Bounds], path: str
) -> tuple[tuple[TensorField, ...], dict[str, Size]]:
    """The inputs by the names of the program's arguments, with what the spec says beside.

    Raises CallError for a program that takes something else than tensors with a batch of any size, and where
    the spec contradicts it.
    """
    nodes = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    names = list(declared) or [free_name(node.name) for node in nodes]
    if len(names) != len(nodes):
        raise CallError(f"{path} takes {len(nodes)} inputs, and the spec declares {len(names)}")
    fields: list[TensorField] = []
    sizes: dict[str, Size] = {}
    known: dict[str, str] = {}
    for name, node in zip(names, nodes, strict=True):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.ndim < 1 or isinstance(value.shape[0], int):
            raise CallError(
                f"{path}: the input {name!r} must be a tensor whose first dimension is a batch of any size; "
                'export it with dynamic_shapes={…: {0: torch.export.Dim("batch", min=1, max=64)}}'
            )
        about = declared.get(name, Input())
        shape: list[int | str] = []
        for place, size in enumerate(value.shape[1:]):
            if isinstance(size, int):
                shape.append(size)
                continue
            spelled = about.shape[place] if place < len(about.shape) else None
            label = known.setdefault(str(size), spelled if isinstance(spelled, str) else f"size_{len(known)}")
            shape.append(label)
            sizes[label] = _bounds(program, size, dimensions.get(label))
        check_declared(path, name, about, tuple(shape), value.dtype)
        dtype = next(key for key, one in DTYPES.items() if one == value.dtype)
        fields.append(TensorField(name, **{**about.model_dump(), "dtype": dtype, "shape": tuple(shape)}))
    return tuple(fields), sizes


def positional(program: ExportedProgram) -> nn.Module:
    """The program's module; arguments that it takes by keyword are given by position too."""
    args, kwargs = program.call_spec.in_spec.children()
    module: nn.Module = program.module(check_guards=False)
    keywords = list(kwargs.context or ())
    return ByPosition(module, args.num_children, keywords) if keywords else module


class ByPosition(nn.Module):
    """A module whose last inputs have keywords."""

    def __init__(self, module: nn.Module, count: int, keywords: list[str]) -> None:
        super().__init__()
        self.module, self.count, self.keywords = module, count, keywords

    def forward(self, *inputs: torch.Tensor) -> Any:
        """One batch."""
        named = dict(zip(self.keywords, inputs[self.count :], strict=True))
        return self.module(*inputs[: self.count], **named)


def free_name(name: str) -> str:
    """A name that a request's JSON doesn't have already."""
    return f"{name}_" if name in RESERVED else name


def _bounds(program: ExportedProgram, size: Any, said: Bounds | None) -> Size:
    """The program's own bounds of a size, within what the spec says."""
    found: Any = program.range_constraints.get(size.node.expr)
    least = int(found.lower) if found is not None else 1
    try:
        most = int(found.upper) if found is not None else MOST
    except (OverflowError, TypeError, ValueError):  # infinite
        most = MOST
    most = min(most, MOST) if said is None else most
    return Size(max(least, said.minimum if said else 1), min(most, said.maximum if said else most))


def check_declared(
    path: str, name: str, about: Input, shape: tuple[int | str, ...], dtype: torch.dtype
) -> None:
    """Raise CallError where the spec declares another shape or dtype than the program has."""
    if dtype not in DTYPES.values():
        raise CallError(f"{path}: the input {name!r} is {dtype}; known: {', '.join(DTYPES)}")
    if about.shape and about.shape != shape:
        raise CallError(f"{path}: the input {name!r} has the shape {list(shape)}, not {list(about.shape)}")
    if "dtype" in about.model_fields_set and DTYPES[about.dtype] != dtype:
        raise CallError(f"{path}: the input {name!r} is {dtype}, not {about.dtype}")
