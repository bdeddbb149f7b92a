"""The process that candidates are built, run and timed in: a compiler that crashes or hangs ends it, not the
command.

`TrialProcess` is the side of the export. It starts a Python of its own (`trial_server`), requests one step
after the other, and kills it where a step takes longer or needs more memory than the constants below allow.
That raises `TrialCrashed`, whose text becomes the candidate's row; the next step starts another process. The
process is shared by the exports that follow, because importing torch takes two seconds, and it dies with its
parent (`marina/core/exec_with_parent.py`).

Messages are pickled tuples of numpy arrays, strings and numbers between two processes of one user.
"""

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from marina.core.exec_with_parent import PYTHON_ARGUMENTS
from training.export.runtimes.candidates import Entry, ExportInputs, Rejected, arrays_of

START_SECONDS = 120  # until a new process has imported what it needs
BUILD_SECONDS = 900  # machine code for a large model takes two minutes on a busy core
CALL_SECONDS = 300  # to load a form, to compute a batch, to time some
MEMORY_GB = (
    16  # of the process and of the compilers that it starts; less where the machine has less available
)
CHECK_SECONDS = 0.2  # between two looks at its memory
SCRIPT = """
import sys
sys.path[:] = {path!r}
from training.export.runtimes.trial_server import serve
serve({pipe})
"""


class TrialCrashed(Rejected):
    """The process ended, or was killed, in the middle of a step; the text says how."""


class TrialProcess:
    """Runs the steps of an export's candidates in a process of their own, started for the first of them."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.starts = 0
        self._is_ready = False
        self._export: tuple[Any, ...] | None = None

    def start(self) -> None:
        """Start the process unless it runs, without waiting for it."""
        if self._is_running():
            return
        self.close()
        ours, theirs = Pipe()
        with theirs:
            path = [str(Path(folder or ".").resolve()) for folder in sys.path]
            script = SCRIPT.format(path=path, pipe=theirs.fileno())
            self.process = subprocess.Popen(
                [
                    *(sys.executable, *PYTHON_ARGUMENTS, str(os.getpid())),
                    *(sys.executable, "-W", "ignore", "-c", script),
                ],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what compilers print is no output of the command
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the command, which closes us
            )
        self.connection, self._is_ready = ours, False
        self.starts += 1

    def open(self, export_inputs: ExportInputs, program: Path) -> None:
        """Begin with the candidates of an export, whose graph is the file `program`."""
        example = arrays_of(export_inputs.trained.example)
        environment = dict(os.environ)
        self._export = (str(program), export_inputs.spec, example, dict(export_inputs.form), environment)
        if self._is_ready and self._is_running():
            self._request(CALL_SECONDS, "open", *self._export)

    def build(
        self, build: Callable[..., Entry], export_inputs: ExportInputs, precision: str, folder: Path
    ) -> Entry:
        """Call `build(export_inputs, precision, folder)`, a module's function, there; return its entry."""
        calibration = arrays_of(export_inputs.trained.calibration()) if precision == "int8" else ()
        entry: Entry = self.request(BUILD_SECONDS, "build", build, precision, str(folder), calibration)
        return entry

    def request(self, seconds: float, step: str, *arguments: Any) -> Any:
        """Return the answer to one step.

        Raises TrialCrashed where there is none, and Rejected with the text of what was raised there.
        """
        if not (self._is_ready and self._is_running()):
            self.start()
            self._receive(START_SECONDS)
            self._is_ready = True
            if self._export:
                self._request(CALL_SECONDS, "open", *self._export)
        return self._request(seconds, step, *arguments)

    def close(self) -> None:
        """Kill the process and its children."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)  # it leads a session of its own
            self.process.kill()  # before it has become that leader
            # no limit: it was killed
            self.process.wait()
        if self.connection is not None:
            self.connection.close()
        self.process = self.connection = None
        self._is_ready = False

    def _is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _request(self, seconds: float, step: str, *arguments: Any) -> Any:
        assert self.connection is not None
        try:
            self.connection.send((step, arguments))
        except OSError:
            raise self._crash() from None
        except BaseException:
            self.close()  # half a message
            raise
        answer, rejection = self._receive(seconds)
        if rejection is not None:
            raise Rejected(rejection)
        return answer

    def _receive(self, seconds: float) -> Any:
        """The next message. Whatever ends the wait for it ends the process, too."""
        assert self.connection is not None
        assert self.process is not None
        try:
            process = psutil.Process(self.process.pid) if self._is_running() else None
            available = psutil.virtual_memory().available * 9 // 10
            limit = min(MEMORY_GB * 2**30, memory_of(process) + available)
            deadline = time.monotonic() + seconds
            while not self.connection.poll(CHECK_SECONDS):
                if not self._is_running() and not self.connection.poll():
                    raise self._crash()  # one of its children may hold the other end open
                if time.monotonic() > deadline:
                    raise TrialCrashed(f"took longer than {seconds:g} s")
                if memory_of(process) > limit:
                    raise TrialCrashed(f"needed more than {limit / 2**30:.3g} GB")
            return self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._crash() from None
        except BaseException:  # Ctrl-C too: the answer would be taken for that to the next request
            self.close()
            raise

    def _crash(self) -> TrialCrashed:
        """Why a process that closed its end is gone."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code is None:
            return TrialCrashed("stopped answering")
        return TrialCrashed(f"crashed (signal {-code})" if code < 0 else f"crashed (exit status {code})")


class RemoteRuntime:
    """A runtime in the trial process.

    One that crashed is not tried again; one whose process another candidate ended is loaded again.
    """

    def __init__(self, trials: TrialProcess, folder: Path, entry: Entry) -> None:
        self.trials, self.folder, self.entry = trials, folder, entry
        self.name = entry["runtime"]
        self.threads = 1
        self.crash = ""  # how it ended its process
        self.start = 0
        self.index, self.precision = 0, entry["precision"]
        self._request("precision")

    def __call__(self, *inputs: np.ndarray) -> Any:
        """Compute one batch."""
        return self._request("compute", inputs)

    def set_threads(self, threads: int) -> None:
        """Of this runtime."""
        self._request("set_threads", threads)
        self.threads = threads

    def milliseconds(self, inputs: tuple[np.ndarray, ...]) -> float:
        """The median processor time of a call, measured in the trial process."""
        return float(self._request("milliseconds", inputs))

    def _request(self, step: str, *arguments: Any) -> Any:
        if self.crash:
            raise TrialCrashed(self.crash)
        request = self.trials.request
        try:
            if self.start != self.trials.starts or self.trials.process is None:
                self.index, self.precision = request(CALL_SECONDS, "load", str(self.folder), self.entry)
                self.start = self.trials.starts
                request(CALL_SECONDS, "set_threads", self.index, self.threads)
            return request(CALL_SECONDS, step, self.index, *arguments)
        except TrialCrashed as crash:
            self.crash = str(crash)
            raise


def memory_of(process: psutil.Process | None) -> int:
    """Bytes that a process and its descendants hold; 0 for one that is gone."""
    total = 0
    with suppress(psutil.Error):
        for member in [process, *process.children(recursive=True)] if process else ():
            with suppress(psutil.Error):  # a compiler that has just ended
                total += member.memory_info().rss
    return total


@cache
def shared_trial_process() -> TrialProcess:
    """The trial process of all exports of this process.

    `start` it early, and `close` it where its memory is needed.
    """
    process = TrialProcess()
    atexit.register(process.close)
    return process
