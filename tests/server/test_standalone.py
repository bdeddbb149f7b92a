"""What only the standalone engine does: it manages its own processes. Each test has the server to itself."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from marina import engines
from marina.client import Client
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import RequestError
from marina.core.spec import Spec
from marina.engines import server_process
from marina.packaging import archive
from marina.pipeline import readiness, steps
from tests.support.archived_code import CRASHES, HANGS, SLOW_ANSWERS, append
from tests.support.killed_workers import GOOD, kill_under_load, port_of, worker_pids


@pytest.fixture
def serve(exported: Callable[..., Spec], home: Path) -> Iterator[Callable[..., Client]]:
    """Starts a server with balance 1.0, whose spec may say more; stopped by its process id."""
    opened = []

    def start(more: str = "", code: str = "") -> Client:
        spec = exported(more=more)
        archive.build(spec)
        if code:
            append(spec, code)
        port = server_process.free_port_base()
        serving = steps.serving([spec], port, Output(as_json=True), engines.get("standalone"))
        opened.append(serving)
        return serving.__enter__()

    yield start
    for serving in opened:
        serving.__exit__(None, None, None)


def test_a_worker_that_dies_under_load_is_replaced(serve: Callable[..., Client]) -> None:
    """Callers that retry lose nothing, and what was registered is there again."""
    client = serve("serving: {workers: 2}\n")
    before = worker_pids(client)

    answered, failed, _ = kill_under_load(client, before[0], seconds=4)

    assert failed == []
    assert answered > 100
    deadline = time.monotonic() + 20
    while len(worker_pids(client)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    after = worker_pids(client)
    assert len(after) == 2
    assert before[1] in after
    assert before[0] not in after


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (CRASHES, "the process was killed by signal 11 while it loaded"),
        (HANGS, r"it was not ready within 5 s \(startupTimeout\)"),
        ("\nraise ValueError('no luck')\n", "does not come up: no luck"),
    ],
    ids=["crashes", "hangs", "raises"],
)
def test_a_version_that_does_not_load_harms_nobody(
    serve: Callable[..., Client], exported: Callable[..., Spec], code: str, reason: str
) -> None:
    """It is registered nowhere, says why, and those that answer go on."""
    client = serve()
    before = worker_pids(client)
    spec = exported(version="2.0", more="serving: {startup_timeout_s: 5}\n")
    archive.build(spec)
    append(spec, code)

    with pytest.raises(RequestError, match=reason):
        client.register("balance", "2.0", spec.archive_name)

    assert client.versions("balance") == ["1.0"]
    assert worker_pids(client) == before
    assert client.predict("balance", GOOD)["action"] == 1
    with pytest.raises(RequestError, match=r"Model version: 2.0 does not exist"):
        client.predict("balance", GOOD, version="2.0")


def test_a_batch_that_hangs_ends_its_worker_and_no_other_call(serve: Callable[..., Client]) -> None:
    slow = SLOW_ANSWERS.replace("time.sleep(1.0)", "time.sleep(600)")
    client = serve("serving: {response_timeout_s: 1}\n", slow)
    (before,) = worker_pids(client)

    with pytest.raises(RequestError), Client(port_of(client), retries=0) as once:
        once.predict("balance", {"observation": [3.0, 0.0, 0.0, 0.0]}, timeout=10)

    assert client.predict("balance", GOOD, timeout=30)["action"] == 1
    assert worker_pids(client) != [before]


def test_stopping_answers_what_was_accepted(serve: Callable[..., Client]) -> None:
    """SIGTERM in the middle of requests: each that was sent whole is answered."""
    client = serve("serving: {batch_size: 1}\n", SLOW_ANSWERS)
    headers = {"Authorization": f"Bearer {client.token('inference')}"}
    url, statuses = f"{client.inference}/predictions/balance", Counter[int]()

    def ask() -> None:
        body = {"observation": [3.0, 0.0, 0.0, 0.0]}
        statuses[requests.post(url, json=body, headers=headers, timeout=30).status_code] += 1

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    time.sleep(0.5)
    state = server_process.read_state(port_of(client))
    assert state
    os.kill(state.pid, signal.SIGTERM)
    for thread in asking:
        thread.join(30)

    assert statuses == {200: 4}


def test_a_small_server_is_small_and_quick(serve: Callable[..., Client]) -> None:
    """No torch, no Java; the bounds are wide, since machines differ: docs/benchmarks has the figures."""
    client = serve()
    state = server_process.read_state(port_of(client))
    assert state
    family = [psutil.Process(state.pid), *psutil.Process(state.pid).children(recursive=True)]

    assert len(family) == 2
    assert all("java" not in process.name() for process in family)
    assert all("libtorch" not in Path(f"/proc/{process.pid}/maps").read_text() for process in family)
    assert sum(process.memory_info().rss for process in family) < 300e6


def test_keys_of_the_users_own_count_too(
    serve: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers behind a load balancer share them; each has the scopes that the file says."""
    keys = tmp_path / "keys.json"
    keys.write_text(
        json.dumps({"keys": [{"name": "app", "key": "a-long-shared-key", "scopes": ["inference"]}]})
    )
    monkeypatch.setenv("MARINA_KEY_FILE", str(keys))
    client = serve()

    with Client(url=client.inference, management_url=client.management, token="a-long-shared-key") as shared:
        assert shared.predict("balance", GOOD)["action"] == 1
        with pytest.raises(RequestError, match="401"):
            shared.models()
    in_query = f"{client.inference}/predictions/balance?token=a-long-shared-key"
    assert requests.post(in_query, json=GOOD, timeout=30).status_code == 401


def test_a_slow_caller_holds_up_nobody(serve: Callable[..., Client]) -> None:
    client = serve()
    head = b"POST /predictions/balance HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"

    with socket.create_connection(("127.0.0.1", port_of(client))) as slow:
        slow.sendall(head)  # neither the end of the headers nor a body
        assert client.predict("balance", GOOD)["action"] == 1
    assert readiness.problems(client, archive.spec_of("balance", "1.0", paths.find_home())) == []
