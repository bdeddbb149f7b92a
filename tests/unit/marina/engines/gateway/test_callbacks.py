"""Callbacks of jobs: to allowed hosts alone, without a way to other machines."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from handlers.protocol.errors import BadRequest
from marina.engines.gateway.jobs import callbacks
from marina.engines.gateway.jobs.callbacks import CallbackFailed, check_callback, send_callback
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.store import MAX_CALLBACK_TRIES, JobStore
from marina.engines.gateway.tokens import Tokens
from tests.support.job_servers import ASYNC, PATH, JobServer
from tests.support.stepped_predictors import Stepped

LIMITS = JobLimits(callback_hosts=("hooks.example.com", "other.example.com:8443"))


class Hook(BaseHTTPRequestHandler):
    """Keeps what it gets, and answers with the status of its path."""

    received: ClassVar[list[tuple[str, str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.received.append((self.path, self.headers["host"], body))
        self.send_response(int(self.path.rsplit("/", 1)[1]))
        self.send_header("location", "/200")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def hook() -> Iterator[int]:
    Hook.received = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://elsewhere.example.com/x", "jobs.callback_hosts"),
        ("https://hooks.example.com:8443/x", "not allowed"),
        ("https://other.example.com/x", "not allowed"),
        ("https://hooks.example.com.evil.org/", "not allowed"),
        ("https://evil.org/hooks.example.com", "not allowed"),
        ("https://hooks.example.com@evil.org/", "user name"),
        ("https://me:secret@hooks.example.com/", "user name"),
        ("ftp://hooks.example.com/", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("hooks.example.com", "http or https"),
        ("https://[::1", "no URL"),
        ("https://hooks.example.com:99999/", "no URL"),
        ("https://hooks.example.com/" + "x" * 2000, "2000 characters"),
    ],
)
def test_a_url_that_may_not_be_called_is_refused(url: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        check_callback(url, LIMITS)


def test_allowed_hosts_are_allowed() -> None:
    assert check_callback("https://hooks.example.com/x?y=1", LIMITS).hostname == "hooks.example.com"
    assert check_callback("http://hooks.example.com:80/x", LIMITS).port == 80
    assert check_callback("https://other.example.com:8443/", LIMITS).port == 8443
    with pytest.raises(BadRequest):
        check_callback("https://hooks.example.com/", JobLimits())


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1"),
        *("::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "2002:7f00:1::"),
    ],
)
def test_an_allowed_name_at_a_private_address_is_not_called(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns the name may point it anywhere."""

    async def run() -> None:
        async def found(*_: Any, **__: Any) -> Any:
            return [(0, 0, 0, "", ("93.184.216.34", 443)), (0, 0, 0, "", (address, 443))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found, raising=False)
        await send_callback("https://hooks.example.com/", {}, LIMITS)

    with pytest.raises(CallbackFailed, match="not public"):
        asyncio.run(run())


def test_a_callback_is_a_post_that_follows_nobody() -> None:
    """The host's own name goes along; a redirect is a failure."""
    with hook() as port:
        limits = replace(LIMITS, callback_hosts=(f"localhost:{port}",), callback_private_addresses=True)
        asyncio.run(send_callback(f"http://localhost:{port}/done/204", {"state": "done"}, limits))
        with pytest.raises(CallbackFailed, match="answered 302"):
            asyncio.run(send_callback(f"http://localhost:{port}/302", {}, limits))

    assert Hook.received == [
        ("/done/204", f"localhost:{port}", {"state": "done"}),
        ("/302", f"localhost:{port}", {}),
    ]


def test_who_submitted_a_job_is_called_back(tmp_path: Path) -> None:
    """Once, when it has ended; a host that is not allowed is refused before."""

    async def calls(client: httpx.AsyncClient) -> Any:
        elsewhere = {**ASYNC, "callback": "http://127.0.0.1:1/x"}
        refused = await client.post(PATH, json=1, headers=elsewhere)
        made = await client.post(PATH, json=1, headers={**ASYNC, "callback": url})
        for _ in range(100):
            job = (await client.get(made.headers["location"])).json()
            if job["callback"]["state"] != "pending":
                break
            await asyncio.sleep(0.05)
        return refused, job

    with hook() as port:
        url = f"http://127.0.0.1:{port}/200"
        limits = JobLimits(callback_hosts=(f"127.0.0.1:{port}",), callback_private_addresses=True)
        refused, job = asyncio.run(JobServer(tmp_path, Stepped(), limits, Tokens.open()).run(calls))

    assert (refused.status_code, "callback_hosts" in refused.text) == (400, True)
    assert job["callback"] == {"state": "delivered", "tries": 1}
    ((path, _, told),) = Hook.received
    assert (path, told["id"], told["state"]) == ("/200", job["id"], "done")


def test_a_host_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try comes later than the one before, and there are five; a try is due once."""
    store, now = JobStore(tmp_path, LIMITS), 1e9
    monkeypatch.setattr("time.time", lambda: now)
    store.body("a").touch()
    store.add("a", "m", "", "{}", "https://hooks.example.com/")
    job = store.claim(["m"])
    assert job
    assert store.claim_callback() is None
    store.fail(job, "{}")
    pauses = []
    for _ in range(MAX_CALLBACK_TRIES):
        due = store.claim_callback()
        assert due
        assert store.claim_callback() is None
        store.record_callback(due, is_delivered=False)
        pauses.append(due.callback_at - now)
        now = due.callback_at

    assert pauses == [5, 20, 80, 320, 1280]
    assert (store.claim_callback(), store.get("a").callback_state) == (None, "failed")
    assert callbacks.SECONDS < 30
    store.close()
