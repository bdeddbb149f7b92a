"""How a forecaster learns: a loss of scaled changes, the epoch with the least on validation."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from training.runs.fitting import fit
from training.runs.loss_learning import LossModule
from training.runs.run import Run
from training.runs.threads import threads_for, torch_threads
from training.series.networks import Forecast
from training.series.settings import ForecastSettings
from training.series.windows import EVALUATION_BATCH, WindowBatches, Windows
from training.tensors.networks import loss_of

Pair = tuple[torch.Tensor, torch.Tensor]
EVALUATED = 20_000  # windows of the validation part that choose the epoch, at most


class ForecastModule(LossModule):
    """Learns changes [B, horizon]."""

    settings: ForecastSettings

    def __init__(self, model: nn.Module, settings: ForecastSettings, validation: Windows) -> None:
        super().__init__(model, settings, validation.spread(EVALUATED))

    def loss(self, model: nn.Module, batch: Pair) -> torch.Tensor:
        """The mean over features and targets."""
        features, targets = batch
        return loss_of(self.settings.loss, model(features), targets)

    def validation_loss(self) -> float:
        """The mean over the validation windows, which are gathered part by part."""
        total = 0.0
        for start in range(0, len(self.validation), EVALUATION_BATCH):
            part = self.validation.batch(slice(start, start + EVALUATION_BATCH))
            targets = part.targets.to(self.device)
            total += float(self.loss(self.average, (part.features.to(self.device), targets))) * len(targets)
        return total / len(self.validation)

    def last_model(self) -> nn.Module:
        """The average of the last epoch, on the CPU and in eval mode."""
        return self.average.cpu().eval()


def learn(
    settings: ForecastSettings, train: Windows, validation: Windows, run: Run, fingerprint: str | None
) -> ForecastModule:
    """Fit the network of the settings to the windows."""
    learner = ForecastModule(Forecast(settings, train.series), settings, validation)
    with torch_threads(threads_for(learner.model)):
        fit(learner, WindowBatches(train, settings.batch_size, run.seed), run, fingerprint=fingerprint)
    return learner


def changes_of(model: nn.Module, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """What a module on the CPU gives for all windows, and what is true: scaled changes [N, horizon]."""
    found, truth = [], []
    with torch.inference_mode():
        for start in range(0, len(windows), EVALUATION_BATCH):
            part = windows.batch(slice(start, start + EVALUATION_BATCH))
            found.append(model(part.features).numpy())
            truth.append(part.targets.numpy())
    return np.concatenate(found).astype(np.float64), np.concatenate(truth).astype(np.float64)


def values_of(windows: Windows, changes: np.ndarray) -> np.ndarray:
    """Values float64 [N, horizon] in the target's unit, of scaled changes."""
    parts = []
    for start in range(0, len(windows), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        part = windows.batch(rows)
        parts.append(part.anchors[:, None] + part.scales[:, None] * changes[rows])
    return windows.series.restored(np.concatenate(parts))


@contextmanager
def quiet(run: Run) -> Iterator[Run]:
    """A run beside the main one: it leaves nothing in the report, keeps no checkpoints, and learns in one
    process.
    """
    with TemporaryDirectory() as folder:
        yield replace(run.aside(Path(folder)), devices=1, nodes=1)
