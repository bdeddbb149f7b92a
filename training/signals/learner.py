"""How a classifier of signals learns: batches of about one length, cross-entropy, the best epoch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from handlers.inputs.signals import padded
from training.data.signals import Signal
from training.runs.class_learning import BalancedClassModule, logits_by_length
from training.signals.networks import SignalNetwork
from training.signals.settings import Settings

EVALUATION_BATCH = 64

SignalBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class SignalSplit:
    """The signals of a split; batches are filled up to their longest, or to `steps` where that isn't 0."""

    def __init__(self, signals: Sequence[Signal], steps: int) -> None:
        self.signals, self.steps = signals, steps
        self.lengths = np.array([len(one.values) for one in signals])
        self.labels = torch.tensor([one.label for one in signals])

    def __len__(self) -> int:
        return len(self.signals)

    def batch(self, rows: Sequence[int]) -> SignalBatch:
        """Signals float32 [B, T, C], their steps and labels int64 [B]."""
        values = padded([self.signals[row].values for row in rows], self.steps or None)
        taken = torch.as_tensor(rows)
        return torch.from_numpy(values), torch.from_numpy(self.lengths)[taken], self.labels[taken]


class SignalModule(BalancedClassModule):
    """A network that learns from signals."""

    settings: Settings
    model: SignalNetwork

    def training_step(self, batch: SignalBatch) -> torch.Tensor:
        """One step, with noise."""
        signals, steps, labels = batch
        if self.settings.noise:
            deviation = self.settings.noise * self.model.deviation
            signals = signals + torch.randn_like(signals) * deviation
        return self.learn_from(self.model(signals, steps), labels)

    def validated(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all validation signals."""
        return logits_of(self.average, self.validation, device), self.validation.labels


def logits_of(model: nn.Module, split: SignalSplit, device: torch.device | str = "cpu") -> torch.Tensor:
    """Float32 [N, classes] on the CPU, in the order of the signals."""
    return logits_by_length(model, split, EVALUATION_BATCH, device)


def statistics_of(signals: Sequence[Signal]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel over all steps: float64 [C]. A channel that never changes keeps its
    scale.
    """
    count = sum(len(one.values) for one in signals)
    mean = sum(one.values.sum(0, dtype=np.float64) for one in signals) / count
    squares = sum(np.square(one.values - mean).sum(0) for one in signals) / count
    return np.asarray(mean), np.where(squares > 0, np.sqrt(squares), 1.0)
