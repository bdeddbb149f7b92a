"""Reads a pickle without running anything of it: every object becomes a shell of its arguments and state."""

import io
import pickle
from collections.abc import Collection
from typing import Any

import numpy as np


class Shell:
    """Stands for any object in a pickle: keeps what it would be made of, and makes nothing of it."""

    arguments: tuple[Any, ...]
    state: Any = None
    items: list[Any]  # what a list, a set or a deque holds

    def __new__(cls, *arguments: Any) -> "Shell":
        """An empty one."""
        shell = super().__new__(cls)
        shell.arguments, shell.items = arguments, []
        return shell

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def append(self, item: Any) -> None:
        """Keep an item."""
        self.items.append(item)


def load_shells(content: bytes, packages: Collection[str]) -> Any:
    """What is pickled in `content`; its objects may only be of these packages.

    Raises UnpicklingError for other ones, and whatever `pickle` raises on damaged content.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.partition(".")[0] not in packages:
                raise pickle.UnpicklingError(
                    f"it asks for {module}.{name}, which doesn't belong there; nothing of it was run"
                )
            return Shell

    return Unpickler(io.BytesIO(content)).load()


def array_of(shell: Shell) -> np.ndarray:
    """The float64 array that numpy pickled: its bytes are its state, or an argument since protocol 5."""
    if shell.state is None:
        content, dtype, shape, order = shell.arguments
    else:
        _, shape, dtype, fortran, content = shell.state
        order = "F" if fortran else "C"
    if dtype.arguments[0] != "f8":
        raise ValueError(f"its numbers are {dtype.arguments[0]!r}, not float64")
    return np.frombuffer(content, f"{dtype.state[1]}f8").astype(np.float64).reshape(shape, order=order)


def number_of(value: Any) -> float:
    """A number, or numpy's pickled scalar of real numbers. Raises for anything else."""
    if isinstance(value, Shell):
        dtype, content = value.arguments
        (value,) = np.frombuffer(content, dtype.arguments[0])
    return float(value)
