"""Named tensors of an instance: from JSON, or from the row of a v2 tensor, to arrays of one dtype, whose
shape and bounds are checked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from ..protocol.errors import BadRequest, TooLarge

NUMBER_TYPES: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}
IN_WORDS = {"b": "true or false", "u": "whole numbers", "i": "whole numbers", "f": "numbers"}
FITTING_KINDS = {"b": "b", "u": "ui", "i": "ui", "f": "uif"}  # of arrays, by the kind of the dtype
MAX_VALUES = 10_000_000  # of one tensor of one instance
ONLY_LISTS = {list}


@dataclass(frozen=True)
class Size:
    """The least and the most of a dimension that has a name instead of a fixed size."""

    minimum: int
    maximum: int


@dataclass(frozen=True)
class TensorField:
    """One input or output of the graph, for one instance: without the batch dimension.

    `shape` holds sizes, and names of dimensions that differ from instance to instance. An input with a
    `default` may be left out of a request.
    """

    name: str
    dtype: str = "float32"
    shape: tuple[int | str, ...] = ()
    description: str = ""
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    default: Any = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TensorField":
        """An element of "inputs" in preprocess_config.json, or of "outputs" in postprocess_config.json."""
        return cls(**{**config, "shape": tuple(config.get("shape", ()))})

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype as numpy has it."""
        return np.dtype(self.dtype)

    def read(self, sent: Any, sizes: Mapping[str, Size], known: dict[str, int]) -> np.ndarray:
        """What was sent as an array of this dtype and shape; `known` are the sizes of named dimensions, to
        which those of this tensor are added.

        Raises BadRequest for another shape, for values that the dtype doesn't hold, that are not finite or
        out of bounds; TooLarge for a named dimension above its most.
        """
        if self.shape == () and type(sent) in NUMBER_TYPES[self.numpy_dtype.kind] and self._holds(sent):
            return np.array(sent, self.numpy_dtype)
        values = sent if isinstance(sent, np.ndarray) else self._listed(sent)
        if values.dtype.kind not in FITTING_KINDS[self.numpy_dtype.kind]:
            raise BadRequest(f"{self.name} must hold {self._words()}, not values of {values.dtype}")
        if values.shape == (1,) and self.shape == ():
            values = values.reshape(())  # a column of N scalars, as many clients send it
        elif values.shape == () and self.shape == (1,):
            values = values.reshape(1)
        if values.shape != self.shape:
            self._check_shape(values.shape, sizes, known)
        if self._is_allowed(values):
            return values.astype(self.numpy_dtype)
        array = self._cast(values)
        self._check_bounds(array)
        return array

    def schema(self, sizes: Mapping[str, Size]) -> dict[str, Any]:
        """JSON schema of the values, nested like the shape."""
        schema: dict[str, Any] = self._value_schema()
        for size in reversed(self.shape):
            schema = {"type": "array", "items": schema, **_bounds_of(size, sizes)}
        about = ", ".join(part for part in (self.description, self.unit and f"in {self.unit}") if part)
        if about:
            schema["description"] = about
        if self.default is not None:
            schema["default"] = self.default
        return schema

    def words_of_shape(self) -> str:
        """The shape as a request's author reads it."""
        kind = {"b": "true or false", "u": "a whole number", "i": "a whole number", "f": "a number"}
        if not self.shape:
            return kind[self.numpy_dtype.kind]
        return f"{self._words()} of shape [{', '.join(map(str, self.shape))}]"

    def _words(self) -> str:
        return IN_WORDS[self.numpy_dtype.kind]

    @cached_property
    def _allowed(self) -> tuple[float, float]:
        """The least and the greatest value that needs no closer look: of the bounds and of the dtype."""
        dtype = self.numpy_dtype
        limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        low, high = limits.min.item() if dtype.kind == "f" else limits.min, limits.max
        least = low if self.minimum is None else max(low, self.minimum)
        most = high if self.maximum is None else min(high, self.maximum)
        return (float(least), float(most)) if dtype.kind == "f" else (least, most)

    def _is_allowed(self, values: np.ndarray) -> bool:
        """Whether all values are surely finite, held by the dtype and within the bounds: two reductions.

        Rounding to the dtype keeps the order, so that what is allowed here is allowed after it. What isn't is
        looked at value by value.
        """
        if self.numpy_dtype.kind == "b":
            return True
        if not values.size:
            return False
        least, most = self._allowed  # false with a NaN among them; the methods take half as long again
        return bool(
            np.minimum.reduce(values, axis=None) >= least and np.maximum.reduce(values, axis=None) <= most
        )

    def _holds(self, value: float) -> bool:
        """As `_is_allowed`, of one plain value."""
        if self.numpy_dtype.kind == "b":
            return True
        least, most = self._allowed
        return least <= value <= most

    def _listed(self, sent: Any) -> np.ndarray:
        """The values of a nested list, in the shape that it has."""
        flat, sizes = [sent], []
        for depth in range(len(self.shape)):
            if depth == 0 and not isinstance(sent, list) and self.shape == (1,):
                flat, sizes = [sent], [1]
                break
            if {*map(type, flat)} != ONLY_LISTS:
                found = next(type(part).__name__ for part in flat if type(part) is not list)
                raise BadRequest(f"{self.name} must be {self.words_of_shape()}, nested lists, not {found}")
            lengths = {*map(len, flat)}
            if len(lengths) > 1:
                raise BadRequest(
                    f"{self.name} has lists of {min(lengths)} and of {max(lengths)} values side by side; "
                    f"send {self.words_of_shape()}"
                )
            if 0 in lengths:
                raise BadRequest(f"{self.name} has an empty list; send {self.words_of_shape()}")
            sizes.append(lengths.pop())
            if math.prod(sizes) > MAX_VALUES:
                raise TooLarge(f"{self.name} has more than {MAX_VALUES:,} values; send fewer")
            flat = flat[0] if len(flat) == 1 else [*chain.from_iterable(flat)]
        return self._array(flat).reshape(sizes)

    def _array(self, flat: list[Any]) -> np.ndarray:
        kind = self.numpy_dtype.kind
        types = {*map(type, flat)}
        if not types <= NUMBER_TYPES[kind]:
            found = ", ".join(sorted(one.__name__ for one in types - NUMBER_TYPES[kind]))
            raise BadRequest(
                f"{self.name} must be {self.words_of_shape()}, not {found.replace('NoneType', 'null')}"
            )
        try:
            return np.array(flat, {"f": np.float64, "b": np.bool_}.get(kind, np.int64))
        except OverflowError:
            raise BadRequest(f"{self.name} holds a number that {self.dtype} can't hold") from None

    def _check_shape(self, shape: tuple[int, ...], sizes: Mapping[str, Size], known: dict[str, int]) -> None:
        if len(shape) != len(self.shape):
            raise BadRequest(f"{self.name} must be {self.words_of_shape()}, not of shape {list(shape)}")
        for wanted, size in zip(self.shape, shape, strict=True):
            if isinstance(wanted, str):
                bounds = sizes[wanted]
                if not bounds.minimum <= size <= bounds.maximum:
                    error = TooLarge if size > bounds.maximum else BadRequest
                    raise error(
                        f"{self.name}: {wanted} must be {bounds.minimum:,} to {bounds.maximum:,}, "
                        f"not {size:,}"
                    )
                if known.setdefault(wanted, size) != size:
                    raise BadRequest(
                        f"{self.name}: {wanted} is {size:,} here and {known[wanted]:,} in another input; "
                        "they must be equal"
                    )
            elif size != wanted:
                raise BadRequest(f"{self.name} must be {self.words_of_shape()}, not of shape {list(shape)}")

    def _cast(self, values: np.ndarray) -> np.ndarray:
        """The values in this dtype. Raises BadRequest for those that it doesn't hold."""
        dtype = self.numpy_dtype
        if dtype.kind in "ui" and values.size:
            limits = np.iinfo(dtype)
            if int(values.min()) < limits.min or int(values.max()) > limits.max:
                raise BadRequest(f"{self.name} must hold whole numbers from {limits.min} to {limits.max}")
        with np.errstate(over="ignore"):  # what doesn't fit becomes infinite, and is refused
            array = np.asarray(values).astype(dtype)
        if dtype.kind == "f" and not np.isfinite(array).all():
            where = _place(~np.isfinite(array))
            raise BadRequest(f"{self.name}{where} must be a finite number that {self.dtype} can hold")
        return array

    def _check_bounds(self, array: np.ndarray) -> None:
        low, high = self.minimum, self.maximum
        outside = np.zeros(array.shape, bool)
        if low is not None:
            outside |= array < low
        if high is not None:
            outside |= array > high
        if outside.any():
            value = array[outside].flat[0].item()
            unit = f" {self.unit}" if self.unit else ""
            allowed = (
                f"{low:g} to {high:g}"
                if low is not None and high is not None
                else f"{low:g} or more"
                if low is not None
                else f"{high:g} or less"
            )
            raise BadRequest(f"{self.name}{_place(outside)} is {value:g}; it must be {allowed}{unit}")

    def _value_schema(self) -> dict[str, Any]:
        kind = self.numpy_dtype.kind
        if kind == "b":
            return {"type": "boolean"}
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {
            "type": "number" if kind == "f" else "integer",
            "format": {"float32": "float", "float64": "double", "float16": "float"}.get(
                self.dtype, self.dtype
            ),
            **{name: value for name, value in bounds.items() if value is not None},
        }


def _bounds_of(size: int | str, sizes: Mapping[str, Size]) -> dict[str, Any]:
    if isinstance(size, int):
        return {"minItems": size, "maxItems": size}
    if size not in sizes:
        return {"x-dimension": size}
    return {"minItems": sizes[size].minimum, "maxItems": sizes[size].maximum, "x-dimension": size}


def _place(marked: np.ndarray) -> str:
    """The index of the first marked value, as in x[2, 0]; nothing for a scalar."""
    index = np.argwhere(marked)[0].tolist()
    return f"{index}" if index else ""
