"""A limit in seconds on code that isn't ours: a step of an environment, a download.

A thread looks at what the main thread is in and interrupts it by a signal where that takes too long, so that
also a call ends that sleeps or waits for the network. Where nothing ends it, as in a library that waits by
itself, the process ends.

Not covered: calls in other threads, which Python can't interrupt, and a library that never lets another
thread run.
"""

import math
import os
import signal
import threading
import time
from threading import get_ident
from time import monotonic
from types import FrameType, TracebackType

from marina.core.errors import CallError

CHECK_SECONDS = 0.25
GRACE_SECONDS = 10.0  # from the first interruption to the end of the process
NOT_ENTERED = math.inf
INTERRUPT = signal.SIGURG  # nobody uses it, and without a handler it does nothing


class TimeLimit:
    """A `with` block of the main thread that may take `seconds`; it ends with CallError(message).

    It may be entered again and again, for every step of an environment.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self.seconds, self.message = seconds, message
        self.deadline = NOT_ENTERED

    def __enter__(self) -> None:
        watcher = _watcher
        if watcher.main_thread is None:
            watcher.start()
        if get_ident() == watcher.main_thread:
            self.deadline = monotonic() + self.seconds
            watcher.entered.append(self)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self.deadline is not NOT_ENTERED:
            self.deadline = NOT_ENTERED
            _watcher.entered.remove(self)


class _Watcher:
    """The thread that looks, one in a process, and the limits that its main thread is in."""

    def __init__(self) -> None:
        self.entered: list[TimeLimit] = []
        self.main_thread: int | None = None  # once it watches

    def forget(self) -> None:
        """Be as new."""
        self.entered, self.main_thread = [], None

    def start(self) -> None:
        """Begin to watch, if this is the main thread: only there can a signal's handler be set."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(INTERRUPT, self._interrupt)
            self.main_thread = get_ident()
            threading.Thread(target=self._watch, args=(self.main_thread,), daemon=True).start()

    def _watch(self, main_thread: int) -> None:
        while True:
            time.sleep(CHECK_SECONDS)
            if (limit := self._exceeded()) is None:
                continue
            if monotonic() > limit.deadline + GRACE_SECONDS:
                os.write(2, f"error: {limit.message}\n".encode())
                os._exit(CallError.exit_code)
            signal.pthread_kill(main_thread, INTERRUPT)

    def _exceeded(self) -> TimeLimit | None:
        now = monotonic()
        return next((limit for limit in list(self.entered) if limit.deadline < now), None)

    def _interrupt(self, _number: int, frame: FrameType | None) -> None:
        is_leaving = frame is not None and frame.f_code.co_filename == __file__
        if not is_leaving and (limit := self._exceeded()) is not None:  # else the block has just ended
            raise CallError(limit.message)


_watcher = _Watcher()
os.register_at_fork(after_in_child=_watcher.forget)  # a forked process has no thread but one
