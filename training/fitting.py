"""The loop that detectors and segmenters share: Lightning, one line of progress, a measurement after every epoch."""

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Measured(Protocol):
    """What learns here: a LightningModule with a history, of which each row is an epoch's loss and measurements."""

    history: list[dict[str, float]]

    def measure(self) -> dict[str, float]:
        """Measure the epoch that has ended on the validation pictures, and keep the best; gives the new row of the history."""


class EpochProgress(Callback):
    """One line: the epoch, its loss, the last validation."""

    def __init__(self, progress: Progress, epochs: int, steps: int, said: Callable[[dict[str, float]], str]) -> None:
        self.progress, self.epochs, self.said = progress, epochs, said
        self.task = progress.add_task("epoch 1", total=epochs * steps)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """A step more."""
        self.progress.advance(self.task)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """The epoch's results."""
        last = module.measure()
        said = f"epoch {len(module.history)} of {self.epochs}: loss {last['loss']:.2f}, validation {self.said(last)}"
        self.progress.update(self.task, description=said)


def fit(learner: Any, batches: Iterable[Any], steps: int, epochs: int, said: Callable[[dict[str, float]], str]) -> None:
    """Train `learner` (`Measured`) on `batches` of so many `steps` for `epochs`; `said` puts a row of its history in a few words."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it would tell of the devices and advertise
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            gradient_clip_val=5.0,
            callbacks=[EpochProgress(progress, epochs, steps, said)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec")  # Lightning's own affair with torch
            warnings.filterwarnings("ignore", message=".*in eval mode at the start")  # frozen statistics, and the average, are meant
            trainer.fit(learner, train_dataloaders=batches)


def one_cycle(learner: lightning.LightningModule, parameters: Iterable[Any], rate: float, weight_decay: float) -> dict[str, Any]:
    """AdamW under a one-cycle learning rate (Smith and Topin 2018) of the peak `rate`."""
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=weight_decay)
    steps = int(learner.trainer.estimated_stepping_batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(2, steps), pct_start=0.2)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def reduced(precision: str) -> bool:
    """Whether convolutions are computed in bfloat16: if asked for, or if "auto" finds hardware that is fast at it."""
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    return precision == "bfloat16" or (precision == "auto" and fast)


@torch.no_grad()
def follow(average: torch.nn.Module, module: torch.nn.Module, decay: float, step: int) -> None:
    """Let a moving average of the weights follow after `step` steps; at first, when it has seen little, faster."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        mean.lerp_(value, 1 - decay) if mean.is_floating_point() else mean.copy_(value)
