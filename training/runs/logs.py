"""A learner's history while it grows: report/history.json, the project's trackers, and for TensorBoard in
report/tensorboard/ where that is installed.
"""

import json
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from training.runs.run import Run


class HistoryLogger(Callback):
    """Writes every row of `learner.history` once; a resumed training writes the earlier rows too."""

    def __init__(self, run: Run) -> None:
        self.report, self.log_metrics, self.written = run.report, run.log_metrics, 0
        self.report.mkdir(parents=True, exist_ok=True)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # it comes with the extra `tensorboard`
            self.board: Any = None
        else:
            writer: Any = SummaryWriter
            self.board = None if run.is_helper else writer(run.report / "tensorboard")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write what is new."""
        history: Any = getattr(pl_module, "history", [])
        if not trainer.is_global_zero:
            return
        (self.report / "history.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
        for epoch, row in enumerate(history[self.written :], start=self.written + 1):
            self.log_metrics(row, epoch)
            for name, value in row.items() if self.board else ():
                split, _, measure = name.rpartition("_")
                self.board.add_scalar(
                    f"{measure}/{split}" if split in ("train", "validation") else name, value, epoch
                )
        self.written = len(history)
        if self.board:
            self.board.flush()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the file."""
        if self.board:
            self.board.close()
