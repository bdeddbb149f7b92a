"""How a command ends: its exit code, and one line on stderr that says why."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from handlers.protocol.errors import BrokenArchive
from marina.core import signals
from marina.core.console import Output, err
from marina.core.error_report import write_error_report
from marina.core.errors import MarinaError
from training.runs.run import is_helper

STOP_SECONDS = 5.0  # until a signal ends a command that waits in a library, where nothing else can
SHOW_CURSOR = b"\x1b[?25h"  # which a progress bar hides
TRACEBACK = "MARINA_TRACEBACK"  # prints the traceback of every error, too


@contextmanager
def exit_codes(output: Output) -> Iterator[None]:
    """Turn what ends a command into a line, an exit code and, with --json, an object.

    A MarinaError or OSError says what is wrong; SIGINT, SIGTERM and SIGHUP end with 128 and their number;
    anything else was not foreseen and leaves a report. A process that helps another one to train prints no
    object, and says nothing of a signal.
    """
    try:
        with signals.raised(STOP_SECONDS, lambda: _say_stopped(output)):
            yield
    except BrokenPipeError:  # `marina ... | head`
        raise
    except (
        MarinaError,
        BrokenArchive,
        OSError,
    ) as error:  # OSError: a full disk, a folder that can't be written
        _fail(output, f"error: {_words(error)}", getattr(error, "exit_code", 1), error)
    except KeyboardInterrupt as interrupt:
        _fail(output, "stopped", 128 + signals.number_of(interrupt), interrupt)
    except SystemExit as error:
        if is_helper() or isinstance(error.__context__, BrokenPipeError):
            raise
        _fail(output, f"error: {_unforeseen(error)}", 1, error)
    except Exception as error:
        _fail(output, f"error: {_unforeseen(error)}", 1, error)


def _fail(output: Output, line: str, code: int, error: BaseException) -> NoReturn:
    is_stopped = isinstance(error, KeyboardInterrupt)
    if os.environ.get(TRACEBACK) and not is_stopped:
        traceback.print_exception(error)
    if not (is_stopped and is_helper()):
        style = None if is_stopped else "red"
        err.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    if not is_helper():
        output.result({"ok": False, "error": line.removeprefix("error: ")})
    raise typer.Exit(code) from error


def _say_stopped(output: Output) -> None:
    """As `_fail`, from another thread: the main one may hold the locks of the streams."""
    if not is_helper():
        os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + b"stopped\n")
        os.write(1, b'{"ok":false,"error":"stopped"}\n' if output.as_json else b"")


def _words(error: Exception) -> str:
    """The message of a foreseen error; of a file's, the file first."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _unforeseen(error: BaseException) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    file = write_error_report(error, sys.argv[1:])
    report = f"the details are in {file}; report it with that file" if file else f"{TRACEBACK}=1 shows where"
    return f"this was not foreseen: {what}; {report}"
