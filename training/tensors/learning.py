"""How modules of tensors in memory learn: batches of rows, and a loss that chooses the epoch."""

from typing import Any

import numpy as np
import torch
from torch import nn

from training.runs.batches import Batches, shuffled
from training.runs.fitting import FitModule
from training.runs.schedules import FitSettings

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


class LossModule(FitModule):
    """A module that learns by one loss; the epoch with the least on the validation rows is the best. What a
    batch is, `loss` knows.
    """

    def __init__(self, model: nn.Module, settings: FitSettings, validation: Any) -> None:
        super().__init__(model, settings)
        self.validation = validation

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The mean over one batch."""
        raise NotImplementedError

    def validation_loss(self) -> float:
        """The mean over the validation rows, which are one batch here."""
        return float(self.loss(self.average, self.validation))

    def training_step(self, batch: Any) -> torch.Tensor:
        """One step."""
        loss = self.loss(self.model, batch)
        self.losses.append(float(loss.detach()))
        return loss

    def evaluate(self) -> dict[str, float]:
        """Both losses."""
        self.model.eval()
        with torch.no_grad():
            value = self.validation_loss()
        self.model.train()
        return {"loss": float(np.mean(self.losses)), "validation_loss": value}

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """The less the better."""
        return (-row["validation_loss"],)

    def plateau_loss(self, row: dict[str, float]) -> float:
        """On validation."""
        return row["validation_loss"]

    def summary(self, row: dict[str, float]) -> str:
        """Both losses."""
        return f"loss {row['loss']:.4g}, validation {row['validation_loss']:.4g}"
