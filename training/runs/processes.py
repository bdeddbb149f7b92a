"""The processes of a training on several devices: the first one of a machine starts the others, and none is
left behind.

Each of them runs the same command. When one ends before its time the first one ends the others and says how
it ended; a signal to any of them ends all. Nothing waits in a library for a process that is gone: the first
one waits here until all are ready, and only then do they connect.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from marina.core.errors import CallError, WorkError
from marina.core.signals import STOPPING, Stopped
from training.runs.run import FIRST, STAGING, Run

READY = "MARINA_READY"  # names the descriptor that a process writes to when it is ready to learn
NOTICE_SECONDS = 3.0  # from a lost connection to the end of the process that it led to
END_SECONDS = 3.0  # for a process to end after SIGTERM
READY_SECONDS = 7200.0  # for the others to prepare their data, after the first one has prepared its own
FINISH_SECONDS = 30.0  # for a process to end after the training


@contextmanager
def learning_processes(run: Run) -> Iterator[None]:
    """All processes of `run` on this machine, connected inside the block by what uses torch.distributed.

    Raises WorkError where one of them ends before the block does, and Stopped where a signal ended it.
    """
    if run.processes == 1:
        yield
    elif run.is_helper and run.local_rank:
        _report_ready()
        yield
    else:
        with _environment(run):
            others = _Others(run)
            try:
                others.wait_until_ready()
                yield
                others.is_finished = True
            except (Exception, KeyboardInterrupt) as error:
                others.is_interrupting = False
                if (lost := others.loss_behind(error)) is not None:
                    raise lost from error
                raise
            finally:
                others.end()


class _Others:
    """The processes that this one has started."""

    def __init__(self, run: Run) -> None:
        self.total = run.processes
        self.is_finished = False
        self.is_interrupting = True  # the main thread, when one of them ends
        self.lost: tuple[int, int] | None = None  # rank and exit code of the first one that ended too early
        self._has_interrupted = False
        self._reader, writer = os.pipe()
        self.running: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, run.devices):
                environment = {
                    **os.environ,
                    "LOCAL_RANK": str(rank),
                    FIRST: str(os.getpid()),
                    READY: str(writer),
                    STAGING: str(run.report.parent),
                }
                self.running.append(subprocess.Popen(_command(), env=environment, pass_fds=(writer,)))
                watcher = threading.Thread(
                    target=self._watch, args=(run.rank + rank, self.running[-1]), daemon=True
                )
                watcher.start()
        except BaseException:
            self.end()
            raise
        finally:
            os.close(writer)

    def wait_until_ready(self) -> None:
        """Wait until each of them has prepared its data; a process that ends raises in the main thread.

        Raises WorkError where that takes longer than READY_SECONDS.
        """
        waiting, deadline = len(self.running), time.monotonic() + READY_SECONDS
        while waiting:
            if select.select([self._reader], [], [], 0.5)[0]:
                waiting -= len(os.read(self._reader, waiting))
            if self.lost:
                raise Stopped(signal.SIGTERM)
            if time.monotonic() > deadline:
                raise WorkError(
                    f"{waiting} of {self.total} processes had not prepared their data {READY_SECONDS:,.0f} s "
                    "after the first one; see what they wait for, or train with fewer devices"
                )

    def loss_behind(self, error: BaseException) -> BaseException | None:
        """What to raise instead of `error` where one of them ended; its connections break before it ends."""
        deadline = time.monotonic() + (0 if isinstance(error, KeyboardInterrupt) else NOTICE_SECONDS)
        while not self.lost and time.monotonic() < deadline:
            time.sleep(0.05)
        if not self.lost or (isinstance(error, KeyboardInterrupt) and not self._has_interrupted):
            return None
        rank, code = self.lost
        if (number := _stopping(code)) is not None:
            return Stopped(number)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = " (by hand, or because memory ran out)" if code == -signal.SIGKILL else ""
        return WorkError(
            f"process {rank + 1} of the {self.total} that learn together {how}{memory}; the same command "
            "resumes from the last checkpoint"
        )

    def end(self) -> None:
        """Wait for them where they have finished; else end them, by force after END_SECONDS."""
        self.is_interrupting = False
        try:
            if not self.is_finished:
                self._signal(signal.SIGTERM)
            deadline = time.monotonic() + (FINISH_SECONDS if self.is_finished else END_SECONDS)
            while any(process.poll() is None for process in self.running) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            self._signal(signal.SIGKILL)
            for process in self.running:
                # no limit: it was killed
                process.wait()
            os.close(self._reader)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.running:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        """Interrupt the main thread when the process ends with an error."""
        # no limit: the main thread ends it
        code = process.wait()
        if code and not self.lost:
            self.lost = rank, code
            if self.is_interrupting:
                self._has_interrupted = True
                # the signal that ended it: a group's comes to the main thread, too, and is then the same
                os.kill(os.getpid(), _stopping(code) or signal.SIGTERM)


def _stopping(code: int) -> int | None:
    """The signal that stopped a process with this exit code; None where it ended otherwise."""
    number = -code if code < 0 else code - 128
    return number if number in STOPPING else None


@contextmanager
def _environment(run: Run) -> Iterator[None]:
    """What torch.distributed and Lightning read; as it was when the block ends.

    LOCAL_RANK tells Lightning that the processes are started already. Its own seed is left out: the spec's
    counts. On one machine without GPUs the processes talk over the loopback, unheard from outside.
    """
    changes: dict[str, str | None] = {"LOCAL_RANK": "0", "PL_GLOBAL_SEED": None}
    if run.nodes == 1:
        changes |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
        changes["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    elif missing := [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]:
        raise CallError(f"{', '.join(missing)} must be set on each of the {run.nodes} nodes")
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _report_ready() -> None:
    """Tell the process that started this one that it may connect."""
    descriptor = os.environ.pop(READY, None)
    if descriptor is not None:
        os.write(int(descriptor), b".")
        os.close(int(descriptor))


def _command() -> list[str]:
    """The command of this process."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return [sys.executable, "-m", main.__spec__.name, *sys.argv[1:]]
    return [sys.executable, str(Path(sys.argv[0]).resolve()), *sys.argv[1:]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
