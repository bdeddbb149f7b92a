"""How networks learn by one loss, whose value on validation chooses the epoch."""

from typing import Any

import numpy as np
import torch
from torch import nn

from training.runs.fitting import FitModule
from training.runs.schedules import FitSettings


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
        """The least loss."""
        return (-row["validation_loss"],)

    def plateau_loss(self, row: dict[str, float]) -> float:
        """On validation."""
        return row["validation_loss"]

    def summary(self, row: dict[str, float]) -> str:
        """Both losses."""
        return f"loss {row['loss']:.4g}, validation {row['validation_loss']:.4g}"
