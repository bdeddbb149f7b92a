"""The inputs and outputs of a module of named tensors: as a spec declares them, and as running it shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from handlers.inputs.tensors import Size, TensorField
from handlers.runtime.runtimes import flat
from marina.core.errors import CallError
from marina.core.spec import Section
from training.export.trained import Dimension

DType = Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in DType.__args__  # type: ignore[attr-defined]
}
RESERVED = ("instances", "inputs", "outputs", "parameters", "id", "data")  # what a request's JSON has already
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,62}$")]
EXAMPLE_ROWS, EXAMPLE_SIZE = 4, 6  # sizes 0 and 1 would be fixed in an exported graph
WHOLE_NUMBERS = 2  # an input of whole numbers without a maximum is tried with 0 and 1


class Bounds(Section):
    """How large a named dimension may be."""

    minimum: int = Field(default=1, ge=1, description="least size of the dimension")
    maximum: int = Field(ge=1, description="largest size of the dimension")

    @model_validator(mode="after")
    def _ordered(self) -> "Bounds":
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class Output(Section):
    """One output, for one instance."""

    description: str = Field(default="", description="what it is")
    unit: str = Field(default="", description="of its values, like m/s")


class Input(Output):
    """One input, for one instance."""

    dtype: DType = Field(default="float32", description="of the graph's input")
    shape: tuple[int | Name, ...] = Field(
        default=(), description="sizes without the batch; a name for a size that differs; [] for a scalar"
    )
    minimum: float | None = Field(default=None, description="least value that is taken")
    maximum: float | None = Field(default=None, description="largest value that is taken")
    default: Any = Field(default=None, description="value of a request that leaves the input out")


@dataclass(frozen=True)
class Signature:
    """Inputs in the graph's order, outputs in the answer's, and the sizes of the named dimensions."""

    inputs: tuple[TensorField, ...]
    outputs: tuple[TensorField, ...]
    sizes: Mapping[str, Size]

    def preprocess(self) -> dict[str, Any]:
        """The content of preprocess_config.json."""
        return {
            "inputs": [_config(field) for field in self.inputs],
            "dimensions": {name: vars(size) for name, size in self.sizes.items()},
        }

    def postprocess(self) -> dict[str, Any]:
        """The content of postprocess_config.json."""
        return {"type": "tensors", "outputs": [_config(field) for field in self.outputs]}

    def dimensions(self) -> tuple[dict[int, Dimension], ...]:
        """The named dimensions of each input as an export has them."""
        return tuple(
            {
                place: Dimension(size, self.sizes[size].minimum, self.sizes[size].maximum)
                for place, size in enumerate(field.shape, 1)
                if isinstance(size, str)
            }
            for field in self.inputs
        )


def declared_inputs(
    inputs: Mapping[str, Input], dimensions: Mapping[str, Bounds]
) -> tuple[tuple[TensorField, ...], dict[str, Size]]:
    """The inputs that a spec declares, with the sizes of their dimensions.

    Raises CallError for names that a request's JSON has already, and for dimensions without bounds.
    """
    for name in inputs:
        if name in RESERVED:
            raise CallError(f"inputs: {name!r} has a meaning in requests already; choose another name")
    fields = tuple(
        TensorField(name, **{**one.model_dump(), "shape": tuple(one.shape)}) for name, one in inputs.items()
    )
    named = {size for field in fields for size in field.shape if isinstance(size, str)}
    if missing := sorted(named - dimensions.keys()):
        raise CallError(
            f"dimensions: {', '.join(missing)} stands in a shape and has no bounds; add "
            f"dimensions: {{{missing[0]}: {{minimum: 1, maximum: 512}}}}"
        )
    sizes = {name: Size(dimensions[name].minimum, dimensions[name].maximum) for name in sorted(named)}
    fixed = {name: size.minimum for name, size in sizes.items() if size.minimum == size.maximum}
    fields = tuple(
        replace(
            field,
            shape=tuple(fixed.get(size, size) if isinstance(size, str) else size for size in field.shape),
        )
        for field in fields
    )
    return fields, {name: size for name, size in sizes.items() if name not in fixed}


def example_of(
    fields: Sequence[TensorField], sizes: Mapping[str, Size], seed: int = 0, longer: int = 0
) -> tuple[torch.Tensor, ...]:
    """A batch of EXAMPLE_ROWS for these inputs, drawn within their bounds; `longer` adds to named sizes."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for field in fields:
        lengths = [_length(sizes[size], longer) if isinstance(size, str) else size for size in field.shape]
        batch.append(_draw(field, [EXAMPLE_ROWS, *lengths], generator))
    return tuple(batch)


def _length(size: Size, longer: int = 0) -> int:
    """How long a named dimension is in an example."""
    return min(max(size.minimum, EXAMPLE_SIZE + longer), size.maximum)


def _draw(field: TensorField, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    dtype, low, high = DTYPES[field.dtype], field.minimum, field.maximum
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point:
        first = int(low or 0)
        last = int(high) if high is not None else first + WHOLE_NUMBERS - 1
        return torch.randint(first, last + 1, tuple(shape), generator=generator).to(dtype)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if low is not None and high is not None:
        values = low + (high - low) * values.sigmoid()
    elif low is not None:
        values = low + values.abs()
    elif high is not None:
        values = high - values.abs()
    return values.to(dtype)


class NamedModule(nn.Module):
    """A module whose outputs have names: tensors [B, ...] in the order of its inputs -> {name: [B, ...]}."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, tuple(names)

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """One batch."""
        return dict(zip(self.names, flat(self.module(*inputs)), strict=True))


def with_outputs(
    module: nn.Module,
    inputs: tuple[TensorField, ...],
    sizes: Mapping[str, Size],
    outputs: Mapping[str, Output],
) -> tuple[NamedModule, Signature]:
    """The module with named outputs, and its signature; the outputs' shapes are what running it shows.

    Names are those of `outputs`, else the keys of a dict that it returns, else output_0 and so on. Raises
    CallError where the module fails on such inputs, gives something else than tensors, or where an output
    has no row per instance.
    """
    first, second = (_run(module, example_of(inputs, sizes, longer=longer)) for longer in (0, 1))
    names = _names(first, outputs)
    fields = []
    tried = {name: _length(size) for name, size in sizes.items()}
    for name, one, other in zip(names, flat(first), flat(second), strict=True):
        if not isinstance(one, torch.Tensor) or one.ndim < 1 or len(one) != EXAMPLE_ROWS:
            words = list(one.shape) if isinstance(one, torch.Tensor) else type(one).__name__
            raise CallError(
                f"the output {name!r} is {words} for {EXAMPLE_ROWS} instances; each must be a tensor whose "
                "first dimension counts the instances"
            )
        about = outputs.get(name, Output())
        sizes_found = zip(one.shape[1:], other.shape[1:], strict=True)
        shape = tuple(
            size if size == later else _dimension_of(size, tried, f"{name}_{place}")
            for place, (size, later) in enumerate(sizes_found)
        )
        dtype = str(one.dtype).removeprefix("torch.").replace("bfloat16", "float32")
        fields.append(TensorField(name, dtype, shape, about.description, about.unit))
    return NamedModule(module, names), Signature(inputs, tuple(fields), dict(sizes))


def _run(module: nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    shapes = ", ".join(f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}" for part in example)
    try:
        with torch.inference_mode():
            return module(*(part.clone() for part in example))
    except Exception as error:  # whatever the user's own code raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CallError(
            f"the module fails on {shapes} with {type(error).__name__}: {reason}; declare its inputs under "
            "training.inputs, in the order in which it takes them"
        ) from error


def _names(outputs: Any, declared: Mapping[str, Output]) -> list[str]:
    count = len(flat(outputs))
    if isinstance(outputs, dict):
        names = [str(name) for name in outputs]
        if unknown := [name for name in declared if name not in names]:
            raise CallError(f"outputs: the module gives {', '.join(names)}, not {', '.join(unknown)}")
        return names
    if declared and len(declared) != count:
        raise CallError(f"outputs: {len(declared)} are named, the module gives {count}")
    return list(declared) or (["output"] if count == 1 else [f"output_{index}" for index in range(count)])


def _dimension_of(size: int, tried: Mapping[str, int], other: str) -> str:
    """The name of the input's dimension that is as long; a name of its own for a size that depends on it."""
    return next((name for name, length in tried.items() if length == size), other)


def _config(field: TensorField) -> dict[str, Any]:
    """A field as JSON, without what it leaves open."""
    config = {**vars(field), "shape": list(field.shape)}
    config.pop("numpy_dtype", None)
    return {name: value for name, value in config.items() if value not in (None, "")}
