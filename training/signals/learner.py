"""How a classifier of signals learns: batches of about one length, cross-entropy, the best epoch."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from handlers.inputs.signals import padded
from training.data.signals import Signal
from training.runs.class_learning import ClassModule
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


class SignalModule(ClassModule):
    """A network that learns from signals."""

    settings: Settings
    model: SignalNetwork

    def __init__(
        self, model: SignalNetwork, settings: Settings, train: SignalSplit, validation: SignalSplit
    ) -> None:
        super().__init__(model, settings)
        self.validation = validation
        self.weights: torch.Tensor | None
        self.register_buffer("weights", self._class_weights(train.labels))

    def training_step(self, batch: SignalBatch) -> torch.Tensor:
        """One step, with noise."""
        signals, steps, labels = batch
        if self.settings.noise:
            deviation = self.settings.noise * self.model.deviation
            signals = signals + torch.randn_like(signals) * deviation
        return self.learn_from(self.model(signals, steps), labels)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over the signals."""
        return F.cross_entropy(
            logits, labels, weight=self.weights, label_smoothing=self.settings.label_smoothing
        )

    def validated(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all validation signals."""
        return logits_of(self.average, self.validation, device), self.validation.labels

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """Accuracy, ties by loss; the loss alone where classes are balanced."""
        accuracy, loss = super().merit(row)
        return (0.0 if self.settings.class_balance != "none" else accuracy, loss)

    def _class_weights(self, labels: torch.Tensor) -> torch.Tensor | None:
        if self.settings.class_balance == "none":
            return None
        classes = np.unique(labels.numpy())
        weights = compute_class_weight("balanced", classes=classes, y=labels.numpy())
        return torch.from_numpy(weights).float()


def logits_of(model: nn.Module, split: SignalSplit, device: torch.device | str = "cpu") -> torch.Tensor:
    """Float32 [N, classes] on the CPU, in the order of the signals."""
    order = np.argsort(split.lengths, kind="stable")
    parts = []
    with torch.no_grad():  # not inference_mode: a temperature is fitted to them
        for start in range(0, len(order), EVALUATION_BATCH):
            signals, steps, _ = split.batch(order[start : start + EVALUATION_BATCH].tolist())
            parts.append(model(signals.to(device), steps.to(device)).float().cpu())
    logits = torch.empty_like(sorted_logits := torch.cat(parts))
    logits[torch.from_numpy(order)] = sorted_logits
    return logits


def statistics_of(signals: Sequence[Signal]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel over all steps: float64 [C]. A channel that never changes keeps its
    scale.
    """
    count = sum(len(one.values) for one in signals)
    mean = sum(one.values.sum(0, dtype=np.float64) for one in signals) / count
    squares = sum(np.square(one.values - mean).sum(0) for one in signals) / count
    return np.asarray(mean), np.where(squares > 0, np.sqrt(squares), 1.0)
