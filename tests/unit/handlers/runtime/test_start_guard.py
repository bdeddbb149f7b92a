"""A runtime that crashes a worker's start is skipped at the next start, and the next runtime serves."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from handlers.runtime.checksums import write_checksums
from handlers.runtime.export import Export
from handlers.runtime.runtimes import usable
from handlers.runtime.start_guard import StartGuard, find_markers
from tests.support.color_classifier import started
from tests.support.repository import ROOT
from tests.support.toy_exports import export_toy
from training.export.runtimes.openvino_form import converted

START = """
import os, logging
logging.basicConfig(format="%(message)s")
from handlers.kinds import predictor_of
from handlers.runtime import runtimes
class Fatal(runtimes.OpenVinoRuntime):
    def __init__(self, *arguments, **options):
        if {moment!r} == "load":
            os.abort()
        super().__init__(*arguments, **options)
    def __call__(self, *inputs):
        os.abort()
runtimes.COMPILED["openvino"] = Fatal
handler = predictor_of("policy")
print(handler.load(__import__("pathlib").Path({folder!r}), {{}}), handler.computing["runtime"])
"""
SERVES = "export: {runtimes: [openvino, onnxruntime], precisions: [fp32]}\n"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of this process and of those that it starts."""
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def start(folder: Path, moment: str) -> subprocess.CompletedProcess[str]:
    script = START.format(moment=moment, folder=str(folder))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )


def markers(temporary: Path) -> list[Path]:
    return sorted(temporary.glob("marina-starts-*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["load", "call"])
def test_the_start_after_a_crash_serves_with_the_next_runtime(
    home: Path, temporary: Path, moment: str
) -> None:
    folder = export_toy(home, more=SERVES).export_dir
    content = Export.open(folder).runtimes
    compiled = [{"runtime": "openvino", "precision": "fp32", "file": "openvino.xml"}]
    (folder / "runtime.json").write_text(json.dumps({**content, "serve": compiled}))
    if not (folder / "openvino.xml").exists():
        converted(torch.export.load(folder / "model.pt2"), folder / "openvino.xml")
    write_checksums(folder)

    first, second, third = (start(folder, moment) for _ in range(3))

    assert (first.returncode, first.stdout) == (-6, "")
    for again in (second, third):
        assert (again.returncode, again.stdout.split()) == (0, ["3", "torch"])
        assert (
            again.stderr.strip()
            == "the runtime openvino is left out, the next is taken: it ended a worker's start"
        )
    assert len(markers(temporary)) == 1


def test_a_start_that_succeeds_leaves_no_marker(home: Path, temporary: Path) -> None:
    one = export_toy(home, more=SERVES)

    assert started(one).computing["runtime"] == Export.open(one.export_dir).runtimes["serve"][0]["runtime"]
    assert not markers(temporary)


def test_a_runtime_is_marked_until_the_next_is_asked_for(home: Path, temporary: Path) -> None:
    folder = export_toy(home, more=SERVES).export_dir
    runtimes = usable(Export.open(folder), "cpu")

    assert next(runtimes).name != "torch"
    assert len(markers(temporary)) == 1
    runtimes.close()
    assert not markers(temporary)


ENTRY = {"runtime": "openvino", "precision": "fp32", "file": "openvino.xml"}


def left(guard: StartGuard, worker: tuple[int, float], server: tuple[int, float]) -> Path:
    """A marker of such processes."""
    with guard.marked():
        (path,) = find_markers(guard.key)
        text = json.dumps([worker, server])
    path.write_text(text, encoding="ascii")
    return path


def here() -> tuple[int, float]:
    return (os.getpid(), psutil.Process().create_time())


def test_who_counts_as_ended(temporary: Path) -> None:
    """A worker that is gone, of a running server, within the hour; a reused process id counts as gone."""
    guard, gone = StartGuard("a", ENTRY), (os.getpid(), here()[1] - 60)

    assert not guard.ended_start()
    path = left(guard, gone, here())
    assert guard.ended_start()
    assert not StartGuard("b", ENTRY).ended_start()
    assert not StartGuard("a", {**ENTRY, "precision": "bf16"}).ended_start()
    os.utime(path, (time.time() - 3700,) * 2)
    assert not guard.ended_start()
    assert not path.exists()


def test_a_worker_that_starts_at_the_same_time_is_no_reason(temporary: Path) -> None:
    guard = StartGuard("a", ENTRY)
    path = left(guard, here(), here())

    assert not guard.ended_start()
    assert path.exists()


def test_workers_that_ended_with_their_server_are_no_reason(temporary: Path) -> None:
    guard, gone = StartGuard("a", ENTRY), (os.getpid(), here()[1] - 60)
    path = left(guard, gone, gone)

    assert not guard.ended_start()
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "[", "{}", "[1, 2]", '["a", "b"]', "\x00\xff"])
def test_a_marker_that_cannot_be_read_is_no_reason(temporary: Path, content: str) -> None:
    guard = StartGuard("a", ENTRY)
    left(guard, here(), here()).write_text(content, encoding="latin-1")

    assert not guard.ended_start()


def test_where_nothing_can_be_written_a_worker_starts_unguarded(
    home: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = export_toy(home, more=SERVES)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("a read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)

    assert started(one).computing["runtime"] == Export.open(one.export_dir).runtimes["serve"][0]["runtime"]
