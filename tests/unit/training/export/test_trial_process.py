"""A candidate that crashes, hangs or exhausts memory is rejected with the reason; the export continues."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import failing_runtimes
from tests.support.color_classifier import export_inputs, started, table
from tests.support.failing_runtimes import builder
from tests.support.repository import ROOT
from tests.support.toy_exports import export_toy
from tests.support.toy_policies import balance
from training.export.runtimes import choosing, trial_process
from training.export.runtimes.candidates import Builder, Rejected, one_line
from training.export.runtimes.trial_process import TrialCrashed, TrialProcess, shared_trial_process

BOTH = "export: {runtimes: [openvino, onnxruntime], precisions: [fp32]}\nserving: {batch_size: 4}\n"
ONE = "export: {runtimes: [openvino], precisions: [fp32]}\nserving: {batch_size: 4}\n"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a builder in the place of OpenVINO's."""

    def plant(planted: Builder) -> None:
        monkeypatch.setattr(choosing, "BUILDERS", {**choosing.BUILDERS, "openvino": planted})

    return plant


@pytest.fixture
def closed_afterwards() -> Iterator[None]:
    """The process takes another class for OpenVINO's afterwards, so it is closed."""
    yield
    shared_trial_process().close()


@pytest.fixture
def trials() -> Iterator[TrialProcess]:
    """A process of the test's own."""
    process = TrialProcess()
    yield process
    process.close()


@pytest.mark.parametrize(
    ("build", "verdict"),
    [
        ("abort", "crashed (signal 6)"),
        ("leave", "crashed (exit status 7)"),
        ("hoard", "needed more than 1.5 GB"),
        ("refuse", "there is nothing to build it with"),
        ("fail", "KeyError: 'aten.unheard_of\\nand more'"),
    ],
)
def test_a_builder_that_fails_is_refused_and_others_serve(
    home: Path, planted: Any, monkeypatch: pytest.MonkeyPatch, build: str, verdict: str
) -> None:
    monkeypatch.setattr(trial_process, "MEMORY_GB", 1.5)
    planted(builder(getattr(failing_runtimes, build)))

    rows = table(one := export_toy(home, more=BOTH))

    assert rows["openvino", "fp32"]["refused"] == verdict
    assert rows["onnxruntime", "fp32"]["refused"] == ""
    assert started(one).computing["runtime"] == "onnxruntime"


def test_a_builder_that_hangs_is_refused(home: Path, planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_process, "BUILD_SECONDS", 2)
    planted(builder(failing_runtimes.hang))

    rows = table(one := export_toy(home, more=ONE))

    assert rows["openvino", "fp32"]["refused"] == "took longer than 2 s"
    assert started(one).computing["runtime"] == "torch"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "ValueError: no reason given"),
        ("why\nwhere", "ValueError: why"),
        (
            "Exception from core.cpp:117:\nException from plugin.cpp:9:\nno such shape\n\n",
            "ValueError: no such shape",
        ),
    ],
)
def test_an_error_is_told_in_one_line(text: str, line: str) -> None:
    assert one_line(ValueError(text)) == line


def test_a_crash_while_it_computes_is_a_verdict(home: Path, planted: Any, closed_afterwards: None) -> None:
    planted(builder(failing_runtimes.deadly))

    rows = table(one := export_toy(home, more=ONE))

    assert rows["openvino", "fp32"]["refused"] == "crashed (signal 11)"
    assert started(one).computing["runtime"] == "torch"
    assert not list(one.export_dir.parent.glob(".*"))


def test_an_option_that_crashes_leaves_the_form_without(
    home: Path, planted: Any, closed_afterwards: None, caplog: pytest.LogCaptureFixture
) -> None:
    planted(builder(failing_runtimes.doubtful, {"deadly": 1}))

    with caplog.at_level(logging.WARNING):
        row = table(export_toy(home, more=ONE))["openvino", "fp32"]

    assert row["refused"] == ""
    assert row["milliseconds"] > 0
    assert "openvino fp32 does without deadly, which crashed (signal 11)" in caplog.text


def test_one_process_serves_the_exports_that_follow(home: Path) -> None:
    export_toy(home, more=ONE)
    before = shared_trial_process().starts

    export_toy(home, "other", more=ONE)

    assert shared_trial_process().starts == before


def test_a_runtime_is_loaded_again_where_another_crashed(home: Path, trials: TrialProcess) -> None:
    one = export_toy(home, more="export: {runtimes: []}\n")
    built_from, making = export_inputs(one, balance()), one.export_dir
    trials.open(built_from, making / "model.pt2")
    entry = trials.build(choosing.BUILDERS["openvino"].build, built_from, "fp32", making)
    runtime = trial_process.RemoteRuntime(trials, making, entry)
    inputs = built_from.rows(3)[0].numpy()
    expected = runtime(inputs)["action"]

    with pytest.raises(TrialCrashed, match=r"crashed \(signal 6\)"):
        trials.build(failing_runtimes.abort, built_from, "fp32", making)

    assert (
        runtime(inputs)["action"].tolist()
        == expected.tolist()
        == built_from.trained.module(built_from.rows(3)[0])["action"].tolist()
    )
    assert trials.starts == 2


def test_a_process_starts_with_default_signal_handlers(home: Path, trials: TrialProcess) -> None:
    one = export_toy(home, more="export: {runtimes: []}\n")
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job in the background
    try:
        trials.open(export_inputs(one, balance()), one.export_dir / "model.pt2")
        found = trials.build(failing_runtimes.handlers, export_inputs(one, balance()), "fp32", one.export_dir)
    finally:
        signal.signal(signal.SIGINT, previous)

    assert found == {"SIGINT": True, "SIGTERM": True, "SIGHUP": True}


def test_what_is_refused_leaves_the_process_as_it_is(home: Path, trials: TrialProcess) -> None:
    one = export_toy(home, more="export: {runtimes: []}\n")
    trials.open(export_inputs(one, balance()), one.export_dir / "model.pt2")

    for _ in range(2):
        with pytest.raises(Rejected, match="nothing to build it with"):
            trials.build(failing_runtimes.refuse, export_inputs(one, balance()), "fp32", one.export_dir)

    assert trials.starts == 1


WAITING = """
import time
from training.export.runtimes.trial_process import shared_trial_process

class Sleep:
    def __reduce__(self):  # the process sleeps while it reads the message
        return time.sleep, (3600,)

shared_trial_process().start()
print(shared_trial_process().process.pid, flush=True)
shared_trial_process().request(600, "compute", Sleep())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_dies_with_the_process_that_started_it(number: signal.Signals) -> None:
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + WAITING
    command = [sys.executable, "-W", "ignore", "-c", script]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(2)
        parent.send_signal(number)
        assert parent.wait(10) == -number
    _, alive = psutil.wait_procs([child], timeout=10)

    assert not alive
