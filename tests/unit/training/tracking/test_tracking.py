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
from tests.support.table_models import as_csv
from training.recipes import regressor, reinforce
from training.runs.run import Run
from training.tracking import session, tracker, wandb_tracker
from training.tracking.background import Background
from training.tracking.tracker import Status, TrackedModel, Tracker
from training.train import train

TRAINING = {
    "recipe": "regressor",
    "target": "y",
    "columns": {"x": "number"},
    "hidden": [4],
    "epochs": 3,
    "learning_rate": 0.05,
    "compare": False,
}


class Recorded:
    """A tracker that keeps what it is told; `fails` names the method that raises."""

    key, title, place = "recorded", "Recorded", "here"

    def __init__(self, fails: str = "") -> None:
        self.fails, self.told = fails, list[tuple[Any, ...]]()

    def check(self) -> None:
        pass

    def start(self, model: TrackedModel, run_id: str | None) -> str:
        self._tell("start", model.name, run_id)
        return run_id or "new"

    def log_parameters(self, parameters: Any) -> None:
        self._tell("log_parameters", parameters["recipe"], parameters["epochs"])

    def log_facts(self, facts: Any) -> None:
        self._tell("log_facts", facts["fingerprint"][:4])

    def log_metrics(self, metrics: Any, step: int | None) -> None:
        self._tell("log_metrics", sorted(metrics), step)

    def log_report(self, files: Any) -> None:
        self._tell("log_report", sorted(files), all(file.is_file() for file in files.values()))

    def log_archive(self, model: TrackedModel, archive: Path, sha256: str) -> None:
        self._tell("log_archive", archive.name)

    def end(self, status: Status) -> None:
        self._tell("end", status)

    def register_release(self, model: TrackedModel, sha256: str) -> str:
        self._tell("register_release", model.version)
        return "registered"

    def _tell(self, name: str, *about: Any) -> None:
        if name == self.fails:
            raise ConnectionError("the server is gone\nand more")
        self.told.append((name, *about))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [about for told, *about in self.told if told == name]  # type: ignore[misc]


@pytest.fixture
def model(home: Path) -> spec.Spec:
    """A regressor of two columns, in a project of its own."""
    rows = [{"x": k % 17, "y": 3 * (k % 17) + 1} for k in range(120)]
    (home / "rows.csv").write_text(as_csv(*rows), encoding="utf-8")
    return write(home)


def write(home: Path, floor: float = -100.0, **changes: Any) -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    training = {**TRAINING, "data": str(home / "rows.csv"), **changes}
    text = f"# A toy.\nkind: regressor\ntraining: {json.dumps(training)}\nexport: {{runtimes: []}}\n"
    (home / "models" / "toy.yaml").write_text(f"{text}floor: {{r2: {floor}}}\n", encoding="utf-8")
    return spec.load("toy", home=home)


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
    """The lower floor's training goes on in the same run, where no epoch is sent twice."""
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
        CallError, match=r"Recorded at here can't begin a run: the server is gone; .*marina.yaml"
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


@pytest.mark.slow
def test_mlflow_has_runs_and_the_released_version(
    monkeypatch: pytest.MonkeyPatch, home: Path, model: spec.Spec
) -> None:
    """Two versions of a model, released one after the other, and back."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (home / FILE).write_text("tracking: {mlflow: {}}\n", encoding="utf-8")
    newer = spec.load("toy", {"version": "1.1", "training.epochs": 2}, home=home)
    said: list[str] = []
    for each in (model, newer):
        train(each)
        steps.pack(each, Output(as_json=True))
    from mlflow import MlflowClient  # its import takes seconds

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")

    def released() -> str:
        return client.get_model_version_by_alias("toy", "production").tags["marina.version"]

    ids = json.loads((model.export_dir / "report" / "tracking.json").read_text())
    run = client.get_run(ids["mlflow"])
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "3"
    assert run.data.tags["marina.version"] == "1.0"
    assert [one.step for one in client.get_metric_history(ids["mlflow"], "validation_loss")] == [1, 2, 3]
    assert run.data.metrics["r2"] == pytest.approx(steps.export_metrics(model)["r2"])
    assert {one.path for one in client.list_artifacts(ids["mlflow"], "report")} >= {"report/spec.yaml"}
    (archive,) = client.list_artifacts(ids["mlflow"], "archive")
    assert archive.file_size == model.archive_path.stat().st_size
    versions = []
    for each in (model, newer, model):
        session.register_release(each, said.append)
        versions.append(released())
    assert versions == ["1.0", "1.1", "1.0"]
    assert said[1] == "MLflow: toy 1.1 is version 2 there, with the alias production"
    assert len(client.search_model_versions("name = 'toy'")) == 2


def test_an_archive_of_no_run_is_released_and_not_registered(
    home: Path, model: spec.Spec, caplog: pytest.LogCaptureFixture
) -> None:
    train(model)
    steps.pack(model, Output(as_json=True))
    (home / FILE).write_text("tracking: {mlflow: {}}\n", encoding="utf-8")

    with caplog.at_level(logging.WARNING):
        session.register_release(model, str)

    assert "toy 1.0 was not registered: no run of the experiment 'toy' has logged" in caplog.text


@pytest.fixture
def wandb_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """Without a key, and with wandb's own folders in the project."""
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home / "own"))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return home


def test_wandb_keeps_a_run_offline(wandb_home: Path, model: spec.Spec) -> None:
    """Epochs, parameters, report and archive are in the file that `wandb sync` sends."""
    (wandb_home / FILE).write_text("tracking: {wandb: {mode: offline, project: toys}}\n", encoding="utf-8")

    folder = train(model)
    steps.pack(model, Output(as_json=True))

    ids = json.loads((folder / "report" / "tracking.json").read_text())
    runs = sorted((wandb_home / "wandb").glob(f"offline-run-*-{ids['wandb']}"))
    content = b"".join((run / f"run-{ids['wandb']}.wandb").read_bytes() for run in runs)
    assert len(runs) == 2
    for word in (b"toys", b"toy 1.0", b"validation_loss", b"learning_rate", b"fingerprint", b"toy-1.0.mar"):
        assert word in content, word
    assert list(runs[0].glob("files/media/images/report/*.png"))
    said: list[str] = []
    session.register_release(model, said.append)
    assert not said


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "there is no key"),
        pytest.param("a" * 40, "authenticate", marks=pytest.mark.slow),
    ],
)
def test_wandb_without_a_server_or_a_key_is_an_error(
    monkeypatch: pytest.MonkeyPatch, wandb_home: Path, model: spec.Spec, key: str, words: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_tracker, "INIT_SECONDS", 1.0)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    (wandb_home / FILE).write_text("tracking: {wandb: {}}\n", encoding="utf-8")

    with pytest.raises(
        CallError, match=f"Weights & Biases at http://127.0.0.1:9 can't begin a run: .*{words}"
    ):
        train(model)
