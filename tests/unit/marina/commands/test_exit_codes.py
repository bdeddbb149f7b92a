"""What a command leaves when it ends in a way that nobody foresaw, or is stopped."""

import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from marina import __version__, cli
from marina.commands import serve
from marina.core import error_report, paths

ENDS = {
    "an error": (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division;"),
    "an error without words": (AssertionError(), "AssertionError;"),
    "an exit": (SystemExit(0), "SystemExit: 0;"),
    "too deep": (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum"),
}


def invoke(monkeypatch: pytest.MonkeyPatch, end: Any, *words: str) -> Result:
    """The result of `marina stop`, whose work ends like this."""

    def work(*_: Any) -> Any:
        if callable(end):
            return end()
        raise end

    monkeypatch.setattr(sys, "argv", ["marina", "stop", *words])
    monkeypatch.setattr(serve.traffic_split, "stop", work)
    return CliRunner().invoke(cli.app, ["stop", "--json"])


@pytest.mark.parametrize("name", ENDS)
def test_the_unforeseen_is_one_line_that_names_a_file(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, words = ENDS[name]
    secret = ["--header", "Authorization=Bearer abc", "--header=key=abc"]

    done = invoke(monkeypatch, error, *secret)
    (file,) = paths.errors().glob("*.txt")
    text = file.read_text()

    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert "report it with that file" in done.stderr
    assert str(file) in json.loads(done.stdout)["error"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "command: marina stop --header Authorization=... key=..." in text
    assert f"marina: {__version__}\n" in text
    assert "torch: 2" in text
    assert "Traceback (most recent call last)" in text
    assert "abc" not in text


def test_a_report_has_a_place_without_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARINA_HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    done = invoke(monkeypatch, KeyError("x"))

    assert str(tmp_path / f"marina-errors-{os.getuid()}") in done.stderr


def test_the_traceback_is_shown_on_request(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARINA_TRACEBACK", "1")

    assert "Traceback" in invoke(monkeypatch, KeyError("x")).stderr


def test_few_reports_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_report, "KEPT", 2)
    paths.errors().mkdir(parents=True)
    for name in ("1-1.txt", "1-2.txt", "1-3.txt"):
        (paths.errors() / name).touch()

    invoke(monkeypatch, KeyError("x"))
    left = sorted(file.name for file in paths.errors().iterdir())

    assert len(left) == 2
    assert left[0] == "1-3.txt"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_word_and_a_code(
    number: signal.Signals, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)

    done = invoke(monkeypatch, lambda: os.kill(os.getpid(), number))

    assert (done.exit_code, done.stderr) == (128 + number, "stopped\n")
    assert json.loads(done.stdout) == {"ok": False, "error": "stopped"}
    assert signal.getsignal(number) == before
    assert not paths.errors().exists()
