"""Calls of a tracker in a thread of its own: a training never waits for a server that is slow or gone."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from queue import SimpleQueue
from typing import Any

log = logging.getLogger("marina")
Call = Callable[[], Any]


class Background:
    """Calls in the order in which they are given. After the first one that fails, or is waited for too long,
    none is made any more, and one warning says why.
    """

    def __init__(self, title: str) -> None:
        self.title, self.has_failed = title, False
        self._calls: SimpleQueue[tuple[Call, Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._work, name=f"tracking by {title}", daemon=True).start()

    def submit(self, call: Call) -> "Future[Any]":
        """Call it when all before it are done; what it gives or raises is in the future."""
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def add(self, call: Call) -> None:
        """Call it when all before it are done; a failure ends the tracking."""
        if not self.has_failed:
            self.submit(call).add_done_callback(self._look)

    def finish(self, seconds: float) -> None:
        """Wait until all calls are made, but `seconds` at most."""
        if self.has_failed:
            return
        try:
            self.submit(lambda: None).result(seconds)
        except Late:
            self.give_up(f"it took longer than {seconds:.0f} s")

    def give_up(self, reason: str) -> None:
        """Make no call any more, and say why, once."""
        if not self.has_failed:
            self.has_failed = True
            log.warning("%s: %s; what came after that is not tracked", self.title, reason)

    def _look(self, future: "Future[Any]") -> None:
        if error := future.exception():
            self.give_up(in_words(error))

    def _work(self) -> None:
        while True:
            call, future = self._calls.get()
            try:
                future.set_result(None if self.has_failed else call())
            except BaseException as error:  # whatever a tracker raises, exits included
                future.set_exception(error)


def in_words(error: BaseException) -> str:
    """The first line of an error, or its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
