"""SIGINT, SIGTERM and SIGHUP as one exception, so that cleanup runs on each of them."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_SECONDS = 0.01  # from a dropped exception to the next one


class Stopped(KeyboardInterrupt):
    """A signal asks this process to end; `number` is the signal's."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def raised(within: float | None = None, say: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Raise Stopped in the main thread on each of them; an ignored one (nohup, background) stays so, and so
    does the handling of an outer block.

    Python drops what is raised in a destructor or in a callback of the garbage collector: then it is raised
    once more, behind that. It raises nothing while the main thread waits inside a library. With `within`, the
    process ends by itself where the first signal has waited for so many seconds: without cleanup, after a
    call of `say` in another thread.
    """
    handler = _Raise()
    with _handled(handler), ExitStack() as stack:
        is_outermost = signal.getsignal(signal.SIGTERM) == handler
        if is_outermost:
            stack.enter_context(_sent_again(handler))
            if within is not None:
                stack.enter_context(_ended(within, handler.is_called, say))
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore them, for work that must not be interrupted."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Within `raised`, raise after the block what arrives in it: for cleanup that must not be cut off."""
    handler = signal.getsignal(signal.SIGTERM)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not isinstance(handler, _Raise) or handler.is_deferred:
        yield
        return
    handler.is_deferred = True
    try:
        yield
    finally:
        handler.is_deferred = False
        arrived, handler.arrived = handler.arrived, None
    if arrived is not None:
        raise Stopped(arrived)


def number_of(interrupt: KeyboardInterrupt) -> int:
    """The signal behind `interrupt`."""
    return int(getattr(interrupt, "number", signal.SIGINT))


class _Raise:
    """The handler that raises."""

    def __init__(self) -> None:
        self.is_called = threading.Event()
        self.is_deferred = False
        self.arrived: int | None = None  # while deferred

    def __call__(self, number: int, _frame: object) -> None:
        self.is_called.set()
        if not self.is_deferred:
            raise Stopped(number)
        self.arrived = number


@contextmanager
def _handled(handler: "signal._HANDLER") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where signals never arrive
        yield
        return
    replaced: dict[signal.Signals, signal._HANDLER] = {}
    try:
        for number in STOPPING:
            before = signal.getsignal(number)
            is_outer = isinstance(before, _Raise) and isinstance(handler, _Raise)
            if before is not signal.SIG_IGN and not is_outer:
                replaced[number] = signal.signal(number, handler)
        yield
    finally:
        for number, before in replaced.items():
            signal.signal(number, before)


@contextmanager
def _sent_again(handler: _Raise) -> Iterator[None]:
    """Send a signal once more whose exception was dropped.

    Python tells so while the destructor's caller still waits, where nothing can be raised.
    """
    before, has_ended, main = sys.unraisablehook, threading.Event(), threading.get_ident()

    def send(number: int) -> None:
        while not has_ended.wait(AGAIN_SECONDS):
            if signal.getsignal(number) is handler:  # not where signals are ignored for a moment
                signal.pthread_kill(main, number)
                return

    def told(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, Stopped):
            arguments = [dropped.exc_value.number]
            threading.Thread(target=send, args=arguments, name="signals", daemon=True).start()
        else:
            before(dropped)

    sys.unraisablehook = told
    try:
        yield
    finally:
        has_ended.set()
        sys.unraisablehook = before


@contextmanager
def _ended(seconds: float, is_handled: threading.Event, say: Callable[[], None]) -> Iterator[None]:
    """End the process where no handler runs within `seconds` of a signal.

    The interpreter writes a signal's number to a pipe when it arrives; the handler may run much later.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while arrived := os.read(reader, 1):
            if arrived[0] in STOPPING and not is_handled.wait(seconds):
                say()
                os._exit(128 + arrived[0])

    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        is_handled.set()
        # no limit: its pipe is closed
        watcher.join()
        os.close(reader)
