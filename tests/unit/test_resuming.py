"""A training that was cut off goes on where it stood, and ends with the very weights that it would have had."""

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

from marina import paths, spec
from training import classifier, detector, segmenter
from training.classification.learner import Learner, Shuffled, fit
from training.classification.networks import Stage
from training.classification.settings import Learning
from training.running.run import Run, begun, current, using

RECIPES = {"classifier": classifier, "detector": detector, "segmenter": segmenter}
SIDE = 64


class Cut(Exception):
    """In the place of a kill."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums have one order only where one thread adds up; the fixture of all tests sets the old number back."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares, some left and some right, with boxes and outlines; beside them the same in a folder per class."""
    root = tmp_path_factory.mktemp("squares")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "left"}, {"id": 2, "name": "right"}]}
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
            {"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": [left, top, 26, 26], "segmentation": [outline]}
        )
    (root / "instances.json").write_text(json.dumps(content))
    return root


def settings_of(recipe: str, folder: Path) -> dict[str, Any]:
    if recipe == "classifier":
        return {"data": str(folder / "classes"), "image_size": 32, "epochs": 3, "batch_size": 4, "schedule": "plateau", "mix": "either"}
    more = {"averaging": 0.5, "augmentation": "ssd" if recipe == "detector" else "light"}
    return {"data": str(folder), "height": SIDE, "width": SIDE, "epochs": 3, "batch_size": 4, "flip": True, **more}


def run(recipe: str, folder: Path, kept: Path | None, report: Path) -> dict[str, torch.Tensor]:
    """The weights after a training that keeps a checkpoint before every step."""
    report.mkdir(exist_ok=True)
    module = RECIPES[recipe]
    with using(Run(kept, seconds_between=0)):
        return module.train(module.Settings(**settings_of(recipe, folder)), 1, report).module.state_dict()


KILLED = """
import functools, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.unit import test_resuming as test
recipe, folder, scratch, at = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
learner = test.RECIPES[recipe].Learner
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
    "recipe", ["classifier", pytest.param("detector", marks=pytest.mark.slow), pytest.param("segmenter", marks=pytest.mark.slow)]
)
def test_after_a_kill_in_the_middle_of_an_epoch_the_weights_are_those_of_an_uninterrupted_run(
    recipe: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").mkdir()
    killed = [sys.executable, "-W", "ignore", "-c", KILLED, recipe, str(folder), str(tmp_path), "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(killed, check=False, cwd=paths.SOURCE, env=environment, capture_output=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "kept" / "training.ckpt").is_file()

    resumed = run(recipe, folder, tmp_path / "kept", tmp_path / "report")
    assert "resuming at epoch 2, step 1 of 4" in capsys.readouterr().err
    whole = run(recipe, folder, None, tmp_path / "report")

    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def learner(settings: Learning, cut: int = 0) -> Learner:
    """Of a small network with dropout, whose first layer is a stage, and which is cut off before step `cut`, counted from 1."""
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

    return CutOff(model, [Stage([model.body], list(model.body.parameters()))] if settings.freeze else [], settings)


def rows(seed: int, count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 6, generator=generator), torch.arange(count) % 3)


@pytest.mark.parametrize("cut", [2, 6, 10])
@pytest.mark.parametrize(
    "more",
    [
        {"schedule": "plateau", "balance": "sampling"},
        {"freeze": True, "weights": "some", "unfreeze_every": 1},
        {"schedule": "cosine", "patience": 1, "average_decay": 0.0},
        {"batch_size": 64},
    ],
    ids=lambda more: next(iter(more)),
)
def test_wherever_it_is_cut_off_nothing_is_lost(tmp_path: Path, more: dict[str, Any], cut: int) -> None:
    settings = Learning(**{"epochs": 12 if "batch_size" in more else 3, "batch_size": 5, **more})
    train, validation = rows(0, 25), rows(1, 9)
    whole = learner(settings)
    fit(whole, train, validation)
    with using(Run(tmp_path, seconds_between=0)):
        cut_off = learner(settings, cut)
        with pytest.raises(Cut):
            fit(cut_off, train, validation, fingerprint="f")
        torch.rand(3)  # the numbers of another process
        resumed = learner(settings)
        fit(resumed, train, validation, fingerprint="f")

    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert all(torch.equal(value, whole.best_state[name]) for name, value in resumed.best_state.items())


@pytest.mark.parametrize("spoilt", ["other data", "half a file"])
def test_a_checkpoint_that_does_not_fit_is_told_and_left(tmp_path: Path, spoilt: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = Learning(epochs=2, batch_size=5)
    with using(Run(tmp_path, seconds_between=0)):
        fit(learner(settings), rows(0, 25), rows(1, 9), fingerprint="f")
        if spoilt == "half a file":
            file = tmp_path / "training.ckpt"
            file.write_bytes(file.read_bytes()[:500])
        again = learner(settings)
        fit(again, rows(0, 25), rows(1, 9), fingerprint="f" if spoilt == "half a file" else "g")

    assert len(again.history) == 2
    assert ("can't be read" if spoilt == "half a file" else "the data has changed") in caplog.text


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.trainer.trainer.Trainer.save_checkpoint", full)
    with using(Run(tmp_path, seconds_between=0)):
        made = learner(Learning(epochs=2, batch_size=5))
        fit(made, rows(0, 25), rows(1, 9), fingerprint="f")

    assert len(made.history) == 2
    assert "No space left on device" in caplog.text


def one_spec(home: Path, more: str = "") -> spec.Spec:
    (home / "models" / "toy.yaml").write_text(
        f"# A toy.\nkind: classifier\ntraining: {{recipe: classifier{more}}}\nfloor: {{accuracy: 0}}\n"
    )
    return spec.load("toy")


def failed(one: spec.Spec, settings: dict[str, Any]) -> Path:
    """The folder of a run that raised."""
    with suppress(Cut), begun(one, settings) as run:
        assert run.folder is not None
        (run.folder / "training.ckpt").write_text("state")
        raise Cut
    return run.folder


def test_a_run_that_ends_well_leaves_nothing_and_one_that_fails_is_there_for_the_next(home: Path) -> None:
    one = one_spec(home)

    first = failed(one, {"epochs": 3})
    with begun(one, {"epochs": 4}) as other:
        assert other.folder != first
    with begun(one, {"epochs": 3}) as again:
        assert current() == again
        assert again.folder == first
        assert (first / "training.ckpt").read_text() == "state"

    assert not list((home / "cache" / "runs").iterdir())
    assert current().folder is None


def test_fresh_begins_anew(home: Path) -> None:
    one = one_spec(home)
    first = failed(one, {})

    with begun(one, {}, fresh=True):
        assert not (first / "training.ckpt").exists()


def test_two_at_once_do_not_share_a_checkpoint(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = one_spec(home)

    with begun(one, {}) as first, begun(one, {}) as second:
        assert (first.folder is None, second.folder is None) == (False, True)

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
    second.go_on(first.place())  # of the third batch, before it was made
    torch.manual_seed(99)
    rest = [*second, *second]

    assert len(rest) == 8
    for expected, found in zip(drawn, [*seen[:2], *rest], strict=True):
        assert torch.equal(expected[0], found[0])
