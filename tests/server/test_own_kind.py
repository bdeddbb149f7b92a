"""A kind from outside the repository works with every command, without a change to Marina."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from marina.engines import server_process
from tests.support.repository import ROOT

SLOWER = pytest.param("torchserve", marks=pytest.mark.slow)
pytestmark = pytest.mark.parametrize("engine", ["standalone", SLOWER], indirect=True)

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, default_engine: str) -> Path:
    """A project folder of its own, outside the repository."""
    folder = tmp_path_factory.mktemp("project") / "counting"
    shutil.copytree(ROOT / "tests" / "support" / "own_project", folder)
    (folder / "numbers.json").write_text('{"numbers": [1, 2, 3, 4]}', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def marina(project: Path) -> Run:
    """Runs a command in the project and gives the object that it prints last."""
    environment = {name: value for name, value in os.environ.items() if name != "MARINA_HOME"}

    def run(*words: str, code: int = 0) -> dict[str, Any]:
        command = [sys.executable, "-m", "marina", *words, "--json"]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == code, done.stderr[-3000:]
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    return run


@pytest.fixture(scope="module")
def port(marina: Run, project: Path) -> Iterator[str]:
    """A server of the project with its first version registered."""
    marina("train", "marbles")
    marina("archive", "marbles")
    base = str(server_process.free_port_base())
    marina("serve", "--background", "--port-base", base)
    try:
        marina("register", "marbles", "--port-base", base)
        yield base
    finally:
        marina("stop", "--port-base", base)


def test_own_kind_is_served_with_its_own_answers(marina: Run, port: str) -> None:
    """It trains to its floor, is ready, and answers, explains and measures by its own code."""
    ready = marina("ready", "marbles", "--port-base", port)
    answer = marina("predict", "marbles", "numbers.json", "--port-base", port)
    explained = marina("explain", "marbles", "numbers.json", "--port-base", port)
    measured = marina("evaluate", "marbles", "--port-base", port)

    assert ready["ok"]
    assert answer["sum"] == pytest.approx(10, abs=0.1)
    assert explained["contributions"] == pytest.approx([1, 2, 3, 4], abs=0.1)
    assert measured["endpoint"]["mean_absolute_error"] < 0.05
    assert measured["endpoint"] == pytest.approx(measured["in_process"], abs=1e-4)


def test_own_kind_refuses_what_is_wrong(marina: Run, port: str, project: Path) -> None:
    """A bad request gets the predictor's words; what the kind can't do is said in one line."""
    (project / "wrong.json").write_text('{"numbers": [1, 2]}', encoding="utf-8")

    wrong = marina("predict", "marbles", "wrong.json", "--port-base", port, code=1)
    drawn = marina("predict", "marbles", "numbers.json", "--draw", "x.png", "--port-base", port, code=2)
    played = marina("play", "marbles", "--port-base", port, code=2)

    assert "numbers must be a nested list of shape [4]" in wrong["error"]
    assert "only answers about pictures can be drawn" in drawn["error"]
    assert "only policies play" in played["error"]


def test_own_kind_is_described_and_load_tested(marina: Run, port: str) -> None:
    """The other commands take it up by themselves."""
    document = marina("openapi", "marbles")
    figures = marina("loadtest", "marbles", "--users", "2", "--seconds", "2", "--port-base", port)
    report = marina("report", "marbles")

    schema = json.dumps(document["components"])
    assert "the numbers to add up" in schema
    assert figures["failures"] == 0
    assert figures["requests"] > 0
    assert report["ok"]


def test_own_kind_is_released(marina: Run, port: str, project: Path) -> None:
    """A second version is compared by the kind's own rule, released and rolled back."""
    spec = project / "models" / "marbles.yaml"
    spec.write_text(spec.read_text().replace('"1.0"', '"1.1"').replace("count.py", "count.py, seed: 1"))
    marina("train", "marbles")
    marina("archive", "marbles")

    released = marina("release", "marbles", "--version", "1.1", "--port-base", port)
    back = marina("rollback", "marbles", "--port-base", port)

    assert released["comparison"]["agreement"] == 1.0
    assert (released["version"], released["replaced"], back["version"]) == ("1.1", "1.0", "1.0")
