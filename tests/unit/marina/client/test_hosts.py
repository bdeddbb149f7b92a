"""A client of several hosts: it takes turns, probes those that may be down, and tries again at another."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from marina.client import Client, exchange, hosts
from marina.client.async_client import AsyncClient
from marina.core.errors import RequestRefused, ServerUnavailable
from tests.support.misbehaving_server import BOTH, FINE, FULL, Server, answer, free_port, serving, silent

pytestmark = pytest.mark.usefixtures("quick_retries")

PING = answer(200, {"status": "Healthy"})
REFUSED = answer(400, {"code": 400, "type": "BadRequest", "message": "observation must be ..."})


def paths_of(server: Server) -> list[str]:
    return [path for path, _, _ in server.requests]


def dead_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


@BOTH
def test_a_dead_host_is_found_before_a_request_goes_there(predict: Callable[..., Any]) -> None:
    """A host that was never asked is probed, so that even a call without retries gets its answer."""
    with serving(PING, FINE) as server:
        for urls in ([dead_url(), server.url], [server.url, dead_url()]):
            server.tricks[:] = [PING, FINE]

            assert predict(urls, retries=0) == {"fine": True}

    assert paths_of(server) == ["/ping", "/predictions/m"] * 2


@BOTH
def test_requests_take_turns(predict: Callable[..., Any]) -> None:
    with serving(PING, FINE) as one, serving(PING, FINE) as other:

        async def many() -> None:
            async with AsyncClient(url=[one.url, other.url]) as client:
                for _ in range(4):
                    await client.predict("m", {"x": 1})

        if predict.__name__ == "async_predict":
            asyncio.run(many())
        else:
            with Client(url=[one.url, other.url]) as client:
                for _ in range(4):
                    client.predict("m", {"x": 1})

    assert paths_of(one) == paths_of(other) == ["/ping", "/predictions/m", "/predictions/m"]


@BOTH
@pytest.mark.parametrize("trick", [FULL, answer(502, b""), answer(503, b"", Retry_After="60")])
def test_the_next_try_goes_to_another_host(predict: Callable[..., Any], trick: bytes) -> None:
    """Whatever time the first one asks for: that is its own."""
    with serving(PING, trick) as one, serving(PING, FINE) as other:
        assert predict([one.url, other.url], retries=1, timeout=10) == {"fine": True}

    assert paths_of(one) == ["/ping", "/predictions/m"]
    assert paths_of(other) == ["/ping", "/predictions/m"]


def test_a_host_that_breaks_off_rests() -> None:
    """It gets no other request before a probe says that it is back, and that not at once."""
    with (
        serving(PING, lambda connection: None) as one,
        serving(PING, FINE) as other,
        Client(url=[one.url, other.url]) as client,
    ):
        for _ in range(6):
            assert client.predict("m", {"x": 1}) == {"fine": True}

    assert paths_of(one) == ["/ping", "/predictions/m"]
    assert paths_of(other).count("/predictions/m") == 6


def test_a_host_that_is_gone_costs_no_retry() -> None:
    """It answered before, so that it is not probed; nothing was sent to it, and the only retry is left."""
    with serving(FULL) as full, serving(FINE) as fine:
        urls = [full.url, dead_url(), fine.url]

        async def predict() -> Any:
            async with AsyncClient(url=urls, retries=1) as client:
                client.hosts = known(urls)
                return await client.predict("m", {"x": 1})

        with Client(url=urls, retries=1) as client:
            client.hosts = known(urls)

            assert client.predict("m", {"x": 1}) == {"fine": True}
        assert asyncio.run(predict()) == {"fine": True}


def known(urls: Sequence[str]) -> hosts.Hosts:
    """Hosts that have answered before."""
    made = hosts.Hosts(urls)
    for url in urls:
        made.set_answered(url)
    return made


def test_a_host_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "REST_SECONDS", 0.0)
    with (
        serving(PING, lambda connection: None, PING, FINE) as one,
        serving(PING, FINE) as other,
        Client(url=[one.url, other.url]) as client,
    ):
        for _ in range(6):
            client.predict("m", {"x": 1})

    assert paths_of(one)[2:4] == ["/ping", "/predictions/m"]
    assert paths_of(one).count("/predictions/m") > 2


@BOTH
def test_a_try_that_takes_too_long_is_given_up(predict: Callable[..., Any]) -> None:
    """A host behind a cut cable never refuses; without `try_seconds` it would have the whole time."""
    with serving(PING, silent) as one, serving(PING, FINE) as other:
        assert predict([one.url, other.url], try_seconds=0.3, timeout=20) == {"fine": True}


@BOTH
def test_a_refusal_is_no_reason_to_ask_another(predict: Callable[..., Any]) -> None:
    with (
        serving(PING, REFUSED) as one,
        serving(PING, FINE) as other,
        pytest.raises(RequestRefused, match="observation"),
    ):
        predict([one.url, other.url])

    assert paths_of(other) == []


@BOTH
def test_without_any_host_the_call_says_why(predict: Callable[..., Any]) -> None:
    """And it ends after its retries, as with one host."""
    with pytest.raises(ServerUnavailable, match="no connection"):
        predict([dead_url(), dead_url()], retries=2)


def test_one_host_is_never_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single server may be anything that speaks the protocol."""
    monkeypatch.setattr(exchange, "PROBE_SECONDS", 0.0)
    urls: Sequence[str]
    with serving(FULL, FINE) as server:
        for urls in ([server.url], (f"{server.url}/",)):
            with Client(url=urls) as client:
                assert client.predict("m", {"x": 1}) == {"fine": True}

    assert set(paths_of(server)) == {"/predictions/m"}
