"""`kill -9` at each step of a release or a rollback: the server answers, and the next command settles it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from marina import cli, engines
from marina.client import Client
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import CallError
from marina.engines import server_process as server
from marina.packaging import archive
from marina.pipeline import steps as up
from marina.release import history
from marina.release import rollout as release
from tests.support.homes import project_home
from tests.support.toy_exports import export_toy

pytestmark = pytest.mark.slow

GOOD = {"observation": [0.0, 0.0, 0.1, 0.2]}
KILLED = """
import os, signal, sys
from marina.client import Client
from marina.release import history, rollout
action, step, place, port = sys.argv[1:]
owners = {"set_default": Client, "append": history}
owner, name = owners.get(step, rollout), step
real = getattr(owner, name)
def dying(*arguments, **options):
    if place == "after":
        real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, dying)
with Client(int(port)) as client:
    if action == "release":
        rollout.release(client, "balance", "1.1", 0.0, False, print)
    else:
        rollout.rollback(client, "balance", print)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of balance 1.0; 1.1 and 1.2 lie in the store."""
    with project_home(tmp_path_factory) as home:
        for version in ("1.2", "1.1", "1.0"):
            one = export_toy(home, more="service_level: {p95_ms: 60000}\n", version=version)
            archive.build(one)
        port, engine = server.free_port_base(), engines.get("standalone")
        with up.serving([one], port, Output(as_json=True), engine) as ready:
            yield ready


@pytest.fixture
def client(served: Client) -> Client:
    """The server with 1.0 alone, and no history."""
    served.set_default("balance", "1.0")
    for version in served.versions("balance"):
        if version != "1.0":
            served.unregister("balance", version)
    for file in paths.releases().glob(".*.yaml") if paths.releases().is_dir() else ():
        file.unlink()
    (paths.releases() / "balance.yaml").unlink(missing_ok=True)
    return served


def port_of(client: Client) -> str:
    return client.inference.rsplit(":", 1)[1]


def kill(client: Client, action: str, step: str, place: str) -> None:
    command = [sys.executable, "-c", KILLED, action, step, place, port_of(client)]
    environment = {**os.environ, "PYTHONPATH": str(paths.SOURCE)}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


def answers(client: Client) -> bool:
    return bool(client.predict("balance", GOOD)["action"] == 1)


def actions() -> list[tuple[str, str, str | None]]:
    return [(entry.action, entry.version, entry.replaced) for entry in history.read("balance")]


def marina(*words: str) -> str:
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


BEFORE_SWITCH = [
    ("_register", "before"),
    ("_register", "after"),
    ("_verify", "after"),
    ("compare", "after"),
    ("set_default", "before"),
]
AFTER_SWITCH = [("set_default", "after"), ("append", "before")]


@pytest.mark.parametrize(("step", "place"), BEFORE_SWITCH)
def test_a_release_killed_before_the_switch_is_taken_back(step: str, place: str, client: Client) -> None:
    kill(client, "release", step, place)

    assert (release.default_version(client, "balance"), answers(client)) == ("1.0", True)
    assert actions() == []
    assert "balance: the release of 1.1 was killed; finish it with: marina release" in marina(
        "list", "--port-base", port_of(client)
    )

    assert release.rollback(client, "balance", print).action == "refused"
    assert (release.default_version(client, "balance"), client.versions("balance")) == ("1.0", ["1.0"])
    assert actions() == [("refused", "1.1", "1.0")]
    assert "was killed" not in marina("list", "--port-base", port_of(client))


@pytest.mark.parametrize(("step", "place"), AFTER_SWITCH)
def test_a_release_killed_after_the_switch_is_recorded(step: str, place: str, client: Client) -> None:
    kill(client, "release", step, place)

    assert (release.default_version(client, "balance"), answers(client)) == ("1.1", True)
    assert "the release of 1.1 was killed" in marina("history", "balance")

    assert release.rollback(client, "balance", print).version == "1.0"
    assert (release.default_version(client, "balance"), answers(client)) == ("1.0", True)
    assert actions() == [("release", "1.1", "1.0"), ("rollback", "1.0", "1.1")]


def test_the_same_command_finishes_a_killed_release(client: Client) -> None:
    """Before the switch it begins again, after it it records and drains; then there is nothing to do."""
    said: list[str] = []

    def go() -> history.Entry:
        return release.release(client, "balance", "1.1", 0.0, keep_older=False, say=said.append)

    kill(client, "release", "_verify", "before")
    assert go().action == "release"
    assert "balance: the release of 1.1 did not end, and 1.0 is still the default: taken back" in said

    release.rollback(client, "balance", print)
    kill(client, "release", "append", "before")
    assert (go().version, release.default_version(client, "balance")) == ("1.1", "1.1")
    assert "balance: the release of 1.1 did not end, but it is the default: recorded" in said
    with pytest.raises(CallError, match="nothing to release"):
        go()


@pytest.mark.parametrize(("step", "place"), [("_verify", "after"), *AFTER_SWITCH])
def test_the_same_command_finishes_a_killed_rollback(step: str, place: str, client: Client) -> None:
    release.release(client, "balance", "1.1", 0.0, keep_older=False, say=print)
    kill(client, "rollback", step, place)
    assert answers(client)

    assert release.rollback(client, "balance", print).version == "1.0"
    assert release.default_version(client, "balance") == "1.0"
    assert actions()[-1] == ("rollback", "1.0", "1.1")


def test_another_release_takes_a_killed_one_back_first(client: Client) -> None:
    kill(client, "release", "compare", "after")

    release.release(client, "balance", "1.2", 0.0, keep_older=False, say=print)

    assert sorted(client.versions("balance")) == ["1.0", "1.2"]
    assert actions() == [("refused", "1.1", "1.0"), ("release", "1.2", "1.0")]


def test_records_that_are_none_are_refused_by_name(home: Path) -> None:
    (home / "releases").mkdir()
    (home / "releases" / ".balance.8080.yaml").write_text("- {time: 3}\n")

    with pytest.raises(CallError, match=r"\.balance\.8080\.yaml is no record of a release"):
        history.unfinished("balance", 8080)
