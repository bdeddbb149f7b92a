"""Trackers of experiments: what a training, an archive and a release leave there; what their faults cost."""

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from marina.core import spec
from marina.core.configuration import FILE
from marina.core.console import Output
from marina.core.errors import BelowFloor, CallError
from marina.pipeline import steps
from tests.support.tracked_models import Recorded, write, write_rows
from training.recipes import regressor, reinforce
from training.runs.run import Run
from training.tracking import session, tracker
from training.tracking.background import Background
from training.tracking.tracker import Tracker
from training.train import train


@pytest.fixture
def model(home: Path) -> spec.Spec:
    """A regressor of two columns, in a project of its own."""
    write_rows(home)
    return write(home)


def tracked_by(monkeypatch: pytest.MonkeyPatch, *trackers: Tracker) -> None:
    monkeypatch.setattr(session, "trackers", lambda _home: list(trackers))


def test_a_training_is_told_from_its_settings_to_its_end(
    monkeypatch: pytest.MonkeyPatch, model: spec.Spec
) -> None:
    there = Recorded()
    tracked_by(monkeypatch, there)

    folder = train(model)
    steps.pack(model, Output(as_json=True))
    steps.pack(model, Output(as_json=True))  # unchanged: it is there

    names = [told[0] for told in there.told]
    assert names[:2] == ["start", "log_parameters"]
    assert names[5:] == ["log_facts", "log_metrics", "log_report", "end", "start", "log_archive", "end"]
    assert there.of("log_parameters") == [["regressor", 3]]
    rows = there.of("log_metrics")
    assert [step for _, step in rows] == [1, 2, 3, None]
    assert {"loss", "validation_loss"} <= set(rows[0][0])
    assert {"r2", "mae"} <= set(rows[-1][0])
    ((files, all_there),) = there.of("log_report")
    assert all_there
    assert {"history.json", "spec.yaml", "tracking.json"} <= set(files)
    assert not any(name.startswith("tensorboard") for name in files)
    assert there.of("start") == [["toy", None], ["toy", "new"]]
    assert there.of("end") == [["FINISHED"], ["FINISHED"]]
    assert json.loads((folder / "report" / "tracking.json").read_text()) == {"recorded": "new"}


def test_a_model_below_its_floor_is_tracked_and_its_run_resumed(
    monkeypatch: pytest.MonkeyPatch, home: Path, model: spec.Spec
) -> None:
    """The lower floor's training continues in the same run, where no epoch is sent twice."""
    first, second = Recorded(), Recorded()
    tracked_by(monkeypatch, first)
    with pytest.raises(BelowFloor):
        train(write(home, floor=2.0))
    tracked_by(monkeypatch, second)
    train(write(home))

    assert first.of("end") == [["FAILED"]]
    assert first.of("log_report")[0][1]
    assert second.of("start") == [["toy", "new"]]
    assert [step for _, step in second.of("log_metrics")] == [None]


@pytest.mark.parametrize("method", ["log_metrics", "end"])
def test_a_tracker_that_fails_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, model: spec.Spec, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    there, sound = Recorded(fails=method), Recorded()
    tracked_by(monkeypatch, there, sound)

    with caplog.at_level(logging.WARNING):
        train(model)

    assert model.is_exported
    reason = "the server is gone; what came after that is not tracked"
    assert [text for text in caplog.messages if "server" in text] == [f"Recorded: {reason}"]
    assert not there.of("end")
    assert sound.of("end") == [["FINISHED"]]


def test_an_archive_is_built_where_it_can_not_be_logged(
    monkeypatch: pytest.MonkeyPatch, model: spec.Spec, caplog: pytest.LogCaptureFixture
) -> None:
    tracked_by(monkeypatch, Recorded(fails="log_archive"))
    train(model)

    with caplog.at_level(logging.WARNING):
        steps.pack(model, Output(as_json=True))

    assert model.archive_path.is_file()
    (warning,) = caplog.messages
    assert "Recorded: the archive of toy 1.0: the server is gone" in warning


def test_one_that_can_not_begin_is_an_error_before_learning(
    monkeypatch: pytest.MonkeyPatch, model: spec.Spec
) -> None:
    tracked_by(monkeypatch, Recorded(fails="start"))
    monkeypatch.setattr("training.recipes.regressor.train", None)

    with pytest.raises(
        CallError, match=r"Recorded at here can't start a run: the server is gone; .*marina.yaml"
    ):
        train(model)


def test_a_tracker_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    held, made = threading.Event(), list[str]()
    background = Background("Slow")
    background.add(held.wait)
    background.add(lambda: made.append("late"))
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        background.finish(0.2)
        background.finish(60)
    held.set()
    background.submit(lambda: None).result(10)

    assert time.monotonic() - started < 10
    assert caplog.messages == ["Slow: it took longer than 0 s; what came after that is not tracked"]
    assert not made


def test_ctrl_c_ends_a_run_as_killed(monkeypatch: pytest.MonkeyPatch, model: spec.Spec) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    there = Recorded()
    tracked_by(monkeypatch, there)
    monkeypatch.setattr("training.recipes.regressor.train", interrupted)

    with pytest.raises(KeyboardInterrupt):
        train(model)

    assert there.of("end") == [["KILLED"]]


def test_a_policy_is_tracked_by_its_timesteps(tmp_path: Path) -> None:
    rows: list[tuple[int, dict[str, float]]] = []
    settings = reinforce.Settings(
        total_timesteps=4000, eval_freq=1000, n_eval_episodes=2, evaluation_episodes=2, target_return=500
    )

    reinforce.train(settings, Run(tmp_path, log_metrics=lambda row, step: rows.append((step, {**row}))))

    assert [step for step, _ in rows] == sorted({step for step, _ in rows})
    assert len(rows) >= 2
    assert rows[-1][0] >= 4000
    assert all(row.keys() == {"evaluation_return", "loss", "exploration"} for _, row in rows)


def test_epochs_of_folds_are_not_tracked(model: spec.Spec, tmp_path: Path) -> None:
    """They are fits beside the one that is exported."""
    steps_logged: list[int] = []
    settings = regressor.Settings.model_validate({**model.training.settings, "folds": 2, "coverage": None})

    regressor.train(settings, Run(tmp_path, log_metrics=lambda _row, step: steps_logged.append(step)))

    assert steps_logged == [1, 2, 3]


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, home: Path, model: spec.Spec
) -> None:
    monkeypatch.setattr(tracker, "find_spec", lambda _: None)
    for name in ("mlflow", "wandb"):
        (home / FILE).write_text(f"tracking: {{{name}: }}\n", encoding="utf-8")

        with pytest.raises(CallError, match=rf"pip install 'marina\[{name}\]', or take the key out"):
            train(model)
