"""Training in several processes: equal to one process within rounding, and no process is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch

from marina.core import paths

pytestmark = pytest.mark.slow

LEARNS = """
import sys
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import TensorDataset
import marina
from training.vision.classification.learner import Learner, fit
from training.vision.classification.settings import ClassifierSettings
from training.runs.run import Run

torch.set_num_threads(1)
torch.manual_seed(0)
first = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.GroupNorm(2, 8)]
model = nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 3))
labels = torch.arange(50) % 3
pictures = torch.randn(50, 1, 8, 8) + labels.view(-1, 1, 1, 1)
settings = ClassifierSettings(epochs=4, batch_size=8, patience=3, schedule="plateau", class_balance="weights")
learner = Learner(model, [], settings, class_weights=torch.tensor([0.5, 1.0, 1.5]))
run = Run(Path(sys.argv[1]).parent, devices=int(sys.argv[2]))
fit(learner, TensorDataset(pictures[:40], labels[:40]), TensorDataset(pictures[40:], labels[40:]), run)
torch.save({"best": learner.best_state, "history": learner.history}, sys.argv[1])
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.SOURCE)}


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """The weights within 1e-5: a mean of two halves' means rounds otherwise than the mean of the whole, and
    Adam divides by small numbers.

    The validation's loss is a weighted mean by batches, which other batches change a little. A seed that
    another program left for Lightning in the environment counts for neither.
    """
    script = tmp_path / "learns.py"
    script.write_text(LEARNS)
    for devices in ("1", "2"):
        subprocess.run(
            [sys.executable, script, tmp_path / devices, devices],
            check=True,
            env={**environment(), "PL_GLOBAL_SEED": "0"},
            timeout=300,
        )
    one, two = (torch.load(tmp_path / devices) for devices in ("1", "2"))

    assert len(one["history"]) == len(two["history"])
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert ours.pop("validation_loss") == pytest.approx(theirs.pop("validation_loss"), rel=0.01)
        assert ours == pytest.approx(theirs, abs=1e-5)
    for name, value in one["best"].items():
        torch.testing.assert_close(two["best"][name], value, rtol=0, atol=1e-5)


SPEC = (
    "# Reads digits.\nkind: classifier\ntraining: {recipe: classifier, epochs: %d}\nfloor: {accuracy: 0.5}\n"
)


@contextmanager
def train(home: Path, epochs: int) -> Iterator[subprocess.Popen[str]]:
    """`marina train` with two processes, in a session of their own; none of them outlives the block."""
    (home / "models" / "toy.yaml").write_text(SPEC % epochs)
    command = [sys.executable, "-m", "marina", "train", "toy", "--devices", "2"]
    with subprocess.Popen(
        command,
        cwd=paths.SOURCE,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def helper_of(running: "subprocess.Popen[str]") -> psutil.Process:
    """The process that learns along with `running`; others of its children try runtimes, or live briefly."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and running.poll() is None:
        for child in psutil.Process(running.pid).children():
            with suppress(psutil.Error):
                if child.environ().get("LOCAL_RANK") == "1":
                    return child
        time.sleep(0.1)
    raise AssertionError("no second process was started")


def wait_for(home: Path, pattern: str) -> Path:
    """A file that a training writes in `home`."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for path in home.glob(pattern):
            return path
        time.sleep(0.2)
    raise AssertionError(f"no {pattern}")


def test_the_command_trains_exports_once_and_ends_all_processes(home: Path) -> None:
    with train(home, 2) as running:
        said = running.communicate(timeout=400)[0]

    assert running.returncode == 0, said
    assert said.count("toy: training") == said.count("exported to") == 1
    assert (home / "exports" / "toy" / "1.0" / "SHA256SUMS").is_file()
    assert [path.name for path in (home / "exports" / "toy").iterdir()] == ["1.0"]


CHECKPOINT = "cache/runs/*/training.ckpt"
SIGNALS = [  # who gets which signal when, and the exit code of the command
    ("all", signal.SIGTERM, "learning", 143),
    ("all", signal.SIGINT, "learning", 130),
    ("first", signal.SIGTERM, "learning", 143),
    ("helper", signal.SIGTERM, "learning", 143),
    ("helper", signal.SIGKILL, "learning", 1),
    ("first", signal.SIGKILL, "learning", -9),
    ("all", signal.SIGHUP, "starting", 129),
    ("first", signal.SIGINT, "starting", 130),
    ("helper", signal.SIGKILL, "starting", 1),
]
SECONDS = 10 if (os.getloadavg()[0] < (os.cpu_count() or 1)) else 40  # until all have ended


@pytest.mark.parametrize(("victim", "number", "phase", "code"), SIGNALS)
def test_nobody_is_left_behind(
    home: Path, victim: str, number: signal.Signals, phase: str, code: int
) -> None:
    """Whoever gets a signal, all end soon, the checkpoint stays, and nothing half-done does."""
    with train(home, 1000) as running:
        helper = helper_of(running)
        if phase == "learning":
            wait_for(home, CHECKPOINT)
        sent = time.monotonic()
        if victim == "all":
            os.killpg(running.pid, number)  # as a terminal does at Ctrl-C, and a container's stop
        else:
            (helper.send_signal if victim == "helper" else running.send_signal)(number)
        words = running.communicate(timeout=60)[0]  # a helper that lives would keep its end open
        gone, alive = psutil.wait_procs([helper], timeout=5)
        seconds = time.monotonic() - sent

    assert (gone, alive) == ([helper], [])
    assert running.returncode == code, words
    assert seconds < SECONDS
    assert "Traceback" not in words
    assert words.count("stopped\n") == (code > 1), words
    assert ("process 2 of the 2 that learn together was killed by SIGKILL" in words) == (code == 1)
    assert bool(list(home.glob(CHECKPOINT))) == (phase == "learning")
    assert bool(list((home / "exports" / "toy").glob(".*"))) == (code == -signal.SIGKILL)
