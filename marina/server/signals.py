"""SIGINT, SIGTERM and SIGHUP as one exception, so that whatever was started is stopped in order on each of them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asks this process to end; `number` is the signal's."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def raised() -> Iterator[None]:
    """Raise Stopped in the main thread on each of them; one that is ignored (nohup, a job in the background) stays ignored."""
    with _handled(_raise):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """For what must not be left half done."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def _handled(handler: "signal._HANDLER") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where signals never arrive
        yield
        return
    previous = {number: signal.getsignal(number) for number in STOPPING}
    try:
        for number, before in previous.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _raise(number: int, _frame: object) -> None:
    raise Stopped(number)
