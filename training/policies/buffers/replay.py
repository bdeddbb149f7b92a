"""Uniform experience replay for off-policy algorithms: transitions, one packed row each."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

MAX_SAVED_BYTES = 64 << 20  # a larger buffer isn't saved, and is filled again before learning resumes


class Transitions(NamedTuple):
    """N steps, float32: obs and next_obs [N, w], actions [N, a], rewards and terminated (0 or 1) [N, 1]."""

    obs: torch.Tensor
    next_obs: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminated: torch.Tensor


class ReplayBuffer:
    """The last `buffer_size` transitions, one packed float32 row each, so that a sample is one gather."""

    def __init__(self, buffer_size: int, width: int, action_size: int = 1) -> None:
        self.widths = [width, width, action_size, 1, 1]
        self.rows = torch.zeros(buffer_size, sum(self.widths))
        self.num_added = 0

    def __len__(self) -> int:
        return min(self.num_added, len(self.rows))

    def add(self, packed: torch.Tensor) -> None:
        """Append rows float32 [N, sum of widths] in the order of `Transitions`, overwriting the oldest."""
        kept = packed[-len(self.rows) :]
        first = self.num_added + len(packed) - len(kept)
        self.rows[torch.arange(first, first + len(kept)) % len(self.rows)] = kept
        self.num_added += len(packed)

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """`count` transitions, uniformly with replacement."""
        index = torch.randint(len(self), (count,), generator=generator)
        return self._unpack(self.rows.index_select(0, index))

    def all(self) -> Transitions:
        """Every transition that it holds."""
        return self._unpack(self.rows[: len(self)])

    def state_dict(self) -> dict[str, Any]:
        """The rows and how many were added; empty where they are too large to be saved."""
        if self.rows.nbytes > MAX_SAVED_BYTES:
            return {}
        return {"rows": self.rows, "num_added": self.num_added}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        if state:
            self.rows.copy_(state["rows"])
            self.num_added = state["num_added"]

    def _unpack(self, rows: torch.Tensor) -> Transitions:
        return Transitions(*torch.split(rows, self.widths, 1))
