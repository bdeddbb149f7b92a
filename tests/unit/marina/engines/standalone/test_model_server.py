"""The server of a container: what it serves, what it says while it starts and stops, how it ends."""

import json
import logging
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.engines.standalone.logs import JsonFormatter
from marina.engines.standalone.model_server import Options, find_archives, open_port
from marina.packaging import archive
from tests.support.archived_code import AT_START, SLOW_ANSWERS, append
from tests.support.model_servers import COMMAND, model_server

Exported = Callable[..., Spec]

LEFT, SLOW = [0.0, 0.0, 0.1, 0.2], [3.0, 0.0, 0.0, 0.0]
SLOW_START = AT_START.format("import time; time.sleep(2)")


def packed(exported: Exported, version: str = "1.0", code: str = "", more: str = "") -> Path:
    """A folder with an archive, whose code may say more."""
    spec = exported(version=version, more=more)
    archive.build(spec)
    if code:
        append(spec, code)
    return spec.archive_path.parent


def test_it_is_not_ready_before_everything_answers(exported: Exported, tmp_path: Path) -> None:
    """While archives load it is live and answers for those that are loaded; a signal ends it then, too."""
    folder = packed(exported)
    packed(exported, "2.0", SLOW_START)

    with model_server(folder) as server:
        loading = server.wait_for("/v2/health/ready", 503)
        live = server.get("/v2/health/live")
        server.wait_for("/v1/models/balance", 200)
        early = server.predict(LEFT)
        still = server.get("/v2/health/ready")
        server.wait_until_ready()
        late = server.get("/v2/models/balance/versions/2.0/ready")

    assert (loading.json(), live.json()) == ({"ready": False}, {"live": True})
    assert (early.status_code, still.status_code) == (200, 503)
    assert late.json()["ready"]


@pytest.mark.slow
def test_a_signal_while_it_loads_ends_it_at_once(exported: Exported) -> None:
    folder = packed(exported, code=AT_START.format("import time; time.sleep(60)"))

    with model_server(folder) as server:
        server.wait_for("/v2/health/ready", 503)
        started = time.monotonic()
        server.terminate()

        assert server.process.wait(20) == 0
        assert time.monotonic() - started < 10


def test_it_stops_when_it_has_answered_what_it_accepted(exported: Exported) -> None:
    """From SIGTERM on it is not ready, answers for a while, and ends each connection."""
    folder = packed(exported, code=SLOW_ANSWERS, more="serving: {batch_size: 1}\n")

    with model_server(folder, "--drain-seconds=1") as server, ThreadPoolExecutor(4) as pool:
        server.wait_until_ready()
        family = psutil.Process(server.process.pid).children(recursive=True)
        before = requests.post(f"{server.url}/predictions/balance", json={"observation": LEFT}, timeout=10)
        accepted = [pool.submit(server.predict, SLOW) for _ in range(4)]  # a second each, one after another
        time.sleep(0.3)
        server.terminate()
        leaving = server.wait_for("/v2/health/ready", 503)
        answers = [future.result() for future in accepted]
        code = server.process.wait(20)
        said = server.log()

    assert leaving.headers["connection"] == "close"
    assert "connection" not in before.headers
    assert [answer.status_code for answer in answers] == [200] * 4
    assert code == 0
    assert not any(process.is_running() for process in family)
    assert any(line.get("event") == "batch" and line["answers"][0]["id"] for line in said)
    assert all(line["level"] and line["process"] for line in said)
    assert any(line.get("message", "").startswith("stopping") for line in said)


@pytest.mark.slow
def test_options_count_and_the_newest_version_is_the_default(exported: Exported) -> None:
    """1.10 is newer than 1.9; there is nothing that manages, and no job."""
    folder = packed(exported, "1.9", more="serving: {workers: 3}\n")
    packed(exported, "1.10")

    with model_server(folder, "--workers=2", "--threads=2") as server:
        server.wait_until_ready()
        url = f"{server.url}/predictions/balance"
        answer = requests.post(
            url, json={"observation": LEFT}, headers={"Prefer": "respond-async"}, timeout=10
        )
        versions = server.get("/v2/models/balance").json()["versions"]
        tensor = {"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": LEFT}
        infer = f"{server.url}/v2/models/balance/infer"
        default = requests.post(infer, json={"inputs": [tensor]}, timeout=10)
        workers = psutil.Process(server.process.pid).children()
        ports = {one.laddr.port - server.port for one in psutil.Process(server.process.pid).net_connections()}
        ready = [line for line in server.log() if line.get("event") == "ready"]

    assert answer.status_code == 200
    assert sorted(versions) == ["1.10", "1.9"]
    assert default.json()["model_version"] == "1.10"
    assert len(workers) == 2
    assert [line["threads"] for line in ready] == [2] * 4  # two versions on two workers
    assert ports == {0, 2}  # its workers have gRPC


def test_a_damaged_archive_is_named_in_one_line(exported: Exported) -> None:
    """The server ends with code 1, whatever else is in the folder."""
    folder = packed(exported)
    (folder / "broken-1.0.mar").write_bytes(b"no archive")

    with model_server(folder, stderr=subprocess.PIPE) as server:
        _, said = server.process.communicate(timeout=60)

    (line,) = said.decode().splitlines()
    assert line.startswith("broken-1.0.mar can't be read as an archive")
    assert server.process.returncode == 1


@pytest.mark.slow
def test_a_changed_archive_does_not_come_up(exported: Exported) -> None:
    folder = packed(exported, code=AT_START.format("raise ValueError('no luck')"))

    with model_server(folder, stderr=subprocess.PIPE) as server:
        _, said = server.process.communicate(timeout=60)

    (line,) = said.decode().splitlines()
    assert "Failed to start workers for model balance version: 1.0" in line
    assert line.endswith("no luck")
    assert server.process.returncode == 1


def test_a_folder_without_archives_is_a_wrong_call(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()

    with pytest.raises(CallError, match=r"no archive \(\*.mar\) in .*, there is config; make one with"):
        find_archives(tmp_path)
    with pytest.raises(CallError, match=r"no folder .*; name the one with the archives"):
        find_archives(tmp_path / "nowhere")


def test_a_port_that_is_taken_is_named_with_its_option(exported: Exported) -> None:
    folder = packed(exported)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            CallError, match=rf"can't listen at 127.0.0.1:{port}: .*; choose another with --port"
        ):
            open_port("127.0.0.1", port, "--port")

        done = subprocess.run(
            [*COMMAND, str(folder), f"--port={port}"], check=False, capture_output=True, text=True, timeout=60
        )

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in done.stderr


def test_the_folder_is_an_argument_or_the_model_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without either it is where KServe mounts a model; nothing listens to others unless it is told to."""
    monkeypatch.delenv("MODEL_STORE", raising=False)
    mounted, named = Options.parse([]), Options.parse(["/archives"])
    monkeypatch.setenv("MODEL_STORE", "/store")

    assert [str(options.folder) for options in (mounted, named, Options.parse([]))] == [
        "/mnt/models",
        "/archives",
        "/store",
    ]
    assert (mounted.host, mounted.port, mounted.grpc_port, mounted.metrics_port) == (
        "127.0.0.1",
        8080,
        8081,
        8082,
    )
    for words in (["--workers=0"], ["--threads=many"], ["--drain-seconds=-1"], ["--manage"]):
        with pytest.raises(SystemExit, match="2"):
            Options.parse(words)


def test_a_line_of_the_log_is_a_json_object() -> None:
    """Events of models keep their keys; what failed has its traceback in the same line."""
    logger, formatter = logging.getLogger("balance"), JsonFormatter()

    def lines(message: str, failure: Exception | None = None) -> list[dict[str, str]]:
        info = (type(failure), failure, None) if failure else None
        record = logger.makeRecord("balance", logging.INFO, "file", 1, message, (), info)
        return [json.loads(line) for line in formatter.format(record).splitlines()]

    plain, failed = lines('a "quoted"\nmessage'), lines("it failed", ValueError("broken"))
    events = lines('{"event":"batch","n":1}\n{"event":"batch","n":2}')

    assert [line["message"] for line in plain] == ['a "quoted"\nmessage']
    assert [(event["event"], event["n"], event["level"]) for event in events] == [
        ("batch", 1, "INFO"),
        ("batch", 2, "INFO"),
    ]
    assert [line["exception"] for line in failed] == ["ValueError: broken"]
    assert plain[0]["time"].endswith("+00:00")
