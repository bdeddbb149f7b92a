"""The weights of the best epochs beside the exported one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from training.runs.batches import Batches
from training.runs.fitting import FitModule, fit
from training.runs.run import Run
from training.runs.schedules import FitSettings

SCORES = [1.0, 5.0, 3.0, 5.0, 4.0, 0.0]  # by epoch


class Ones(Batches[torch.Tensor]):
    def __len__(self) -> int:
        return 2

    def order(self) -> list[list[int]]:
        return [[0], [1]]

    def batch(self, rows: Any) -> torch.Tensor:
        return torch.ones(1, 1)


class Scored(FitModule):
    """Its weight changes in every step; `stop` raises at the end of that epoch."""

    stop = 0

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.model(batch).mean()  # type: ignore[no-any-return]

    def evaluate(self) -> dict[str, float]:
        number = len(self.history) + 1
        if number == self.stop:
            raise KeyboardInterrupt
        weight = float(self.average.weight.detach())  # type: ignore[operator]
        return {"score": SCORES[number - 1], "weight": weight}

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        return (row["score"],)

    def summary(self, row: dict[str, float]) -> str:
        return ""


def learner(**more: Any) -> Scored:
    torch.manual_seed(0)
    settings = {"epochs": 6, "schedule": "constant", "learning_rate": 0.1, "save_top_k": 3, **more}
    return Scored(nn.Linear(1, 1), FitSettings(**settings))


def kept(report: Path) -> list[dict[str, Any]]:
    """The index, after a look whether each file has the weights of its epoch and no other is there."""
    rows = json.loads((report / "checkpoints" / "epochs.json").read_text())
    names = {row["file"] for row in rows} | {"epochs.json"}
    assert {path.name for path in (report / "checkpoints").iterdir()} == names
    for row in rows:
        weights = load_file(report / "checkpoints" / row["file"])
        assert float(weights["weight"]) == pytest.approx(row["weight"])
    return rows  # type: ignore[no-any-return]


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_best_epochs_are_kept_best_first(tmp_path: Path, ema_decay: float) -> None:
    fit(learner(ema_decay=ema_decay), Ones(), Run(tmp_path))

    assert [row["epoch"] for row in kept(tmp_path)] == [2, 4, 5]


def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    fit(learner(save_top_k=1), Ones(), Run(tmp_path))

    assert not (tmp_path / "checkpoints").exists()


def test_a_resumed_run_keeps_those_of_before(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run"
    checkpoints.mkdir()
    stopped = learner()
    stopped.stop = 4
    run = Run(tmp_path / "first", checkpoints=checkpoints, checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, Ones(), run, fingerprint="same")
    (checkpoints / "epoch-0006.safetensors").write_bytes(b"of a later epoch, which is repeated")

    fit(learner(), Ones(), Run(tmp_path / "second", checkpoints=checkpoints), fingerprint="same")

    assert [row["epoch"] for row in kept(tmp_path / "second")] == [2, 4, 5]
    assert not (checkpoints / "epoch-0006.safetensors").exists()


def test_a_folder_that_can_not_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file")

    with caplog.at_level("WARNING"):
        one = learner()
        fit(one, Ones(), Run(tmp_path / "report", checkpoints=tmp_path / "run"))

    assert len(one.history) == 6
    assert len([text for text in caplog.messages if "were not kept" in text]) == 1
