"""A signal at any moment ends any command: its exit code, one line, nothing that runs, nothing half-done.

The table is that of docs/guide/operations.md. Trainings are in test_stopped_trainings.py.
"""

import json
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

import pytest

from marina.core.spec import Spec
from marina.engines import server_process
from marina.packaging import archive
from tests.support.foreign_models import OWN
from tests.support.stopped_commands import SECONDS, Ended, Moment, Receiver, running

SERVING = Moment(output="serving at")
STARTING = Moment(process="standalone.worker")
PRIVATE = Moment(output="starting a private one", seconds=0.5)
READY = Moment(output="ready after", seconds=1)


@dataclass(frozen=True)
class Row:
    """Which command gets which signal when, and its exit code."""

    command: str
    moment: Moment
    number: signal.Signals
    code: int
    to: Receiver = "process"
    engine: str = "standalone"
    slow: bool = True


ROWS = [
    Row("up balance", Moment(temporary="marina-archive-*"), SIGTERM, 143),
    Row("up balance", STARTING, SIGTERM, 143),
    Row("up balance", Moment(output="registered"), SIGHUP, 129),
    Row("up balance", SERVING, SIGINT, 0, "group"),
    Row("up balance", SERVING, SIGTERM, 0, engine="torchserve"),
    Row("serve balance", STARTING, SIGHUP, 129),
    Row("serve balance", SERVING, SIGTERM, 0),
    Row("serve balance --background", STARTING, SIGINT, 130, "group"),
    Row("predict balance {home}/request.json", PRIVATE, SIGINT, 130, "group"),
    Row("predict balance {home}/request.json", Moment(process="java"), SIGTERM, 143, engine="torchserve"),
    Row("play balance --episodes 1000 --gif {home}/episode.gif", READY, SIGTERM, 143),
    Row("evaluate balance --episodes 10000", Moment(temporary="marina-starts-*", seconds=1), SIGTERM, 143),
    Row("evaluate balance --episodes 20", PRIVATE, SIGINT, 130, "group"),
    Row("loadtest balance --seconds 60", Moment(process="locust", seconds=1), SIGINT, 130, "group"),
    Row("loadtest balance --seconds 60", Moment(process="locust", seconds=3), SIGTERM, 143),
    Row("tune balance", Moment(temporary="marina-tune-*/exports"), SIGTERM, 143),
    Row("tune balance", Moment(output="batch"), SIGINT, 130, "group"),
    Row("archive balance", Moment(temporary="marina-archive-*"), SIGTERM, 143, slow=False),
    Row("archive balance", Moment(process="model_packaging"), SIGINT, 130, "group"),
    Row("import colours --from {home}/own.py:brightest", Moment(output="importing"), SIGTERM, 143),
    Row(
        "import colours --from {home}/own.py:brightest",
        Moment(file="exports/colours/.1.0-*/model.pt2"),
        SIGINT,
        130,
        "group",
    ),
    Row("bench serve --model policy", Moment(temporary="marina-bench-*/exports"), SIGTERM, 143),
    Row("bench rl --quick", Moment(process="policies.py", seconds=8), SIGINT, 130, "group"),
]


def name_of(row: Row) -> str:
    at = row.moment
    moment = at.output or at.file or at.temporary or at.process
    return f"{row.command.partition(' ')[0]}-{row.number.name}-{row.to}-{moment}-{row.engine}"


def parameters() -> list[object]:
    """The rows; all but one are slow."""
    return [pytest.param(row, id=name_of(row), marks=pytest.mark.slow if row.slow else ()) for row in ROWS]


def check(ended: Ended, code: int) -> None:
    """It ended in time with this exit code and one line, and left no process and no temporary file."""
    assert (ended.processes, ended.temporary) == ([], [])
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output
    assert ended.output.splitlines()[-1] == ("stopping" if code == 0 else "stopped"), ended.output
    assert ended.output.count("stopped\n") == (code != 0), ended.output
    assert ended.seconds < SECONDS


@pytest.mark.parametrize("row", parameters())
def test_a_stopped_command_leaves_nothing(
    row: Row, exported: Callable[..., Spec], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.build(exported())
    (home / "request.json").write_text('{"observation": [0, 0, 1, 0]}')
    (home / "own.py").write_text(OWN)
    (home / "neighbour.py").write_text("WIDTH = 32\n")
    before = contents(home)
    monkeypatch.setenv("MARINA_ENGINE", row.engine)
    words = row.command.format(home=home).split()
    if words[0] not in ("archive", "import", "bench", "tune"):
        words += ["--port-base", str(server_process.free_port_base())]

    with running(words, home) as command:
        command.wait_for(row.moment)
        ended = command.stop(row.number, row.to)

    check(ended, row.code)
    assert contents(home) == before
    assert not list(home.glob("run/*/state.json"))
    assert not list(home.glob("run/*/key_file.json"))
    assert not (home / "episode.gif").exists()
    if words[0] not in ("up", "serve"):  # what is private leaves no folder
        assert not [path.name for path in home.glob("run/*") if path.name.isdecimal()]


def contents(home: Path) -> dict[str, int]:
    """The files of the project that others read, with their checksums, and the folders of models."""
    places = [path for folder in ("models", "exports", "model_store") for path in (home / folder).rglob("*")]
    return {str(path): zlib.crc32(path.read_bytes()) for path in places if path.is_file()}


@pytest.mark.slow
def test_a_stopped_command_that_prints_json_ends_with_an_object(
    exported: Callable[..., Spec], home: Path
) -> None:
    exported()

    with running(["archive", "balance", "--json"], home) as command:
        command.wait_for(Moment(process="model_packaging"))
        ended = command.stop(SIGTERM)

    assert json.loads(ended.output.splitlines()[-1]) == {"ok": False, "error": "stopped"}


@pytest.mark.slow
def test_what_a_killed_command_left_of_its_server_goes_with_the_next(
    exported: Callable[..., Spec], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` leaves the folders of a private server; the next one removes them and says so."""
    archive.build(exported())
    (home / "request.json").write_text('{"observation": [0, 0, 1, 0]}')
    monkeypatch.setenv("MARINA_ENGINE", "standalone")
    port = str(server_process.free_port_base())
    words = ["predict", "balance", str(home / "request.json"), "--port-base", port]

    with running(words, home) as command:
        command.wait_for(STARTING)
        killed = command.stop(SIGKILL)
        (left,) = (path.parent for path in home.glob("run/*/state.json"))
        monkeypatch.setenv("TMPDIR", str(command.temporary))
        done = subprocess.run(
            [sys.executable, "-m", "marina", *words], check=False, capture_output=True, text=True, timeout=240
        )

        assert list(command.temporary.glob("marina-server-*")) == []
    assert killed.processes == []
    assert killed.temporary[0].startswith("marina-server-")
    assert done.returncode == 0, done.stderr
    assert f"removed {left}, which a killed command left" in done.stderr
    assert not [path.name for path in home.glob("run/*") if path.name.isdecimal()]


@pytest.mark.slow
@pytest.mark.parametrize("at", ["exports/colours/.1.0-*/model.pt2", "exports/colours/1.0/SHA256SUMS"])
def test_a_killed_import_is_made_again(at: str, home: Path) -> None:
    """`kill -9` while the export is built, and when it is in its place, before the spec is written."""
    (home / "own.py").write_text(OWN)
    (home / "neighbour.py").write_text("WIDTH = 32\n")
    words = ["import", "colours", "--from", f"{home}/own.py:brightest"]

    with running(words, home) as command:
        command.wait_for(Moment(file=at))
        killed = command.stop(SIGKILL)
    done = subprocess.run(
        [sys.executable, "-m", "marina", *words], check=False, capture_output=True, text=True, timeout=240
    )

    assert (killed.code, killed.processes) == (-SIGKILL, [])
    assert done.returncode == 0, done.stderr
    assert ("removed what a killed export left" in done.stderr) == ("model.pt2" in at)
    assert [path.name for path in (home / "exports" / "colours").iterdir()] == ["1.0"]
    assert (home / "models" / "colours.yaml").is_file()


STUCK = """
import sys, threading
import numpy as np
from marina.packaging import archive
def stuck(spec):
    print("stuck", flush=True)
    half = np.random.rand(6000, 6000)
    while True:
        np.linalg.svd(half)
archive.check_export = stuck
from marina.__main__ import main
main()
"""


@pytest.mark.slow
def test_a_command_that_waits_in_a_library_ends_too(exported: Callable[..., Spec], home: Path) -> None:
    """The main thread computes for minutes within one call, where Python handles no signal."""
    exported()

    with running(["archive", "balance"], home, STUCK) as command:
        command.wait_for(Moment(output="stuck", seconds=2))
        ended = command.stop(SIGTERM)

    check(ended, 143)
