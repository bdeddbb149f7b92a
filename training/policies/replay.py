"""What an off-policy algorithm remembers: transitions, one packed row each."""

import hashlib
from typing import NamedTuple

import torch

from training.policies.checkpoints import MOST_BYTES


class Transitions(NamedTuple):
    """N steps, float32: observations and next_observations [N, w], actions [N, a], rewards and terminated (0 or 1) [N, 1]."""

    observations: torch.Tensor
    next_observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminated: torch.Tensor


class Replay:
    """The last `capacity` transitions, one packed float32 row each, so that a sample is one gather."""

    def __init__(self, capacity: int, width: int, action_width: int = 1) -> None:
        self.columns = [width, width, action_width, 1, 1]
        self.rows = torch.zeros(capacity, sum(self.columns))
        self.added = 0
        self.digest = hashlib.sha256()

    def __len__(self) -> int:
        return min(self.added, len(self.rows))

    @property
    def too_large_to_keep(self) -> bool:
        """Whether a checkpoint leaves it out."""
        return self.rows.nbytes > MOST_BYTES

    def add(self, transitions: Transitions) -> None:
        """Append, overwriting the oldest."""
        packed = torch.cat(transitions, 1)
        self.digest.update(packed.numpy().tobytes())
        kept = packed[-len(self.rows) :]
        first = self.added + len(packed) - len(kept)
        self.rows[torch.arange(first, first + len(kept)) % len(self.rows)] = kept
        self.added += len(packed)

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """`count` transitions, uniformly with replacement."""
        chosen = torch.randint(len(self), (count,), generator=generator)
        return Transitions(*torch.split(self.rows.index_select(0, chosen), self.columns, 1))
