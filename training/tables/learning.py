"""How a network for rows of a table learns: a loss by name, weights kept small."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from training.runs.loss_learning import LossModule
from training.tables.networks import Value
from training.tables.settings import TableSettings
from training.tensors.learning import Split
from training.tensors.networks import loss_of

ValueLoss = Literal["mse", "mae", "huber", "mape"]
ClassLoss = Literal["cross_entropy", "bce", "hinge"]
TARGET = "target"  # the name of the only target


class TableModule(LossModule):
    """A module of one features tensor; a subclass says the loss of its outputs."""

    settings: TableSettings

    def data_loss(self, model: nn.Module, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over the rows."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Split) -> torch.Tensor:
        """The rows' loss; while it learns also the penalties of the elastic net (Zou and Hastie 2005)."""
        (features,), targets = batch
        value = self.data_loss(model, model(features), targets[TARGET])
        if not model.training or not (self.settings.l1 or self.settings.l2):
            return value
        weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
        absolute = torch.stack([weight.abs().sum() for weight in weights]).sum()
        squares = torch.stack([weight.square().sum() for weight in weights]).sum()
        return value + self.settings.l1 * absolute + self.settings.l2 * squares


class ValueModule(TableModule):
    """Learns a number: errors are counted in deviations of the target, but for `mape` in shares of it."""

    def data_loss(self, model: nn.Module, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """For values and targets [B] in the target's unit."""
        name = self.settings.loss  # type: ignore[attr-defined]
        if name == "mape":
            return ((outputs - targets) / targets).abs().mean()
        assert isinstance(model, Value)
        return loss_of(name, outputs / model.deviation, targets / model.deviation)


class ClassModule(TableModule):
    """Learns classes: cross-entropy, binary cross-entropy of two, or the multiclass hinge loss (Crammer and
    Singer 2001).
    """

    def data_loss(self, model: nn.Module, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """For logits [B, classes] and class indices [B]."""
        name = self.settings.loss  # type: ignore[attr-defined]
        if name == "hinge":
            return functional.multi_margin_loss(outputs, targets)
        if name == "bce":
            return loss_of("bce", outputs[:, 1] - outputs[:, 0], targets)
        return loss_of("cross_entropy", outputs, targets)
