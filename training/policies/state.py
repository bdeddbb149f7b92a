"""State dicts of learners and their parts: what a checkpoint saves of them.

`torch.load(weights_only=True)` reads tensors, numbers and text, so arrays are saved as tensors and the state
of NumPy's generators, whose integers are too long for a tensor, as JSON.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch


class Stateful:
    """Has a state dict of the attributes that a subclass names; those that are None are left out."""

    state_parts: ClassVar[tuple[str, ...]] = ()  # have state dicts of their own
    state_arrays: ClassVar[tuple[str, ...]] = ()  # of NumPy; restored in place, since others may share them
    state_values: ClassVar[tuple[str, ...]] = ()  # numbers and lists of them

    def state_dict(self) -> dict[str, Any]:
        """The present state; its tensors share memory with the arrays."""
        state = {name: getattr(self, name) for name in self.state_values}
        for name in self.state_arrays:
            if (array := getattr(self, name)) is not None:
                state[name] = torch.from_numpy(array)
        for name in self.state_parts:
            if (part := getattr(self, name)) is not None:
                state[name] = part.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises an exception where it doesn't fit."""
        for name in self.state_values:
            setattr(self, name, state[name])
        for name in self.state_arrays:
            if (array := getattr(self, name)) is not None:
                _copy_into(array, state[name].numpy(), name)
        for name in self.state_parts:
            if (part := getattr(self, name)) is not None:
                part.load_state_dict(state[name])


def _copy_into(array: np.ndarray, saved: np.ndarray, name: str) -> None:
    if saved.shape != array.shape:
        raise ValueError(f"{name} has the shape {saved.shape}, not {array.shape}")
    array[...] = saved


def rng_to_json(rng: np.random.Generator) -> str:
    """The state of a generator."""
    return json.dumps(rng.bit_generator.state)


def rng_from_json(rng: np.random.Generator, text: str) -> None:
    """Set the state that `rng_to_json` gave."""
    rng.bit_generator.state = json.loads(text)
