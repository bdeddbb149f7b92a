"""Checkpoints of a fit: a run that is resumed ends with the weights of one that was never interrupted.

A checkpoint is Lightning's own (weights, optimizer, schedule, counters), with what the learner remembers
beside its weights (`StatefulModule`) and the position of its batches (`batches`). It is written before a
step, so that the first one of an epoch stands for the end of the epoch before, evaluation included.
"""

import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint

from marina.core.console import err
from marina.core.files import atomic_path
from training.runs.batches import Batches
from training.runs.run import Run

log = logging.getLogger("marina")


class StatefulModule(lightning.LightningModule):
    """A learner whose attributes named in `remembered` go into its checkpoints: numbers, texts, tensors,
    and lists and dicts of them.
    """

    remembered: ClassVar[tuple[str, ...]] = ()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is remembered."""
        checkpoint["remembered"] = {name: getattr(self, name) for name in self.remembered}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        for name, value in checkpoint["remembered"].items():
            setattr(self, name, value)


class CheckpointCallback(Checkpoint):
    """Writes a checkpoint into the run's folder at the first step after `run.checkpoint_seconds`; with
    several processes at the first step of an epoch.

    `fingerprint` is the data's: a checkpoint of other data is not resumed.
    """

    def __init__(self, run: Run, fingerprint: str, batches: Batches[Any]) -> None:
        assert run.checkpoints is not None
        self.run, self.fingerprint, self.batches = run, fingerprint, batches
        self.path: Path = run.checkpoints / "training.ckpt"
        self.written = time.monotonic()

    def found(self) -> Path | None:
        """The checkpoint that an interrupted run left, with a line on the console; None if none fits."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            saved = state["run"]
            if saved["fingerprint"] != self.fingerprint:
                log.warning("the data has changed since the interrupted run; training starts again")
                return None
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises whatever its reader stumbles over
            log.warning("%s can't be read (%s); training starts again", self.path, error)
            return None
        where = f"epoch {saved['epoch'] + 1}, step {saved['step']} of {saved['steps']}"
        err.print(f"resuming at {where} (--fresh starts again)", markup=False, highlight=False)
        return self.path

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write, if it is time."""
        due = time.monotonic() - self.written >= self.run.checkpoint_seconds
        if self.run.processes > 1:
            due = batch_idx == 0 and trainer.global_step > 0 and bool(trainer.strategy.broadcast(due))
        # gradients of a step that is not whole are in no checkpoint
        is_within_step = batch_idx % trainer.accumulate_grad_batches > 0
        if not due or not trainer.global_step or is_within_step:
            return
        self.step = batch_idx
        try:
            # every rank calls it, and only the first one writes
            with atomic_path(self.path) if trainer.is_global_zero else nullcontext(self.path) as part:
                trainer.save_checkpoint(part)
        except OSError as error:
            log.warning("no checkpoint was written to %s: %s", self.path.parent, error)
        self.written = time.monotonic()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the position; the step that was handed out is not done, so it isn't the epoch's last one."""
        position = {"epoch": trainer.current_epoch, "step": self.step, "steps": trainer.num_training_batches}
        checkpoint["run"] = {
            **position,
            "fingerprint": self.fingerprint,
            "batches": self.batches.state_dict(),
        }
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the batches to their position; Lightning does so too late where a schedule has asked for their
        number.
        """
        self.batches.load_state_dict(checkpoint["run"]["batches"])
