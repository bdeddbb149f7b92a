"""A killed run resumes and ends with exactly the weights of an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from marina.core import paths, spec
from tests.support.interrupted_training import SIDE, run
from training.runs.run import Run, open_run
from training.vision.classification.learner import Learner, Shuffled, fit
from training.vision.classification.networks import Stage
from training.vision.classification.settings import ClassifierSettings


class Cut(Exception):
    """In the place of a kill."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums have one order only where one thread adds up; the fixture of all tests sets the old number
    back.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares, some left and some right, with boxes and outlines; beside them the same in a folder per
    class.
    """
    root = tmp_path_factory.mktemp("squares")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "left"}, {"id": 2, "name": "right"}],
    }
    for k in range(24):
        values = rng.integers(0, 90, (SIDE, SIDE, 3), np.uint8)
        left, top = 34 * (k % 2) + int(rng.integers(4)), int(rng.integers(30))
        values[top : top + 26, left : left + 26] += 150
        name = ("left", "right")[k % 2]
        for file in (root / "images" / f"{k}.png", root / "classes" / name / f"{k}.png"):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(file)
        content["images"].append({"id": k, "file_name": f"{k}.png"})
        outline = [left, top, left + 26, top, left + 26, top + 26, left, top + 26]
        content["annotations"].append(
            {
                "id": k,
                "image_id": k,
                "category_id": 1 + k % 2,
                "bbox": [left, top, 26, 26],
                "segmentation": [outline],
            }
        )
    (root / "instances.json").write_text(json.dumps(content))
    return root


KILLED = """
import functools, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.support import interrupted_training as test
recipe, folder, scratch, at = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
learner = test.LEARNERS[recipe]
inner, taken = learner.training_step, []
@functools.wraps(inner)
def step(*arguments):
    taken.append(1)
    if len(taken) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*arguments)
learner.training_step = step
test.run(recipe, folder, scratch / "kept", scratch / "report")
"""


@pytest.mark.parametrize(
    "recipe",
    [
        "classifier",
        pytest.param("detector", marks=pytest.mark.slow),
        pytest.param("segmenter", marks=pytest.mark.slow),
    ],
)
def test_after_sigkill_within_an_epoch_the_weights_are_the_same(
    recipe: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a kill in the middle of an epoch the weights are those of an uninterrupted run."""
    (tmp_path / "kept").mkdir()
    killed = [sys.executable, "-W", "ignore", "-c", KILLED, recipe, str(folder), str(tmp_path), "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        killed, check=False, cwd=paths.SOURCE, env=environment, capture_output=True, timeout=600
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "kept" / "training.ckpt").is_file()

    resumed = run(recipe, folder, tmp_path / "kept", tmp_path / "report")
    assert "resuming at epoch 2, step 1 of 4" in capsys.readouterr().err
    whole = run(recipe, folder, None, tmp_path / "report")

    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def learner(settings: ClassifierSettings, cut: int = 0) -> Learner:
    """Of a small network with dropout, whose first layer is a stage, and which is cut off before step
    `cut`, counted from 1.
    """
    torch.manual_seed(5)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.drop, self.head = nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.head(self.drop(self.body(rows).relu()))

    model = Net()
    taken = iter(range(1, 1000))

    class CutOff(Learner):
        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            if next(taken) == cut:
                raise Cut
            return super().training_step(batch, _)

    return CutOff(
        model, [Stage([model.body], list(model.body.parameters()))] if settings.freeze else [], settings
    )


def rows(seed: int, count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 6, generator=generator), torch.arange(count) % 3)


@pytest.mark.parametrize("cut", [2, 6, 10])
@pytest.mark.parametrize(
    "more",
    [
        {"schedule": "plateau", "class_balance": "sampling"},
        {"freeze": True, "weights": "some", "unfreeze_every": 1},
        {"schedule": "cosine", "patience": 1, "ema_decay": 0.0},
        {"batch_size": 64},
    ],
    ids=lambda more: next(iter(more)),
)
def test_wherever_it_is_cut_off_nothing_is_lost(tmp_path: Path, more: dict[str, Any], cut: int) -> None:
    settings = ClassifierSettings(**{"epochs": 12 if "batch_size" in more else 3, "batch_size": 5, **more})
    train, validation = rows(0, 25), rows(1, 9)
    whole = learner(settings)
    fit(whole, train, validation, Run(tmp_path / "whole"))
    run = Run(tmp_path, checkpoints=tmp_path, checkpoint_seconds=0)
    cut_off = learner(settings, cut)
    with pytest.raises(Cut):
        fit(cut_off, train, validation, run, fingerprint="f")
    torch.rand(3)  # the numbers of another process
    resumed = learner(settings)
    fit(resumed, train, validation, run, fingerprint="f")

    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert all(torch.equal(value, whole.best_state[name]) for name, value in resumed.best_state.items())


@pytest.mark.parametrize("spoilt", ["other data", "half a file"])
def test_a_checkpoint_that_does_not_fit_is_told_and_left(
    tmp_path: Path, spoilt: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ClassifierSettings(epochs=2, batch_size=5)
    run = Run(tmp_path, checkpoints=tmp_path, checkpoint_seconds=0)
    fit(learner(settings), rows(0, 25), rows(1, 9), run, fingerprint="f")
    if spoilt == "half a file":
        file = tmp_path / "training.ckpt"
        file.write_bytes(file.read_bytes()[:500])
    again = learner(settings)
    fit(again, rows(0, 25), rows(1, 9), run, fingerprint="f" if spoilt == "half a file" else "g")

    assert len(again.history) == 2
    assert ("can't be read" if spoilt == "half a file" else "the data has changed") in caplog.text


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.trainer.trainer.Trainer.save_checkpoint", full)
    made = learner(ClassifierSettings(epochs=2, batch_size=5))
    run = Run(tmp_path, checkpoints=tmp_path, checkpoint_seconds=0)
    fit(made, rows(0, 25), rows(1, 9), run, fingerprint="f")

    assert len(made.history) == 2
    assert "No space left on device" in caplog.text


REPORT = Path("report")  # nothing is written there


def one_spec(home: Path, more: str = "") -> spec.Spec:
    (home / "models" / "toy.yaml").write_text(
        f"# A toy.\nkind: classifier\ntraining: {{recipe: classifier{more}}}\nfloor: {{accuracy: 0}}\n"
    )
    return spec.load("toy")


def failed(one: spec.Spec, settings: dict[str, Any]) -> Path:
    """The folder of a run that raised."""
    with suppress(Cut), open_run(one, settings, REPORT) as run:
        assert run.checkpoints is not None
        (run.checkpoints / "training.ckpt").write_text("state")
        raise Cut
    folder: Path | None = run.checkpoints
    assert folder is not None
    return folder


def test_finished_run_leaves_no_checkpoint_and_a_failed_one_does(home: Path) -> None:
    """A run that ends well leaves nothing; one that fails leaves its checkpoint for the next."""
    one = one_spec(home)

    first = failed(one, {"epochs": 3})
    with open_run(one, {"epochs": 4}, REPORT) as other:
        assert other.checkpoints != first
    with open_run(one, {"epochs": 3}, REPORT) as again:
        assert again.checkpoints == first
        assert (first / "training.ckpt").read_text() == "state"

    assert not list((home / "cache" / "runs").iterdir())


def test_fresh_begins_anew(home: Path) -> None:
    one = one_spec(home)
    first = failed(one, {})

    with open_run(one, {}, REPORT, fresh=True):
        assert not (first / "training.ckpt").exists()


def test_two_at_once_do_not_share_a_checkpoint(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = one_spec(home)

    with open_run(one, {}, REPORT) as first, open_run(one, {}, REPORT) as second:
        assert (first.checkpoints is None, second.checkpoints is None) == (False, True)

    assert "is being trained with the same settings already" in caplog.text


def test_a_step_without_a_checkpoint_draws_the_same_rows() -> None:
    data = rows(0, 25)
    torch.manual_seed(1)
    plain = Shuffled(data, 5)
    drawn = [[part.clone() for part in batch] for batch in (*plain, *plain)]
    torch.manual_seed(1)
    first = Shuffled(data, 5)
    taken = iter(first)
    seen = [next(taken) for _ in range(3)]
    second = Shuffled(data, 5)
    second.load_state_dict(first.state_dict())  # of the third batch, before it was made
    torch.manual_seed(99)
    rest = [*second, *second]

    assert len(rest) == 8
    for expected, found in zip(drawn, [*seen[:2], *rest], strict=True):
        assert torch.equal(expected[0], found[0])
