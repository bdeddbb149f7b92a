"""Commands that are started in a home of their own, and stopped by a signal at a moment that is named."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from marina.core import paths

SECONDS = 10 if os.getloadavg()[0] < (os.cpu_count() or 1) else 40  # within which a command has ended
MARK = "MARINA_TEST_MARK"  # by which whatever a command starts is found
KEPT = ("marina-starts-", "torchinductor_", "matplotlib-")  # caches in the folder for temporary files
QUICK_CHECKPOINTS = """
import sys
from contextlib import contextmanager
from dataclasses import replace
import training.train
real = training.train.open_run
@contextmanager
def quick(*arguments, **options):
    with real(*arguments, **options) as run:
        yield replace(run, checkpoint_seconds=0.1)
training.train.open_run = quick
from marina.__main__ import main
main()
"""

Receiver = Literal["process", "group"]


@dataclass(frozen=True)
class Moment:
    """When the signal comes: at a text in the output, a file below the home or below TMPDIR (globs), or a
    process whose command line has a text; `seconds` later.
    """

    output: str = ""
    file: str = ""
    temporary: str = ""
    process: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, output, seconds since the signal, and what is left of it."""

    code: int
    output: str
    seconds: float
    processes: list[str]
    temporary: list[str]


class Running:
    """A command that runs in a session of its own, with a folder of its own for temporary files."""

    def __init__(self, words: Sequence[str], home: Path, temporary: Path, script: str = "") -> None:
        self.home, self.temporary, self.mark = home, temporary, secrets.token_hex(8)
        command = ["-c", script] if script else ["-m", "marina"]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *command, *words],
            cwd=paths.SOURCE,
            env={
                **os.environ,
                "MARINA_HOME": str(home),
                "TMPDIR": str(temporary),
                "OMP_NUM_THREADS": "1",
                MARK: self.mark,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, moment: Moment, seconds: float = 240) -> None:
        """Fail where the command ends before, or the moment doesn't come."""
        deadline = time.monotonic() + seconds
        while not self._has_come(moment):
            assert self.process.poll() is None, f"it ended before {moment}:\n{self.output}"
            assert time.monotonic() < deadline, f"{moment} did not come:\n{self.output}"
            time.sleep(0.01)
        time.sleep(moment.seconds)

    def stop(self, number: signal.Signals, to: Receiver = "process") -> Ended:
        """Send the signal, to the command or, as a terminal does, to its group."""
        sent = time.monotonic()
        (os.killpg if to == "group" else os.kill)(self.process.pid, number)
        self.process.wait(120)
        seconds = time.monotonic() - sent
        while (left := self.marked()) and time.monotonic() < sent + seconds + 3:  # the kernel ends them
            time.sleep(0.1)
        self._reader.join(5)
        kept = [path.name for path in self.temporary.iterdir() if not path.name.startswith(KEPT)]
        names = [f"{process.pid} {' '.join(process.cmdline())}" for process in left]
        return Ended(self.process.returncode, self.output, seconds, names, kept)

    def close(self) -> None:
        """Wait for its end, and close the pipe."""
        self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def output(self) -> str:
        """What it has printed so far, on both streams."""
        return "".join(self.lines)

    def marked(self) -> list[psutil.Process]:
        """The processes that it has started, and itself."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def _has_come(self, moment: Moment) -> bool:
        if moment.output:
            return moment.output in self.output
        if moment.process:
            return any(moment.process in " ".join(_words(process)) for process in self.marked())
        folder, pattern = (self.home, moment.file) if moment.file else (self.temporary, moment.temporary)
        return any(True for _ in folder.glob(pattern))


@contextmanager
def running(
    words: Sequence[str], home: Path, script: str = "", shared: Path | None = None
) -> Iterator[Running]:
    """`marina WORDS`, or `python -c SCRIPT WORDS`; nothing of it outlives the block.

    Temporary files lie in a folder of its own, or in `shared`, which stays.
    """
    temporary = shared or Path(tempfile.mkdtemp(prefix="stop-", dir="/tmp"))  # short: sockets' paths are
    command = Running(words, home, temporary, script)
    try:
        yield command
    finally:
        for process in command.marked():
            process.kill()
        command.close()
        if not shared:
            shutil.rmtree(temporary, ignore_errors=True)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
