"""The learning rate range test (Smith 2017, section 3.3): rates rise from step to step until the loss
diverges. A tenth of the rate at which the smoothed loss is least is taken, as fastai does.

Where the loss falls fastest, which others take, is a matter of noise in small data.
"""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.tuner.tuning import Tuner
from matplotlib.figure import Figure

from training.runs.batches import Batches, random_kept

LEAST, MOST, STEPS = 1e-6, 1.0, 100
SKIPPED = 10  # first steps, of which the smoothed loss knows too few
FALLEN = 0.98  # of the loss at first: what is above it has not fallen


def find_learning_rate(
    learner: lightning.LightningModule, batches: Batches[Any], trainer: lightning.Trainer, report: Path
) -> float | None:
    """A tenth of the rate of the least loss, None where it never falls; drawn as learning_rate.png.

    Weights, random numbers and the place in `batches` are afterwards as they were.
    """
    with random_kept(batches):
        finder: Any = Tuner(trainer).lr_find(
            learner,
            train_dataloaders=batches,
            min_lr=LEAST,
            max_lr=MOST,
            num_training=STEPS,
            update_attr=False,
        )
    rates, losses = finder.results["lr"][SKIPPED:], finder.results["loss"][SKIPPED:]
    least = int(np.argmin(losses)) if losses else 0
    rate = float(rates[least]) / 10 if losses and losses[least] < FALLEN * losses[0] else None
    draw(rates, losses, rate, report / "learning_rate.png")
    return rate


def draw(rates: list[float], losses: list[float], rate: float | None, path: Path) -> None:
    """The smoothed loss over the rates, and the one that was taken."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses)
    if rate is not None:
        axes.axvline(rate, color="gray", linestyle=":", label=f"{rate:.2g}")
        axes.legend()
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
