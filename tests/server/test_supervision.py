"""`marina serve` restarts its server, cleans up whatever is killed, and allows one server per port."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from marina import engines
from marina.client import Client
from marina.core import paths, processes
from marina.core.console import Output
from marina.core.errors import ServerError
from marina.core.spec import Spec
from marina.engines import server_process as server
from marina.engines import supervisor
from marina.engines.registered import Registered
from marina.engines.torchserve import snapshots
from marina.packaging import archive
from tests.support.engines import EACH_ENGINE

pytestmark = pytest.mark.slow

OUTPUT = Output(as_json=True)
SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]


def wait_until(condition: Callable[[], Any], seconds: float) -> Any:
    """What `condition` gives once it is true; fails when the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


def marina(*words: str, port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "marina", *words, "--port-base", str(port)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)


def serving(port: int, after: int = 0) -> server.State | None:
    """The server at `port` once all its models are ready, if it is another than process `after`."""
    state = server.read_state(port)
    return state if state and state.serving and state.pid != after else None


def registered(client: Client) -> set[tuple[str, bool, int, int]]:
    """(version, is it the default, workers least, workers most) of the model "balance"."""
    default = client.describe("balance", "")[0]["modelVersion"]
    entries = client.describe("balance")
    return {
        (one["modelVersion"], one["modelVersion"] == default, one["minWorkers"], one["maxWorkers"])
        for one in entries
    }


class Started:
    """What a test starts; all of it is killed afterwards, whatever happened."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[str]] = []
        self.others: list[psutil.Process] = []

    def child(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        self.children.append(subprocess.Popen(command, text=True, **options))
        return self.children[-1]

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()
        for process in self.others:
            if process.is_running():
                process.kill()
        psutil.wait_procs(self.others, timeout=5)


def allow_two_workers(client: Client, version: str) -> None:
    headers = {"Authorization": f"Bearer {client.token('management')}"}
    query = {"min_worker": 1, "max_worker": 2, "synchronous": "true"}
    requests.put(
        f"{client.management}/models/balance/{version}", params=query, headers=headers, timeout=60
    ).raise_for_status()


def release_second_version(client: Client) -> None:
    """Version 2.0 is the default; 1.0 may have two workers."""
    client.register("balance", "2.0", "balance-2.0.mar")
    client.set_default("balance", "2.0")
    allow_two_workers(client, "1.0")


@pytest.fixture
def started() -> Iterator[Started]:
    found = Started()
    yield found
    found.end()


def kill_supervisor(state: server.State) -> None:
    """All processes end with it, also one that can't see that its socket closes."""
    family = processes.family(state.temporary)
    worker = next(process for process in family if process.pid != state.pid)
    worker.suspend()
    os.kill(state.owner, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert Path(state.temporary).exists()


def test_killed_server_is_restored_and_killed_supervisor_ends_all(
    exported: Callable[..., Spec], home: Path, started: Started, default_engine: str
) -> None:
    """A killed server comes back as it was; a killed supervisor takes all processes with it."""
    for version in ("2.0", "1.0"):
        archive.build(exported(version=version))
    port = server.free_port_base()
    try:
        assert marina("serve", "balance", "--background", port=port).returncode == 0
        first = serving(port)
        assert first
        family = [first.owner_process(), *processes.family(first.temporary)]
        started.others.extend(process for process in family if process)
        with Client(port, timeout=120) as client:
            release_second_version(client)
            before = registered(client)
            assert before == {("1.0", False, 1, 2), ("2.0", True, 1, 1)}
            second = marina("serve", port=port)
            assert second.returncode == 2
            assert f"a server of this home already runs, or is starting, at {port}" in second.stderr

            os.kill(first.pid, signal.SIGKILL)
            again = wait_until(lambda: serving(port, after=first.pid), 180)
            started.others.extend(processes.family(again.temporary))

            assert registered(client) == before
            assert client.predict("balance", {"observation": [0, 0, 1, 0]}, version="1.0")["action"] == 1
        assert not Path(first.temporary).exists()
        log = (home / "run" / str(port) / "supervisor.log").read_text()
        assert f"{engines.get(default_engine).title} was killed by SIGKILL" in log

        kill_supervisor(again)

        # a clean next start; then everything is killed at once
        assert marina("serve", "--background", port=port).returncode == 0
        assert not Path(again.temporary).exists()
        last = serving(port)
        assert last
        for process in filter(None, [last.owner_process(), *processes.family(last.temporary)]):
            process.kill()
    finally:
        stopped = marina("stop", port=port)
    assert stopped.returncode == 0
    assert not Path(last.temporary).exists()
    assert not server.was_started(port)


@EACH_ENGINE
def test_a_server_that_hangs_is_stopped_at_once_when_asked_twice(home: Path, started: Started) -> None:
    port = server.free_port_base()
    command = [sys.executable, "-m", "marina", "serve", "--port-base", str(port), "--json"]
    process = started.child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    state = wait_until(lambda: serving(port), 60)
    psutil.Process(state.pid).suspend()

    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=8)

    assert (process.returncode, json.loads(out.splitlines()[-1])["ok"]) == (0, True)
    assert state.process() is None
    assert not Path(state.temporary).exists()


def test_a_supervisor_gives_up_after_starts_that_failed_and_shows_the_log(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.free_port_base()
    broken = home / "config.properties"
    broken.write_text("inference_address=http://127.0.0.1:8080\nkeystore=$$NOT_SET_ANYWHERE$$\n")
    monkeypatch.setattr(supervisor, "TRIES", 2)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)

    with server.running_server(port) as running, Client(port) as client:
        state = server.read_state(port)
        assert state
        monkeypatch.setattr(paths, "CONFIG", broken)
        os.kill(state.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match=r"(?s)gave up after 2 starts that failed.*NOT_SET_ANYWHERE"):
            supervisor.watch(running, client, OUTPUT)

    assert not server.was_started(port)


@EACH_ENGINE
def test_a_background_start_that_fails_says_why_and_leaves_nothing(home: Path) -> None:
    port = server.free_port_base()
    failed = marina("serve", "nothing", "--background", "--json", port=port)
    (home / "models" / "balance.yaml").write_text(
        "# Balances.\nkind: policy\ntraining: {recipe: dqn}\nfloor: {mean_return: 1}\n"
    )
    missing = marina("serve", "balance", "--background", "--json", port=port)

    assert (failed.returncode, "no spec" in json.loads(failed.stdout)["error"]) == (2, True)
    assert (missing.returncode, "balance-1.0.mar" in json.loads(missing.stdout)["error"]) == (1, True)
    assert not server.was_started(port)


def test_server_processes_are_found_by_their_temporary_folder(tmp_path: Path, started: Started) -> None:
    """Only processes with the server's own temporary folder count as its family."""
    ours, theirs = tmp_path / "marina-ours", tmp_path / "marina-theirs"
    for folder in (ours, ours, theirs):
        folder.mkdir(exist_ok=True)
        started.child(SLEEP, env={**os.environ, "TMPDIR": str(folder)}, cwd=ours)

    processes.remove(str(ours))

    assert [process.poll() is None for process in started.children] == [False, False, True]
    assert (ours.exists(), theirs.exists()) == (False, True)


def test_no_folder_is_removed_that_is_no_temporary_folder_of_ours(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()

    processes.remove(str(precious))

    assert precious.exists()


def test_a_state_of_a_process_whose_id_was_reused_is_no_running_server(home: Path, started: Started) -> None:
    process = psutil.Process(started.child(SLEEP).pid)
    folder = paths.run(9999)
    folder.mkdir(parents=True)
    earlier = processes.created(process.pid) - 60
    old = server.State(9999, process.pid, earlier, "", process.pid, earlier, serving=True)
    (folder / "state.json").write_text(json.dumps(old.__dict__))

    assert server.read_state(9999) is None
    assert server.stop(9999) is False
    assert process.is_running()
    assert not server.was_started(9999)


def test_the_pauses_between_starts_double_up_to_a_minute_and_differ() -> None:
    for number, longest in ((1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (500, 60)):
        drawn = {supervisor.pause(number) for _ in range(50)}

        assert longest / 2 <= min(drawn) < max(drawn) <= longest


def test_the_newest_snapshot_that_is_whole_counts(home: Path) -> None:
    folder = paths.run(9999) / "logs" / "config"
    folder.mkdir(parents=True)
    values = (
        '"defaultVersion"\\: true, "marName"\\: "a\\u002D1.0.mar", "minWorkers"\\: 1, "maxWorkers"\\: 2, '
        '"batchSize"\\: 8, "maxBatchDelay"\\: 2, "startupTimeout"\\: 120'
    )
    said = f'{{\\n  "models"\\: {{"a"\\: {{"1.0"\\: {{{values}}}\\n}}\\n}}\\n}}'
    for number in range(8):
        (folder / f"{number}.cfg").write_text(
            f"#Saving snapshot\nmodel_snapshot={said}\n" if number < 7 else f"model_snapshot={said[:90]}"
        )
        os.utime(folder / f"{number}.cfg", (number, number))

    found = snapshots.newest(paths.run(9999))

    assert found == [Registered("a", "1.0", "a-1.0.mar", True, 1, 2, 8, 2, 120)]
    assert len(list(folder.iterdir())) == snapshots.KEPT
    assert snapshots.newest(paths.run(9998)) is None
