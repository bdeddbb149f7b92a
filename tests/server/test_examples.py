"""The files in examples/ are short, and each one works."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from marina.client import Client
from marina.core import paths, spec
from marina.packaging import archive
from marina.packaging.handler_package import load_predictor
from training.train import train

EXAMPLES = paths.SOURCE / "examples"
FILES = sorted(file.name for file in EXAMPLES.glob("*.py"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy without what somebody may have generated there, as the project that is worked in."""
    generated = shutil.ignore_patterns("exports", "cache", "run", "model_store", "__pycache__")
    folder = Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=generated))
    monkeypatch.setenv("MARINA_HOME", str(folder))
    return folder


@pytest.mark.parametrize("file", FILES)
def test_an_example_is_short(file: str) -> None:
    assert len((EXAMPLES / file).read_text().splitlines()) < 40


def test_the_readme_names_every_example_and_spec() -> None:
    named = set(re.findall(r"`([\w/]+\.(?:py|yaml))`", (EXAMPLES / "README.md").read_text()))

    assert named == {*FILES, *(f"models/{file.name}" for file in (EXAMPLES / "models").glob("*.yaml"))}


@pytest.mark.parametrize(
    ("model", "changes", "metric"),
    [
        ("linear", {}, "accuracy"),
        ("residual", {"training.epochs": 3, "floor.accuracy": 0.5}, "accuracy"),
        pytest.param("river", {"floor.mean_return": 0.3}, "mean_return", marks=pytest.mark.slow),
    ],
)
def test_an_example_is_trained_and_archived(
    project: Path, model: str, changes: dict[str, Any], metric: str
) -> None:
    """The networks and policies with a smaller budget than their specs have."""
    one = spec.load(model, {**changes, "export.runtimes": []})

    folder = train(one)

    assert json.loads((folder / "model_metadata.json").read_text())["metrics"][metric] >= one.floor[metric]
    assert archive.build(one).path == project / "model_store" / f"{model}-1.0.mar"


def test_the_handler_answers_from_its_archive(project: Path, tmp_path: Path) -> None:
    """As a worker loads it; the request decides how sure is sure."""
    one = spec.load("linear", {"export.runtimes": []})
    train(one)
    with zipfile.ZipFile(archive.build(one).path) as packed:
        packed.extractall(tmp_path / "archive")
    predictor = load_predictor(tmp_path / "archive")
    predictor.load(tmp_path / "archive")
    image = next((tmp_path / "archive" / "samples").glob("*.png")).read_bytes()

    answers = predictor.answer_rows([({"body": image}, {"sure_from": share}) for share in ("0", "1", "2")])

    assert [answer.get("sure") for answer in answers[:2]] == [True, False]
    assert "sure_from" in str(answers[2])


def test_the_client_plays_an_episode(client: Client) -> None:
    variables = {
        "MARINA_PORT_BASE": client.inference.rpartition(":")[2],
        "MARINA_HOME": str(paths.find_home()),
    }
    command = [sys.executable, EXAMPLES / "client.py"]

    played, refused = (
        subprocess.run(
            [*command, model, "CartPole-v1"],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **variables},
        )
        for model in ("cartpole", "absent")
    )

    assert played.stdout == "return 500\n"
    assert refused.returncode == 1
    assert "absent gave no answer" in refused.stderr
