"""How the learners of pictures are carried: Lightning on one device or several, going on after a kill.

`carry` is for all of them; `fit` is the loop that detectors and segmenters share, with one line of progress and a measurement
after every epoch.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.running.batches import Batches
from training.running.checkpoints import Keeper
from training.running.logs import Logs
from training.running.run import FIRST, Run, current, is_helper


class Measured(Protocol):
    """What learns here: a LightningModule with a history, of which each row is an epoch's loss and measurements."""

    losses: list[float]
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
        self.progress.update(self.task, completed=trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """The epoch's results."""
        if not trainer.is_global_zero:  # the first process measures for all
            module.losses.clear()
            return
        last = module.measure()
        said = f"epoch {len(module.history)} of {self.epochs}: loss {last['loss']:.2f}, validation {self.said(last)}"
        self.progress.update(self.task, description=said)


def carry(
    learner: lightning.LightningModule,
    batches: Batches[Any],
    validation: Any = None,
    *,
    epochs: int,
    callbacks: list[Callback],
    fingerprint: str | None = None,
    frozen: bool = False,
    **options: Any,
) -> None:
    """Train `learner` on `batches` for `epochs`, as the current run says; `options` are Lightning's Trainer's.

    Where the run keeps checkpoints and the data has a `fingerprint`, it goes on where the last one was cut off. `frozen` says that
    not everything learns all the time. In the processes that only help, this call is the last: it ends them.
    """
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    run = current()
    keeper = Keeper(run, fingerprint, batches) if run.folder and fingerprint else None
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=run.devices,
        num_nodes=run.nodes,
        strategy=_strategy(run, frozen),
        sync_batchnorm=run.processes > 1 and torch.cuda.is_available(),  # torch has it for GPUs alone
        use_distributed_sampler=False,
        callbacks=[*callbacks, *([Logs(run.report)] if run.report else []), *([keeper] if keeper else [])],
        logger=False,
        enable_checkpointing=keeper is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning 2.6 under torch 2.14
        warnings.filterwarnings("ignore", message=".*does not have many workers")  # the pictures are in memory already
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")  # it is, by `Keeper`
        warnings.filterwarnings("ignore", message=".*in eval mode at the start")  # frozen statistics, and averages, are meant
        trainer.fit(learner, batches, validation, ckpt_path=keeper.found() if keeper else None, weights_only=True)
    if not trainer.is_global_zero:
        sys.exit(0)


def _strategy(run: Run, frozen: bool) -> Any:
    """Gradients averaged over processes; on the CPU they talk over the loopback, so that nothing is heard outside."""
    if run.processes == 1:
        return "auto"
    os.environ.setdefault(FIRST, str(os.getpid()))  # for the helpers that Lightning starts
    if run.nodes == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        if not torch.cuda.is_available():
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return DDPStrategy(find_unused_parameters=frozen)


def fit(learner: Any, batches: Batches[Any], epochs: int, said: Callable[[dict[str, float]], str], fingerprint: str) -> None:
    """Train `learner` (`Measured`) on `batches` for `epochs`; `said` puts a row of its history in a few words."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it would tell of the devices and advertise
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=is_helper()) as progress:
        bar = EpochProgress(progress, epochs, len(batches), said)
        carry(learner, batches, epochs=epochs, callbacks=[bar], fingerprint=fingerprint, gradient_clip_val=5.0)


def one_cycle(learner: lightning.LightningModule, parameters: Iterable[Any], rate: float, weight_decay: float) -> dict[str, Any]:
    """AdamW under a one-cycle learning rate (Smith and Topin 2018) of the peak `rate`."""
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=weight_decay)
    steps = int(learner.trainer.estimated_stepping_batches)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle(optimizer, [rate], max(2, steps), 0.2), "interval": "step"}}


def cycle(optimizer: torch.optim.Optimizer, rates: list[float], steps: int, rise: float) -> torch.optim.lr_scheduler.OneCycleLR:
    """One cycle of `steps` up to `rates`, one for each group of the optimizer; they rise for the share `rise` of it."""
    if rise * steps == 1:  # torch divides by the length of the rise less one
        steps += 1
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates if len(rates) > 1 else rates[0], total_steps=steps, pct_start=rise)


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
