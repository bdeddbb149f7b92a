"""A training run: its seed, its folders, its devices, its progress bar. `training.train` opens one and hands
it to the recipe.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import BaseFileLock
from rich.progress import Progress, ProgressColumn

import marina
from marina.core import paths
from marina.core.errors import CallError
from marina.core.exec_with_parent import exit_with_parent
from marina.core.files import lock_file
from marina.core.spec import Spec
from training.findings import Findings

FIRST = "MARINA_FIRST"  # names the process that started the helpers of its machine
STAGING = "MARINA_STAGING"  # names the folder in which it builds the export
KEPT_DAYS = 14  # a run that nobody resumes for so long is removed

log = logging.getLogger("marina")


# measurements by name, and the epoch or number of timesteps that they are of, from 1 on
LogMetrics = Callable[[Mapping[str, float], int], None]


def _ignore(_metrics: Mapping[str, float], _step: int) -> None:
    """Without trackers."""


class FitEnded(Exception):
    """Raised at the end of `fit` where a run says `after_epoch`: what comes after it is not wanted."""


@dataclass(frozen=True)
class Run:
    """One training run: what a recipe is given beside its settings.

    `report` is the folder for figures and tables. `checkpoints` is the folder for what an interrupted run
    resumes from; without one nothing is kept. `findings` is for what the recipe leaves out or guesses.
    """

    report: Path
    seed: int = 0
    checkpoints: Path | None = None
    devices: int = 1  # on each of the nodes
    nodes: int = 1
    checkpoint_seconds: float = 20.0  # at least, between two checkpoints
    findings: Findings = field(default_factory=Findings)
    # called with the learner after each epoch; a run that has one ends with its fit, before the test split
    after_epoch: Callable[[Any], None] | None = None
    log_metrics: LogMetrics = _ignore  # to the trackers of the project
    started: float = field(default_factory=time.monotonic)  # on that clock
    computed: float = field(default_factory=time.process_time)  # CPU seconds before it

    def aside(self, report: Path) -> "Run":
        """For a fit beside the one that is exported, as of a fold: it keeps no checkpoints, and none of its
        epochs is tracked.
        """
        return replace(self, report=report, checkpoints=None, log_metrics=_ignore)

    @property
    def processes(self) -> int:
        """How many learn together."""
        return self.devices * self.nodes

    @property
    def rank(self) -> int:
        """Which of them this one is."""
        return int(os.environ.get("NODE_RANK", "0")) * self.devices + self.local_rank

    @property
    def local_rank(self) -> int:
        """Which of those on this machine."""
        return int(os.environ.get("LOCAL_RANK", "0"))

    @property
    def is_helper(self) -> bool:
        """Whether another process leads, and this one writes and prints nothing."""
        return is_helper()

    def progress(self, *columns: ProgressColumn | str, **options: Any) -> Progress:
        """A progress bar, hidden in a helper process."""
        return Progress(*columns, disable=self.is_helper, **options)


@contextmanager
def open_run(
    spec: Spec,
    settings: dict[str, Any],
    report: Path,
    fresh: bool = False,
    devices: int = 1,
    nodes: int = 1,
    strict: bool = False,
) -> Iterator[Run]:
    """A run of `spec` that resumes an interrupted one with the same settings, unless `fresh`; `strict` turns
    its findings into errors.

    Its checkpoints lie in cache/runs/<name>-<version>-<key>, with a key of the settings, the seed, the number
    of processes and the versions. The folder is removed when the block ends well. After a failure it stays: a
    missed floor can be lowered without training again. Only one run at a time has it; a second one keeps no
    checkpoints.
    """
    folder = _folder(spec, settings, devices * nodes)
    findings = Findings(strict, quiet=is_helper())
    run = Run(report, spec.training.seed, folder, devices, nodes, findings=findings)
    if run.is_helper:  # another device of a run that has the folder already
        _exit_with_first()
        yield run
        return
    _remove_old(folder.parent)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder, spec.name, run.processes)
    if lock is None:
        yield replace(run, checkpoints=None)
        return
    try:
        for left in folder.glob("*.*") if fresh else ():  # all but the lock
            left.unlink()
        os.utime(folder)
        yield run
        # a policy that Ctrl-C stopped was exported with what it had; the next run resumes from its state
        if not list(folder.glob("*.pt")):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def _lock(folder: Path, name: str, processes: int) -> BaseFileLock | None:
    """The lock of a run's folder; None where another run has it. Raises CallError for several processes."""
    training = f"{name} is being trained with the same settings already"
    try:
        return lock_file(folder / "lock", f"{training}; wait for it, or stop it")
    except CallError:
        if processes > 1:
            raise
        log.warning("%s; this run can't be resumed after a kill", training)
        return None


def is_helper() -> bool:
    """Whether this process was started, here or on another machine, by one that leads the run."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 or int(os.environ.get("NODE_RANK", "0")) > 0


def _exit_with_first() -> None:
    """Have the kernel kill this helper when the process that started it ends; Linux only: elsewhere its
    connection tells it.
    """
    first = os.environ.get(FIRST)
    if first and int(os.environ.get("LOCAL_RANK", "0")) > 0:
        exit_with_parent(int(first))


def _folder(spec: Spec, settings: dict[str, Any], processes: int) -> Path:
    said = [
        spec.training.recipe,
        spec.training.seed,
        settings,
        processes,
        marina.__version__,
        version("torch"),
        version("lightning"),
    ]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return paths.cache(spec.home) / "runs" / f"{spec.name}-{spec.version}-{key[:12]}"


def _remove_old(folder: Path) -> None:
    """Remove the runs that nobody resumed for KEPT_DAYS."""
    for left in folder.glob("*"):
        if time.time() - left.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(left, ignore_errors=True)
