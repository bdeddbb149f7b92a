"""Tensors in memory: batches of rows to learn from."""

from typing import Any

import torch

from training.runs.batches import Batches, shuffled

Tensors = tuple[torch.Tensor, ...]
Split = tuple[Tensors, dict[str, torch.Tensor]]  # inputs [N, ...], and targets [N, ...] by name


class Rows(Batches[Split]):
    """Batches of training rows, shuffled each epoch."""

    def __init__(self, split: Split, size: int, seed: int) -> None:
        super().__init__(seed)
        self.inputs, self.targets = split
        self.count = len(self.inputs[0])
        self.size = min(size, self.count)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.count // self.size

    def order(self) -> Any:
        """All rows in a drawn order."""
        return shuffled(self.count, self.size, self.generator)

    def batch(self, read: Any) -> Split:
        """Inputs and targets of these rows."""
        rows = torch.as_tensor(read)
        return tuple(one[rows] for one in self.inputs), {
            name: one[rows] for name, one in self.targets.items()
        }
