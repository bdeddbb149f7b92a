"""The weights of the best epochs, as safetensors in report/checkpoints/, to compare or to average them.

While it learns they lie beside the checkpoint of the run, so that an interrupted run keeps them.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file

from marina.core.files import atomic_path
from training.runs.run import Run

FOLDER, INDEX = "checkpoints", "epochs.json"
log = logging.getLogger("marina")


class TopEpochs(Callback):
    """Keeps the weights of the `count` best epochs of a `FitModule`: of its average, where it has one."""

    def __init__(self, run: Run, count: int) -> None:
        self.count, self.report = count, run.report / FOLDER
        self.folder = run.checkpoints or self.report
        self.is_failing = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Remove what epochs left that are repeated now."""
        if trainer.is_global_zero:
            for path in self.folder.glob("epoch-*.safetensors"):
                if _number(path) > len(pl_module.history):
                    path.unlink()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the epoch's weights if it is one of the best, and remove those of one that is no more."""
        if not trainer.is_global_zero:
            return
        best = self._best(pl_module)
        last = len(pl_module.history)
        try:
            if last in best:
                weights = {
                    name: value.cpu().clone() for name, value in pl_module.average.state_dict().items()
                }
                self.folder.mkdir(parents=True, exist_ok=True)
                with atomic_path(self._file(last)) as part:
                    save_file(weights, part, {"format": "pt", "epoch": str(last)})
            for path in self.folder.glob("epoch-*.safetensors"):
                if _number(path) not in best:
                    path.unlink()
        except OSError as error:
            if not self.is_failing:
                log.warning("the weights of epoch %d were not kept in %s: %s", last, self.folder, error)
            self.is_failing = True

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Put them into the report, best first."""
        if not trainer.is_global_zero:
            return
        self.report.mkdir(parents=True, exist_ok=True)
        rows = []
        for epoch in self._best(pl_module):
            file = self._file(epoch)
            if file.is_file():
                if self.folder != self.report:
                    shutil.copyfile(file, self.report / file.name)
                rows.append({"epoch": epoch, "file": file.name, **pl_module.history[epoch - 1]})
        (self.report / INDEX).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    def _best(self, pl_module: Any) -> list[int]:
        """The numbers of the best epochs, the best first; of equal ones the earlier."""
        merits = [(pl_module.merit(row), -number) for number, row in enumerate(pl_module.history, 1)]
        return [-number for _, number in sorted(merits, reverse=True)[: self.count]]

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04}.safetensors"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("epoch-"))
