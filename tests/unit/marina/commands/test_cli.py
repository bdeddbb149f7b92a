"""The command line: exit codes, one JSON object at the end of stdout, errors that say what to do."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from marina import __version__, cli
from marina.core.spec import Spec


def marina(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "marina", *words], check=False, capture_output=True, text=True, timeout=120
    )


COMMANDS = ["up", "train", "archive", "serve", "stop", "ready", "register", "unregister"]
COMMANDS += ["list", "predict", "evaluate", "play", "loadtest", "token"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there_and_explains_itself(command: str) -> None:
    found = typer.main.get_command(cli.app).commands[command]  # type: ignore[attr-defined]

    assert len(found.help) > 30
    assert [parameter.name for parameter in found.params if not parameter.help] == []


def test_history_shows_a_release_without_measured_agreement(home: Path) -> None:
    """`agreement` is null if the two versions accept no common request."""
    (home / "releases").mkdir()
    entry = {"time": "2026-01-01T00:00:00+00:00", "action": "release", "version": "1.1", "checksum": "abc"}
    entry |= {"port": 8080, "replaced": "1.0", "comparison": {"agreement": None}}
    (home / "releases" / "balance.yaml").write_text(json.dumps([entry]))

    done = marina("history", "balance", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["history"][0]["comparison"] == {"agreement": None}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nothing"], 2, "No such command"),
        (["train", "nothing"], 2, "known models: "),
        (["train", "balance", "--set", "epochs"], 2, "is no KEY=VALUE"),
        (["train", "balance", "--set", "training.epohcs=3"], 2, "unknown key 'epohcs'"),
        (["archive", "balance"], 2, "run: marina train balance"),
        (["archive"], 2, "no model has an export yet"),
        (["list", "--port-base", "1999"], 1, "marina serve --port-base 1999"),
        (["serve", "--port-base", "80"], 2, "choose a number from 1024"),
        (["predict", "balance", "gone.png"], 2, "no file gone.png"),
        (["token", "metrics"], 2, "choose inference or management"),
        (["evaluate", "balance"], 2, "run: marina train balance"),
    ],
)
def test_a_wrong_call_ends_with_its_code_and_a_line_that_says_what_to_do(
    home: Path, words: list[str], code: int, told: str
) -> None:
    text = "# Balances.\nkind: policy\ntraining: {recipe: dqn}\nfloor: {mean_return: 1}\n"
    (home / "models" / "balance.yaml").write_text(text)

    done = marina(*words)

    assert done.returncode == code, done.stderr
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_json_is_the_last_line_of_stdout_and_the_rest_is_stderr(
    exported: Callable[..., Spec],
) -> None:
    """JSON is the last line of stdout, and everything else goes to stderr."""
    exported()

    done = marina("archive", "--json")

    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["archives"]) == ["balance"]
    assert "balance-1.0.mar" in done.stderr


def test_a_failure_is_a_json_object_too(home: Path) -> None:
    done = marina("archive", "nothing", "--json")

    assert done.returncode == 2
    assert json.loads(done.stdout)["ok"] is False


def test_stopping_where_nothing_runs_is_no_error(home: Path) -> None:
    done = marina("stop", "--port-base", "1999", "--json")

    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "stopped": False})


def test_the_version_of_the_package_is_that_of_the_project() -> None:
    import tomllib

    from marina.core import paths

    project = tomllib.loads((paths.SOURCE / "pyproject.toml").read_text())["project"]

    assert project["version"] == __version__
