"""MLflow with a file and Weights & Biases offline: what a training, an archive and a release leave there."""

import json
import logging
from pathlib import Path

import pytest

from marina.core import spec
from marina.core.configuration import FILE
from marina.core.console import Output
from marina.core.errors import CallError
from marina.pipeline import steps
from tests.support.tracked_models import write, write_rows
from training.tracking import session, wandb_tracker
from training.train import train


@pytest.fixture
def model(home: Path) -> spec.Spec:
    """A regressor of two columns, in a project of its own."""
    write_rows(home)
    return write(home)


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
        CallError, match=f"Weights & Biases at http://127.0.0.1:9 can't start a run: .*{words}"
    ):
        train(model)
