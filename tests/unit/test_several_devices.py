"""Several processes that learn together: the same as one within rounding, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from marina import paths

pytestmark = pytest.mark.slow

LEARNS = """
import sys
import torch
from torch import nn
from torch.utils.data import TensorDataset
import marina
from training.classification.learner import Learner, fit
from training.classification.settings import Learning
from training.running.run import Run, using

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 3))
labels = torch.arange(50) % 3
pictures = torch.randn(50, 1, 8, 8) + labels.view(-1, 1, 1, 1)
settings = Learning(epochs=4, batch_size=8, patience=3, schedule="plateau", balance="weights")
learner = Learner(model, [], settings, class_weights=torch.tensor([0.5, 1.0, 1.5]))
with using(Run(devices=int(sys.argv[2]))):
    fit(learner, TensorDataset(pictures[:40], labels[:40]), TensorDataset(pictures[40:], labels[40:]))
torch.save({"best": learner.best_state, "history": learner.history, "last": learner.model.state_dict()}, sys.argv[1])
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.SOURCE)}


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """The weights within 1e-5: a mean of two halves' means rounds otherwise than the mean of the whole, and Adam divides by small numbers.

    The validation's loss is a weighted mean by batches, which other batches change a little.
    """
    script = tmp_path / "learns.py"
    script.write_text(LEARNS)
    for devices in ("1", "2"):
        subprocess.run([sys.executable, script, tmp_path / devices, devices], check=True, env=environment(), timeout=300)
    one, two = (torch.load(tmp_path / devices) for devices in ("1", "2"))

    assert len(one["history"]) == len(two["history"])
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert ours.pop("validation_loss") == pytest.approx(theirs.pop("validation_loss"), rel=0.01)
        assert ours == pytest.approx(theirs, abs=1e-5)
    for name, value in one["best"].items():
        torch.testing.assert_close(two["best"][name], value, rtol=0, atol=1e-5)


SPEC = "# Reads digits.\nkind: classifier\ntraining: {recipe: classifier, epochs: %d}\nfloor: {accuracy: 0.5}\n"


def started(home: Path, epochs: int) -> subprocess.Popen[str]:
    (home / "models" / "toy.yaml").write_text(SPEC % epochs)
    command = [sys.executable, "-m", "marina", "train", "toy", "--devices", "2"]
    return subprocess.Popen(
        command, cwd=paths.SOURCE, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_the_command_trains_exports_once_and_ends_all_processes(home: Path) -> None:
    with started(home, 2) as running:
        said = running.communicate(timeout=400)[0]

    assert running.returncode == 0, said
    assert said.count("toy: training") == said.count("exported to") == 1
    assert (home / "exports" / "toy" / "1.0" / "SHA256SUMS").is_file()
    assert [path.name for path in (home / "exports" / "toy").iterdir()] == ["1.0"]


@pytest.mark.parametrize(("victim", "number"), [("all", signal.SIGINT), ("helper", signal.SIGKILL), ("first", signal.SIGKILL)])
def test_nobody_is_left_behind(home: Path, victim: str, number: signal.Signals) -> None:
    with started(home, 1000) as running:
        first = psutil.Process(running.pid)
        deadline = time.monotonic() + 200
        while not (helpers := first.children()) and time.monotonic() < deadline:
            time.sleep(0.2)
        (helper,) = helpers
        while helper.cpu_times().user < 8 and time.monotonic() < deadline:  # past its imports
            time.sleep(0.2)
        if victim == "all":
            os.killpg(running.pid, number)  # as a terminal does at Ctrl-C
        else:
            (helper if victim == "helper" else first).send_signal(number)
        gone, alive = psutil.wait_procs([helper], timeout=60)
        code = running.wait(60)
        running.communicate()

    assert code != 0
    assert not alive
    assert gone
