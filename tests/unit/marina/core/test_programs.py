"""Programs that are run to their end end in time."""

import sys
import time

import pytest

from marina.core import programs
from marina.core.errors import WorkError


def test_a_program_that_never_ends_is_stopped() -> None:
    """Also where what it has started holds its output open."""
    script = "import os, time\nos.fork()\ntime.sleep(30)"
    started = time.monotonic()

    with pytest.raises(WorkError, match=r"had not ended after 1 s and was stopped; see the disk"):
        programs.run([sys.executable, "-c", script], 1.0, "see the disk")

    assert time.monotonic() - started < 20


def test_output_that_is_no_text_is_read() -> None:
    script = r"import sys; sys.stdout.buffer.write(b'\xff'); sys.exit(3)"

    done = programs.run([sys.executable, "-c", script], 60.0, "")

    assert (done.returncode, done.stdout) == (3, "\N{REPLACEMENT CHARACTER}")
