"""The run that is going on: where it keeps its checkpoint, on how many devices it learns.

`begun` opens one around a recipe; what carries the training asks for it with `current`. Without one nothing is kept and one
device learns, as in a recipe that is called directly.
"""

import ctypes
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import marina
from marina import paths
from marina.errors import CallError
from marina.server.exec_with_parent import PR_SET_PDEATHSIG
from marina.spec import Spec

FIRST = "MARINA_FIRST"  # names the process that started the helpers of its machine
KEPT_DAYS = 14  # a run that nobody went on with for so long is forgotten

log = logging.getLogger("marina")


@dataclass(frozen=True)
class Run:
    """What a training is told beside its settings. `folder` is where it keeps its checkpoint, `report` its logs; None for nowhere."""

    folder: Path | None = None
    devices: int = 1  # on each of the nodes
    nodes: int = 1
    report: Path | None = None
    seconds_between: float = 20.0  # two checkpoints, at least

    @property
    def processes(self) -> int:
        """How many learn together."""
        return self.devices * self.nodes

    @property
    def rank(self) -> int:
        """Which of them this one is."""
        return int(os.environ.get("NODE_RANK", "0")) * self.devices + int(os.environ.get("LOCAL_RANK", "0"))


_CURRENT: ContextVar[Run] = ContextVar("run")


def current() -> Run:
    """The run that is going on."""
    return _CURRENT.get(Run())


@contextmanager
def using(run: Run) -> Iterator[Run]:
    """Make `run` the current one for the length of a `with` block."""
    token = _CURRENT.set(run)
    try:
        yield run
    finally:
        _CURRENT.reset(token)


@contextmanager
def begun(
    spec: Spec, settings: dict[str, Any], fresh: bool = False, devices: int = 1, nodes: int = 1, report: Path | None = None
) -> Iterator[Run]:
    """A run of `spec` with these settings, which goes on where the last one with the same was cut off, unless `fresh`.

    Its folder is cache/runs/<name>-<version>-<key>, with a key of the settings, the seed, the number of processes and the versions;
    it goes when the block ends well. After a failure it stays: a missed floor can be lowered without a second training. Only one
    run at a time has it; a second one beside it keeps nothing.
    """
    folder = _folder(spec, settings, devices * nodes)
    if is_helper():  # another device of a run that has the folder already
        _go_with_first()
        with using(Run(folder, devices, nodes)) as run:
            yield run
        return
    _forget(folder.parent)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if devices * nodes > 1:
                raise CallError(f"{spec.name} is being trained with the same settings already; wait for it, or stop it") from None
            log.warning("%s is being trained with the same settings already; this run can't be gone on with after a kill", spec.name)
            with using(Run(report=report)) as run:
                yield run
            return
        if fresh:
            for left in folder.glob("*.*"):  # all but the lock
                left.unlink()
        os.utime(folder)
        with using(Run(folder, devices, nodes, report)) as run:
            yield run
        if not list(folder.glob("*.pt")):  # a policy that Ctrl-C stopped handed over what it had; the next run goes on with it
            shutil.rmtree(folder, ignore_errors=True)


def is_helper() -> bool:
    """Whether this process was started, by another one or on another machine, to learn along and to write nothing."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 or int(os.environ.get("NODE_RANK", "0")) > 0


def _go_with_first() -> None:
    """Let the kernel kill this helper when the process that started it ends; on Linux, where others see it by their connection."""
    first = os.environ.get(FIRST)
    if first and sys.platform == "linux" and int(os.environ.get("LOCAL_RANK", "0")) > 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(first):
            sys.exit(f"the process {first} that asked for help is gone")  # before we asked the kernel to watch it


def _folder(spec: Spec, settings: dict[str, Any], processes: int) -> Path:
    said = [spec.training.recipe, spec.training.seed, settings, processes, marina.__version__, version("torch"), version("lightning")]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return paths.cache() / "runs" / f"{spec.name}-{spec.version}-{key[:12]}"


def _forget(folder: Path) -> None:
    """Remove the runs that nobody went on with for long."""
    for left in folder.glob("*"):
        if time.time() - left.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(left, ignore_errors=True)
