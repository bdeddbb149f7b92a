"""Where a training stands, kept while it goes on, so that after a kill it ends with the weights that it would have had.

A checkpoint is Lightning's own (weights, optimiser, schedule, counters), with what the learner remembers beside its weights
(`Remembering`) and the place of its batches (`batches`). It is written before a step, so that the first one of an epoch stands
for the end of the one before, with all of its measuring done.
"""

import logging
import pickle
import time
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint

from marina.console import err
from training.running.batches import Batches
from training.running.run import Run

log = logging.getLogger("marina")


class Remembering(lightning.LightningModule):
    """A learner whose attributes named in `remembered` go into its checkpoints: numbers, texts, tensors, and lists and dicts of them."""

    remembered: ClassVar[tuple[str, ...]] = ()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is remembered."""
        checkpoint["remembered"] = {name: getattr(self, name) for name in self.remembered}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        for name, value in checkpoint["remembered"].items():
            setattr(self, name, value)


class Keeper(Checkpoint):
    """Writes a checkpoint into the run's folder at the first step after so many seconds; with several processes at an epoch's first.

    `fingerprint` is the data's: a checkpoint of other data is not taken up.
    """

    def __init__(self, run: Run, fingerprint: str, batches: Batches[Any]) -> None:
        assert run.folder is not None
        self.run, self.fingerprint, self.batches = run, fingerprint, batches
        self.path: Path = run.folder / "training.ckpt"
        self.written = time.monotonic()

    def found(self) -> Path | None:
        """The checkpoint that the last run left, said aloud; None where there is none that fits."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            said = state["run"]
            if said["fingerprint"] != self.fingerprint:
                log.warning("the data has changed since the training that was cut off; it starts anew")
                return None
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            log.warning("%s can't be read (%s); the training starts anew", self.path, error)
            return None
        where = f"epoch {said['epoch'] + 1}, step {said['step']} of {said['steps']}"
        err.print(f"resuming at {where} (--fresh starts anew)", markup=False, highlight=False)
        return self.path

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int) -> None:
        """Write, if it is time."""
        due = time.monotonic() - self.written >= self.run.seconds_between
        if self.run.processes > 1:
            due = batch_idx == 0 and trainer.global_step > 0 and trainer.strategy.broadcast(due)  # type: ignore[assignment]
        if not due or not trainer.global_step:
            return
        self.step = batch_idx
        arriving = self.path.with_suffix(".arriving")
        try:
            trainer.save_checkpoint(arriving)
            if trainer.is_global_zero:
                arriving.replace(self.path)
        except OSError as error:
            log.warning("the state of the training was not kept in %s: %s", self.path.parent, error)
        self.written = time.monotonic()

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say what it is of; and that the step which was handed out before it was written is not the epoch's last one done."""
        said = {"epoch": trainer.current_epoch, "step": self.step, "steps": trainer.num_training_batches}
        checkpoint["run"] = {**said, "fingerprint": self.fingerprint, "place": self.batches.place()}
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Bring the batches to their place; Lightning's own way of it comes too late where a schedule has asked for their number."""
        self.batches.go_on(checkpoint["run"]["place"])
