"""How the clients read and renew their tokens, alone and concurrently."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from marina.client import Client, exchange
from marina.client.async_client import AsyncClient
from marina.client.keys import RenewalLock
from marina.core.errors import CallError, RequestRefused, ServerError
from tests.support.misbehaving_server import FINE, Server, Trick, answer, running, serving, torchserve

pytestmark = pytest.mark.usefixtures("quick_retries")


class Guarded(Server):
    """Knows one token and writes it to a key file; every renewal makes another, in a while, and voids the
    old one.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__(FINE)
        self.path, self.renewals, self.is_closed = path, 0, False
        self.renew(seconds)

    def renew(self, seconds: float) -> None:
        self.token = f"token{self.renewals}"
        expires = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "123Z")
        keys = {name: {"key": self.token, "expiration time": expires} for name in ("inference", "management")}
        text = json.dumps({**keys, "API": {"key": "api"}})
        with self.path.open("w") as file:  # in place and not at once, as TorchServe writes it
            file.write(text[:20])
            file.flush()
            time.sleep(0.005)
            file.write(text[20:])

    def next(self, path: str, headers: dict[str, str], body: bytes) -> Trick:
        super().next(path, headers, body)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if path.startswith("/token") and bearer == "api" and not self.is_closed:
            with self.lock:
                self.renewals += 1
                self.renew(3600)
            return answer(200, b"\n")
        return (
            FINE
            if bearer == self.token
            else torchserve(400, "InvalidKeyException", "Token Authorization failed.")
        )


def test_a_token_is_renewed_before_it_expires_and_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server:
        with Client(url=server.url, management_url=server.url, key_file=path) as client:
            assert [client.predict("m", [1]) for _ in range(3)] == [{"fine": True}] * 3
            assert server.renewals == 0
            server.renew(20)
            path.touch()
            later = time.time() + 15

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exchange.time, "time", lambda: later)
                assert client.predict("m", [1]) == {"fine": True}
                assert client.predict("m", [1]) == {"fine": True}

        assert server.renewals == 1
        assert [path for path, _, _ in server.requests].count("/predictions/m") == 5


@pytest.mark.parametrize("seconds", [-100.0, 0.0])
def test_clients_that_renew_at_the_same_moment_do_not_break_each_other(
    tmp_path: Path, seconds: float
) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, seconds)) as server:
        settings = {"url": server.url, "management_url": server.url, "key_file": path}
        clients = [Client(**settings) for _ in range(3)]

        async def ask() -> list[Any]:
            async with AsyncClient(**settings) as client:
                return await asyncio.gather(*(client.predict("m", [1]) for _ in range(8)))

        with ThreadPoolExecutor(13) as pool:
            several = pool.submit(lambda: asyncio.run(ask()))
            answers = list(pool.map(lambda i: clients[i % 3].predict("m", [1]), range(60)))
            answers += several.result()
        for client in clients:
            client.close()

        assert answers == [{"fine": True}] * 68
        assert 1 <= server.renewals <= 4


def test_a_token_that_another_process_renewed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server, Client(url=server.url, key_file=path) as client:
        client.predict("m", [1])
        server.renewals = 1
        before = path.stat()
        server.renew(3600)
        import os

        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # within one tick of the clock

        assert client.predict("m", [1]) == {"fine": True}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_token_that_the_server_does_not_know_is_renewed(asynchronous: bool, tmp_path: Path) -> None:
    """A server that knows another token than its file is asked for a new one.

    Two renewals at one moment can leave that.
    """
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server:
        server.token, server.renewals = "written first", 1
        settings = {"url": server.url, "management_url": server.url, "key_file": path}

        async def ask() -> Any:
            async with AsyncClient(**settings) as client:
                return await client.predict("m", [1])

        if asynchronous:
            assert asyncio.run(ask()) == {"fine": True}
        else:
            with Client(**settings) as client:
                assert client.predict("m", [1]) == {"fine": True}
        assert server.renewals == 2

        server.is_closed, server.token = True, "gone"
        with Client(**settings) as client, pytest.raises(RequestRefused):
            client.predict("m", [1])


def test_a_management_that_is_gone_matters_only_once_the_token_has_expired(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with (
        running(Guarded(path, 3600)) as server,
        Client(url=server.url, management_url=server.url, key_file=path) as client,
    ):
        server.is_closed = True
        with pytest.MonkeyPatch.context() as patch:
            now = time.time()
            patch.setattr(exchange.time, "time", lambda: now + 3590)
            assert client.predict("m", [1]) == {"fine": True}
            patch.setattr(exchange.time, "time", lambda: now + 3610)
            with pytest.raises(RequestRefused, match="the inference token has expired and can't be renewed"):
                client.predict("m", [1])


def test_a_wrong_token_is_refused_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with running(Guarded(path, 3600)) as server:
        with Client(url=server.url, token="wrong") as client, pytest.raises(RequestRefused) as caught:
            client.predict("m", [1])
        assert exchange.is_refused_token(caught.value)
        assert len(server.requests) == 1
        with Client(url=server.url, token=server.token) as client:
            assert client.predict("m", [1]) == {"fine": True}
            assert client.token("inference") == server.token
        server.token = "moved on"
        with Client(url=server.url, key_file=path) as client, pytest.raises(RequestRefused):
            client.predict("m", [1], timeout=0.2)


def test_keys_that_never_expire_are_read_beside_further_ones(tmp_path: Path) -> None:
    """The key file of an engine whose keys are not renewed; one that is refused with 401 was changed."""
    path = tmp_path / "keys.json"
    more = [{"name": "caller", "key": "another", "scopes": ["inference"]}]
    path.write_text(json.dumps({"inference": {"key": "old-key"}, "keys": more}))
    server = Server(torchserve(401, "InvalidKeyException", "Token Authorization failed."), FINE)

    with running(server), Client(url=server.url, management_url=server.url, key_file=path) as client:
        with pytest.raises(RequestRefused) as caught:
            client.predict("m", [1], timeout=0.2)
        assert exchange.is_refused_token(caught.value)
        assert client.predict("m", [1]) == {"fine": True}

    assert [headers["authorization"] for _, headers, _ in server.requests] == ["Bearer old-key"] * 2


def test_a_key_file_that_is_none_is_said_so(tmp_path: Path) -> None:
    with Client(url="http://127.0.0.1:9", key_file=tmp_path / "keys.json") as client:
        with pytest.raises(ServerError, match="start one with: marina serve"):
            client.predict("m", [1])
        (tmp_path / "keys.json").write_text("[]")
        with pytest.raises(ServerError, match=r"can't be read as a server's key_file\.json"):
            client.predict("m", [1])
        (tmp_path / "keys.json").write_text('{"inference": {"key": "a"}}')
        with pytest.raises(ServerError, match="no token for 'API'"):
            client.token("API")


def test_a_client_without_a_management_address_says_so_and_sends_no_token() -> None:
    with serving(FINE) as server, Client(url=server.url) as client:
        client.predict("m", [1])
        assert "authorization" not in server.requests[0][1]
        with pytest.raises(CallError, match="give it a management_url"):
            client.models()
        with pytest.raises(CallError, match="either a token or a key_file"):
            Client(token="a", key_file=Path("b"))


def test_one_client_of_a_key_file_renews_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    first, second = RenewalLock(path), RenewalLock(path)
    assert not first.acquire()  # no file, nothing to renew
    path.write_text("{}")

    assert first.acquire()
    assert not second.acquire()
    assert not first.acquire()
    first.release()

    assert second.acquire()
    second.release()
