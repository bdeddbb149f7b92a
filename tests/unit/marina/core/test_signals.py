"""Signals as exceptions: nested blocks, and a main thread that waits in a library."""

import os
import signal
import subprocess
import sys

import pytest

from marina.core import paths, signals

WAITS = """
import ctypes, os, signal, threading
from marina.core import signals
with signals.raised(0.3, lambda: os.write(1, b"said")), signals.raised():
    threading.Timer(0.1, os.kill, (os.getpid(), signal.{number})).start()
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)  # waits for itself
"""
CLEANS = """
import os, signal, time
from marina.core import signals
with signals.raised(0.3), signals.raised():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        time.sleep(1)
        print("cleaned")
"""
DROPS = """
import os, signal, time
from marina.core import signals
class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
with signals.raised():
    try:
        Interrupted()
        print("working")
        with signals.{meanwhile}:
            time.sleep(0.1)
        time.sleep(10)
    except KeyboardInterrupt as interrupt:
        print(interrupt)
print("ended")
"""
OUTLIVES = """
import signal
from marina.core import signals
first, second = signals.raised(), signals.raised()
first.__enter__()
second.__enter__()
first.__exit__(None, None, None)
second.__exit__(None, None, None)
signal.raise_signal(signal.SIGTERM)
print("still handled")
"""
HANDLES = """
import signal
from marina.core import signals
with signals.raised():
    try:
        with signals.deferred():
            signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt as interrupt:
        print(interrupt)
    with signals.deferred():
        pass
    print("free")
"""


def run(script: str) -> tuple[int, bytes]:
    """Exit code and output."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, cwd=paths.SOURCE, stdout=subprocess.PIPE, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_that_no_handler_gets_ends_the_process(number: str) -> None:
    """The main thread waits in a library, where the interpreter handles no signal."""
    assert run(WAITS.format(number=number)) == (128 + signal.Signals[number], b"said")


def test_a_cleanup_that_takes_long_is_not_cut_off() -> None:
    """The inner block has handled the signal, the outer one has the limit."""
    assert run(CLEANS) == (0, b"cleaned\n")


def test_what_arrives_during_a_cleanup_is_raised_after_it() -> None:
    done = []

    def clean() -> None:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("cleanup")

    with signals.raised(), pytest.raises(signals.Stopped):
        clean()

    assert done == ["cleanup"]


def test_after_the_block_the_handlers_are_as_before() -> None:
    before = {number: signal.getsignal(number) for number in signals.STOPPING}

    with signals.raised(5), signals.raised(), pytest.raises(signals.Stopped, match="stopped by SIGHUP"):
        os.kill(os.getpid(), signal.SIGHUP)

    assert {number: signal.getsignal(number) for number in signals.STOPPING} == before


@pytest.mark.parametrize("meanwhile", ["raised()", "ignored()"])
def test_a_signal_that_a_destructor_drops_comes_again(meanwhile: str) -> None:
    """Python drops what is raised there; the work would continue."""
    code, output = run(DROPS.format(meanwhile=meanwhile))

    assert (code, output) == (0, b"working\nstopped by SIGTERM\nended\n")


def test_a_block_that_outlives_the_outer_one_leaves_no_handler() -> None:
    """As two servers of one process do, of which the first ends first."""
    assert run(OUTLIVES) == (-signal.SIGTERM, b"")


def test_a_signal_that_was_handled_does_not_come_again() -> None:
    assert run(HANDLES) == (0, b"stopped by SIGTERM\nfree\n")
