"""What all picture recipes share: moving average, schedules, early stopping, names of settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from marina.core.errors import CallError
from marina.core.spec import validate
from training.recipes import classifier, detector, imported_detector, segmenter, video_classifier
from training.runs import batches
from training.runs.fitting import FitModule, fit
from training.runs.run import Run
from training.runs.schedules import FitSettings


class Averaged(FitModule):
    global_step = 0


def test_an_average_follows_the_weights_faster_at_first() -> None:
    module = nn.BatchNorm1d(1)
    learner = Averaged(module, FitSettings(ema_decay=0.9))
    nn.init.constant_(module.weight, 3.0)
    module.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    learner.on_fit_start()
    learner.on_train_batch_end()
    first = learner.average.weight.item()
    learner.global_step = 1000
    learner.on_train_batch_end()

    assert first == pytest.approx(1 + 0.9 * 2)
    assert learner.average.weight.item() == pytest.approx(first + 0.1 * (3 - first))
    assert int(learner.average.num_batches_tracked) == 7


def test_without_an_average_the_network_itself_is_kept() -> None:
    learner = FitModule(nn.Linear(1, 1), FitSettings())

    assert learner.average is learner.model


class Line(batches.Batches[torch.Tensor]):
    def __len__(self) -> int:
        return 4

    def order(self) -> list[list[int]]:
        return [[step] for step in range(4)]

    def batch(self, rows: Any) -> torch.Tensor:
        return torch.tensor([[float(rows[0])]])


class Worse(FitModule):
    """Every epoch is worse than the one before."""

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        loss = self.model(batch).square().mean()
        self.losses.append(float(loss.detach()))
        return loss  # type: ignore[no-any-return]

    def evaluate(self) -> dict[str, float]:
        assert len(self.losses) == 4
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        return {"loss": 1.0, "score": -len(self.history), "rate": rate}

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        return (row["score"],)

    def plateau_loss(self, row: dict[str, float]) -> float:
        return -row["score"]

    def summary(self, row: dict[str, float]) -> str:
        return f"score {row['score']}"


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "constant", "plateau"])
def test_it_stops_when_no_epoch_was_better_for_long(schedule: Any, tmp_path: Path) -> None:
    settings = FitSettings(epochs=30, patience=4, schedule=schedule, learning_rate=0.1)
    learner = Worse(nn.Linear(1, 1), settings)

    fit(learner, Line(), Run(tmp_path))

    assert (len(learner.history), learner.best_epoch) == (5, 1)
    assert learner.best_state.keys() == {"weight", "bias"}
    rates = [row["rate"] for row in learner.history]
    if schedule == "plateau":
        assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1 / 3])
    if schedule == "constant":
        assert rates == [0.1] * 5


def test_batches_without_equal_parts_are_refused(tmp_path: Path) -> None:
    learner = Worse(nn.Linear(1, 1), FitSettings(batch_size=5))

    with pytest.raises(CallError, match="batch_size 5 has no equal parts for 2 processes"):
        fit(learner, Line(), Run(tmp_path, devices=2))


OLD = [
    (classifier, "mirror", "horizontal_flip"),
    (classifier, "spectrum_noise", "fourier_noise"),
    (classifier, "balance", "class_balance"),
    (classifier, "fit", "resize"),
    (classifier, "average_decay", "ema_decay"),
    (classifier, "mix", "mixup, cutmix"),
    (classifier, "average_mirrored", "flip_tta"),
    (classifier, "decision", "operating_point"),
    (classifier, "views", "cached_views"),
    (classifier, "warm_up", "warmup"),
    (video_classifier, "mirror", "horizontal_flip"),
    (video_classifier, "fit", "resize"),
    (detector, "averaging", "ema_decay"),
    (detector, "flip", "horizontal_flip"),
    (segmenter, "fit", "resize"),
    (segmenter, "averaging", "ema_decay"),
    (imported_detector, "fit", "resize"),
]


@pytest.mark.parametrize(("recipe", "old", "new"), OLD, ids=lambda part: str(getattr(part, "__name__", part)))
def test_an_old_setting_is_refused_with_its_new_name(recipe: Any, old: str, new: str) -> None:
    with pytest.raises(CallError, match=f"training: '{old}' is now called '{new}'"):
        validate(recipe.Settings, {old: 1}, "models/own.yaml: training")


@pytest.mark.parametrize("recipe", [classifier, video_classifier, detector, segmenter])
def test_all_take_the_same_schedule(recipe: Any) -> None:
    more = {} if "video" in recipe.__name__ or recipe is classifier else {"data": "scenes"}
    settings = recipe.Settings(**more, schedule="cosine", warmup=0.1, patience=3, ema_decay=0.9)

    assert isinstance(settings, FitSettings)
    with pytest.raises(ValueError, match="warmup is part of the schedules one_cycle and cosine"):
        recipe.Settings(**more, schedule="step", warmup=0.1)
