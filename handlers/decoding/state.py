"""What a decoder carries from step to step, for a batch of rows that come and go.

The step program takes every part of the state as an array with the rows in front. A part is

    constant    what the prompt gave, as the encoder's outputs; the graph gives nothing back for it
    carried     replaced by what the graph gives back, as a recurrent cell's state
    cache       keys and values of attention: the graph gives back those of one more token, which are written
                behind the others, into memory that is there already

`axis` is the dimension whose size differs from row to row; rows are filled up with zeros along it, and the
graph masks what is behind. Memory of a cache grows by CHUNK tokens at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK = 64
CONSTANT, CARRIED, CACHE = "constant", "carried", "cache"

Arrays = dict[str, np.ndarray]  # by the names of the parts


@dataclass(frozen=True)
class StatePart:
    """A part of the state as an export says it: `shape` of one row, 0 where `axis` is."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axis: int | None = None  # counted with the rows in front

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "StatePart":
        """As in postprocess_config.json. Raises ValueError for what is none."""
        part = cls(**{**config, "shape": tuple(config["shape"])})
        if part.role not in (CONSTANT, CARRIED, CACHE) or (part.role == CACHE and part.axis is None):
            raise ValueError(f"the state {part.name} has the role {part.role}")
        return part

    def as_config(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "shape": list(self.shape)}

    def empty(self, rows: int) -> np.ndarray:
        """What it is where the prompt gives nothing."""
        return np.zeros((rows, *self.shape), self.dtype)


class RowStates:
    """The state of all rows of a batch, and how many tokens each row has behind it."""

    def __init__(self, parts: Sequence[StatePart]) -> None:
        self.parts = list(parts)
        self.positions = np.zeros(0, np.int64)  # of the next token of each row
        self.arrays: Arrays = {}

    def __len__(self) -> int:
        return len(self.positions)

    def join(self, arrays: Mapping[str, np.ndarray], positions: np.ndarray) -> None:
        """Add rows; parts that are missing are empty ones."""
        rows = len(positions)
        for part in self.parts:
            given = arrays.get(part.name)
            new = part.empty(rows) if given is None else given.astype(part.dtype, copy=False)
            old = self.arrays.get(part.name)
            if old is None or not len(old):
                self.arrays[part.name] = new
            else:
                size = max(old.shape[part.axis], new.shape[part.axis]) if part.axis else 0
                pair = [_filled(one, part.axis, size) if part.axis else one for one in (old, new)]
                self.arrays[part.name] = np.concatenate(pair)
        self.positions = np.concatenate([self.positions, positions])

    def take(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; one may be there several times."""
        if list(rows) == [*range(len(self))]:
            return
        index = np.asarray(rows, np.int64)
        self.arrays = {name: array[index] for name, array in self.arrays.items()}
        self.positions = self.positions[index]

    def copy_of(self, rows: Sequence[int]) -> tuple[Arrays, np.ndarray]:
        """These rows by themselves, to be joined again later."""
        index = np.asarray(rows, np.int64)
        return {name: array[index] for name, array in self.arrays.items()}, self.positions[index]

    def make_room(self) -> None:
        """See that the next token of every row has a place in the caches."""
        needed = int(self.positions.max(initial=0)) + 1
        for part in self.parts:
            if part.role == CACHE and part.axis and self.arrays[part.name].shape[part.axis] < needed:
                size = -(-needed // CHUNK) * CHUNK
                self.arrays[part.name] = _filled(self.arrays[part.name], part.axis, size)

    def inputs(self, rows: slice) -> list[np.ndarray]:
        """The parts of these rows in the order in which the graph takes them."""
        return [self.arrays[part.name][rows] for part in self.parts]

    def update(self, rows: slice, outputs: Mapping[str, np.ndarray]) -> None:
        """Write what the graph gave back for these rows."""
        index = np.arange(len(self))[rows]
        for part in self.parts:
            if part.role == CARRIED:
                array = self.arrays[part.name]
                if len(index) == len(array):
                    self.arrays[part.name] = outputs[part.name]
                else:
                    array[index] = outputs[part.name]
            elif part.role == CACHE and part.axis is not None:
                cache = np.moveaxis(self.arrays[part.name], part.axis, 1)
                cache[index, self.positions[index]] = np.moveaxis(outputs[part.name], part.axis, 1)[:, 0]
        self.positions[index] += 1


def _filled(array: np.ndarray, axis: int | None, size: int) -> np.ndarray:
    """Zeros behind along an axis."""
    if axis is None or array.shape[axis] >= size:
        return array
    shape = [*array.shape]
    shape[axis] = size
    filled = np.zeros(shape, array.dtype)
    filled[tuple(slice(0, one) for one in array.shape)] = array
    return filled
