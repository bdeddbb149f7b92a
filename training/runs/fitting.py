"""One fit for all networks that learn by gradients from labeled examples.

`FitModule` holds the network, its moving average, the optimizer under the schedule of the settings, the
history and the best epoch; a recipe adds its loss and how an epoch is measured. `fit` trains one on one or
several devices, with one progress bar, and resumes an interrupted run.
"""

import copy
import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from marina.core.errors import CallError
from training.runs.batches import Batches
from training.runs.checkpoints import CheckpointCallback, StatefulModule
from training.runs.learning_rates import STEPS, find_learning_rate
from training.runs.logs import HistoryLogger
from training.runs.optimizers import make_optimizer
from training.runs.processes import learning_processes
from training.runs.recomputation import recomputed_activations
from training.runs.run import FitEnded, Run
from training.runs.schedules import FitSettings, plateau, step_schedule
from training.runs.top_epochs import TopEpochs

COLUMNS = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
UNFOUNDED = (  # warnings of Lightning
    ".*LeafSpec",  # Lightning 2.6 under torch 2.14
    ".*does not have many workers",  # the pictures are in memory already
    ".*your dataloader is not resumable",  # it is, by `CheckpointCallback`
    ".*in eval mode at the start",  # frozen statistics, and averages, are meant
)


class FitModule(StatefulModule):
    """A network that learns: an optimizer, by default AdamW (Loshchilov and Hutter 2019), a moving average of
    the weights (Polyak and Juditsky 1992), the best epoch.

    The average is what is measured and exported, since it doesn't jump from epoch to epoch; without
    `ema_decay` it is the network itself. A subclass says `training_step`, how an epoch is measured, which
    rows of the history are better, and may say `parameter_groups`.
    """

    remembered: ClassVar[tuple[str, ...]] = (
        "history",
        "losses",
        "best_epoch",
        "best_state",
        "plateau",
        "found_rate",
    )
    fused: ClassVar[bool] = False  # torch's fused AdamW
    extra_steps: ClassVar[int] = 0  # of one_cycle, beyond those that are taken

    def __init__(self, model: nn.Module, settings: FitSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.average = copy.deepcopy(model).eval().requires_grad_(False) if settings.ema_decay else model
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []  # of the epoch's steps, for `evaluate`
        self.best_epoch = 0  # counted from 1
        self.best_state: dict[str, torch.Tensor] = {}  # of the average
        # state of that schedule, which Lightning would not step in an epoch that is resumed
        self.plateau: dict[str, Any] = {}
        # (mean, weight); empty without an average, and in a range test of learning rates
        self._averaged: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._copied: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.found_rate = 0.0  # by the range test of learning rates; 0: there was none

    def evaluate(self) -> dict[str, float] | None:
        """Measure the average after an epoch: a row of the history. The first process does it for all.

        None where Lightning's validation loop has ended the epoch already.
        """
        return None

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """What the best epoch has most of."""
        raise NotImplementedError

    def objective(self, row: dict[str, float]) -> float:
        """The one number that a search of settings makes as large as it can: what `merit` begins with."""
        return next((value for value in self.merit(row) if value), 0.0)

    def plateau_loss(self, row: dict[str, float]) -> float:
        """What the schedule plateau watches: less is better."""
        raise NotImplementedError

    def summary(self, row: dict[str, float]) -> str:
        """A row of the history in a few words, for the progress bar."""
        raise NotImplementedError

    def training_facts(self, run: Run) -> dict[str, Any]:
        """What the export's metadata says of this training."""
        return {
            **self.rate_facts(),
            "epochs": self.settings.epochs,
            "best_epoch": self.best_epoch,
            "seconds": round(time.monotonic() - run.started, 1),
            "cpu_seconds": round(time.process_time() - run.computed, 1),
            "validation": self.history[self.best_epoch - 1],
        }

    def rate_facts(self) -> dict[str, float]:
        """The learning rate that a range test found, where there was one."""
        return {"learning_rate": self.found_rate} if self.found_rate else {}

    def best_model(self) -> Any:
        """The average of the best epoch, on the CPU and in eval mode."""
        model = self.average.cpu().eval()
        model.load_state_dict(self.best_state)
        return model

    def parameter_groups(self) -> dict[float, list[nn.Parameter]]:
        """Learning rate -> what learns at it."""
        return {self.settings.learning_rate: [each for each in self.model.parameters() if each.requires_grad]}

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the settings over these groups of parameters."""
        settings = self.settings
        return make_optimizer(
            settings.optimizer, groups, self.model, settings.weight_decay, settings.momentum, self.fused
        )

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedule of the settings."""
        groups = self.parameter_groups()
        optimizer = self.make_optimizer([{"params": weights, "lr": rate} for rate, weights in groups.items()])
        if self.settings.schedule == "plateau":
            self._plateau = plateau(optimizer, self.plateau)
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        steps += self.extra_steps if self.settings.schedule == "one_cycle" else 0
        schedule = step_schedule(self.settings, optimizer, list(groups), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Pair the weights with their means; done here, since buffers are other objects after a move to
        another device.
        """
        if self.average is self.model:
            return
        pairs = list(zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Move the means a little towards the weights; more at first, when they have seen little."""
        if not self._averaged or not self._has_stepped(*arguments):
            return
        share = max(1 - self.settings.ema_decay, 9 / (10 + self.global_step))
        with torch.no_grad():
            torch._foreach_lerp_(
                [mean for mean, _ in self._averaged], [now for _, now in self._averaged], share
            )
            for mean, now in self._copied:
                mean.copy_(now)

    def _has_stepped(self, outputs: Any = None, batch: Any = None, batch_idx: int = 0) -> bool:
        """Whether this batch ended a step: of several that make one only the last one does."""
        several = self.settings.accumulated_batches
        return (batch_idx + 1) % several == 0 or batch_idx + 1 == self.trainer.num_training_batches

    def end_epoch(self, row: dict[str, float]) -> None:
        """Put the epoch into the history, keep it if it is the best, and stop if none was for long."""
        self.history.append(row)
        self.losses.clear()
        if self.settings.schedule == "plateau":
            self._plateau.step(self.plateau_loss(row))
            self.plateau = self._plateau.state_dict()
        if not self.best_epoch or self.merit(row) > self.merit(self.history[self.best_epoch - 1]):
            self.best_epoch, self.best_state = len(self.history), copy.deepcopy(self.average.state_dict())
        if self.settings.patience and len(self.history) - self.best_epoch >= self.settings.patience:
            self.trainer.should_stop = True


class EpochCallback(Callback):
    """Ends each epoch of a `FitModule`, and shows it: the epoch, its loss, its measurements."""

    def __init__(self, progress: Progress, epochs: int, steps: int, run: Run) -> None:
        self.progress, self.epochs, self.steps = progress, epochs, steps
        self.after_epoch = run.after_epoch
        self.task = progress.add_task("epoch 1", total=epochs * steps)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch more."""
        done = trainer.current_epoch * self.steps + batch_idx + 1
        self.progress.update(self.task, completed=done)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, unless the validation loop did."""
        row = pl_module.evaluate() if trainer.is_global_zero else None
        if trainer.world_size > 1:
            row = trainer.strategy.broadcast(row)
        if row is not None:
            pl_module.end_epoch(row)
        number, last = len(pl_module.history), pl_module.history[-1]
        text = f"epoch {number} of {self.epochs}: {pl_module.summary(last)}"
        self.progress.update(self.task, description=text)
        if self.after_epoch:
            self.after_epoch(pl_module)


def fit(
    learner: FitModule,
    batches: Batches[Any],
    run: Run,
    validation: Any = None,
    *,
    fingerprint: str | None = None,
    frozen: bool = False,
    **options: Any,
) -> None:
    """Train `learner` on `batches` for the epochs of its settings; `options` are those of Lightning's
    Trainer.

    Where the run keeps checkpoints and the data has a `fingerprint`, an interrupted run is resumed. `frozen`
    says that not everything learns all the time. Helper processes end here. Raises CallError for batches that
    can't be split evenly over the processes.
    """
    settings = learner.settings
    _check_batch_size(settings.batch_size, run.processes)
    checkpoint = CheckpointCallback(run, fingerprint, batches) if run.checkpoints and fingerprint else None
    progress = run.progress(*COLUMNS)
    shown = EpochCallback(progress, settings.epochs, len(batches), run)
    with ExitStack() as stack:
        for context in (learning_processes(run), progress, _without_hints()):
            stack.enter_context(context)
        trainer = _make_trainer(
            run,
            max_epochs=settings.epochs,
            strategy=DDPStrategy(find_unused_parameters=frozen) if run.processes > 1 else "auto",
            callbacks=[shown, *_loggers(run, settings), *([checkpoint] if checkpoint else [])],
            enable_checkpointing=checkpoint is not None,
            gradient_clip_val=settings.max_grad_norm or None,
            accumulate_grad_batches=settings.accumulated_batches,
            **options,
        )
        if settings.activation_checkpointing:
            stack.enter_context(recomputed_activations(learner.model))
        resumed = checkpoint.found() if checkpoint else None
        if settings.find_learning_rate and not resumed:
            _find_learning_rate(learner, batches, run)
        fit_until_stopped(trainer, learner, batches, validation, ckpt_path=resumed, weights_only=True)
    if run.after_epoch:
        raise FitEnded
    if run.is_helper:
        sys.exit(0)


def _loggers(run: Run, settings: FitSettings) -> list[Callback]:
    """What writes the history, and the best epochs where several are asked for and an export follows."""
    keeps_several = settings.save_top_k > 1 and not run.after_epoch
    return [HistoryLogger(run), *([TopEpochs(run, settings.save_top_k)] if keeps_several else [])]


@contextmanager
def _without_hints() -> Iterator[None]:
    """Without Lightning's, which would tear the progress bar."""
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for message in UNFOUNDED:
            warnings.filterwarnings("ignore", message=message)
        yield


def _find_learning_rate(learner: FitModule, batches: Batches[Any], run: Run) -> None:
    """Put the rate that a range test finds into the learner's settings; one that finds none is a finding.

    Raises CallError for several processes.
    """
    if run.processes > 1:
        raise CallError("find_learning_rate tests on one device; leave --devices and --nodes out")
    trainer = _make_trainer(run, enable_checkpointing=False, max_epochs=1 + STEPS // len(batches))
    rate = find_learning_rate(learner, batches, trainer, run.report)
    if rate is None:
        written = f"kept at {learner.settings.learning_rate:g}: at none of the tested rates did the loss fall"
        run.findings.add("the learning rate is", written, ["report/learning_rate.png"])
        return
    learner.settings = learner.settings.model_copy(update={"learning_rate": rate})
    learner.found_rate = rate


def _check_batch_size(batch_size: int, processes: int) -> None:
    if batch_size % processes:
        raise CallError(
            f"batch_size {batch_size} has no equal parts for {processes} processes; "
            f"take a multiple of {processes}"
        )


def _make_trainer(run: Run, **options: Any) -> lightning.Trainer:
    """A Trainer on the devices of `run` that neither prints nor logs."""
    return lightning.Trainer(
        accelerator="auto",
        devices=run.devices,
        num_nodes=run.nodes,
        sync_batchnorm=run.processes > 1 and torch.cuda.is_available(),  # torch has it for GPUs alone
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def fit_until_stopped(trainer: lightning.Trainer, *arguments: Any, **options: Any) -> None:
    """`trainer.fit`, which a signal ends like any other work.

    Lightning's own handler of SIGTERM waits for the other processes, which may have ended; it turns Ctrl-C
    into an exit of the program, and ignores any other from then on.
    """
    is_main, handler = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGINT)
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    try:
        trainer.fit(*arguments, **options)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise ended.__context__ from None
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)
