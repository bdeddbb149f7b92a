"""The clients against a server that misbehaves on purpose: which requests are retried, and which error is
raised.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from marina.client import Client, exchange, wire
from marina.client.async_client import AsyncClient
from marina.core.errors import RequestError, RequestRefused, ServerFault, ServerUnavailable, WorkError
from tests.support.misbehaving_server import (
    BOTH,
    DIED,
    FINE,
    FULL,
    Trick,
    answer,
    async_predict,
    dripping,
    free_port,
    half,
    reset,
    serving,
    silent,
    stalling,
    sync_predict,
    torchserve,
)

pytestmark = pytest.mark.usefixtures("quick_retries")


@BOTH
@pytest.mark.parametrize(
    "trick",
    [
        FULL,
        DIED,
        reset,
        half,
        answer(502, b"<html>", content_type="text/html"),
        answer(504, b""),
        torchserve(507, "X", "Out of resources"),
    ],
    ids=["full queue", "died worker", "reset", "half", "proxy", "proxy's timeout", "memory"],
)
def test_a_prediction_is_sent_again_after_what_may_pass(predict: Callable[..., Any], trick: Trick) -> None:
    with serving(trick, FINE) as server:
        assert predict(server.url) == {"fine": True}
        assert len(server.requests) == 2
        assert server.requests[0] == server.requests[1]


@BOTH
@pytest.mark.parametrize(
    ("trick", "kind"),
    [
        (torchserve(400, "BadRequest", "observation must be …"), RequestRefused),
        (torchserve(404, "ModelNotFoundException", "Model not found: m"), RequestRefused),
        (answer(413, b""), RequestRefused),
        (answer(429, b"slow down", Retry_After="0"), ServerUnavailable),
        (answer(302, b"", Location="http://127.0.0.1:9/"), RequestRefused),
        (torchserve(500, "ModelError", "the model failed"), ServerFault),
        (torchserve(503, "InternalServerException", "Prediction failed"), ServerFault),
        (answer(200, b"{no JSON"), ServerFault),
    ],
    ids=["400", "404", "413", "429", "302", "500", "prediction failed", "broken JSON"],
)
def test_what_would_only_happen_again_is_sent_once(
    predict: Callable[..., Any], trick: Trick, kind: type[RequestError]
) -> None:
    with serving(trick, FINE) as server:
        with pytest.raises(kind) as caught:
            predict(server.url)

        assert type(caught.value) is kind
        assert len(server.requests) == 1


@BOTH
@pytest.mark.parametrize(
    ("trick", "times"), [(FULL, 4), (reset, 4), (half, 4), (DIED, 2)], ids=["full", "reset", "half", "died"]
)
def test_it_is_not_tried_for_ever(predict: Callable[..., Any], trick: Trick, times: int) -> None:
    with serving(trick) as server:
        with pytest.raises(ServerUnavailable):
            predict(server.url)

        assert len(server.requests) == times


@BOTH
@pytest.mark.parametrize("trick", [FULL, reset, DIED])
def test_without_retries_there_is_one_try(predict: Callable[..., Any], trick: Trick) -> None:
    with serving(trick, FINE) as server:
        with pytest.raises(ServerUnavailable):
            predict(server.url, retries=0)

        assert len(server.requests) == 1


@BOTH
def test_a_server_that_is_not_there_is_named_and_not_sent_anything(predict: Callable[..., Any]) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(
        ServerUnavailable,
        match=rf"{url}/predictions/m: no connection \(\[Errno 111\] Connect.*\); is the server running",
    ) as caught:
        predict(url)

    assert caught.value.status == 0


@BOTH
def test_a_server_that_comes_up_meanwhile_is_found(
    predict: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "BASE_SECONDS", 0.3)
    port = free_port()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(predict, f"http://127.0.0.1:{port}", retries=9)
        time.sleep(0.1)
        with serving(FINE, port=port):
            assert asked.result() == {"fine": True}


@BOTH
@pytest.mark.parametrize(
    "trick",
    [
        silent,
        stalling,
        dripping(b"HTTP/1.1 200 OK\r\nx: "),
        dripping(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n"),
        FULL,
    ],
    ids=["silent", "stalling", "dripping headers", "dripping body", "busy"],
)
def test_the_deadline_is_that_of_the_whole_call(
    predict: Callable[..., Any], trick: Trick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "BASE_SECONDS", 0.3)
    with serving(trick) as server:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            predict(server.url, timeout=0.5, retries=99)
        took = time.monotonic() - started

    assert took < 0.8
    assert trick is FULL or took > 0.45


def test_a_deadline_holds_while_a_large_body_is_not_taken() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for predict in (sync_predict, async_predict):
            started = time.monotonic()
            with pytest.raises(ServerUnavailable, match=r"no answer within 0\.5 s"):
                predict(url, body=bytes(20_000_000), timeout=0.5)
            assert 0.45 < time.monotonic() - started < 0.8


def test_a_call_has_its_own_deadline_where_it_says_one() -> None:
    with serving(silent) as server, Client(url=server.url) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable, match=r"no answer within 0\.2 s"):
            client.predict("m", [1], timeout=0.2)

        assert time.monotonic() - started < 0.5


@BOTH
def test_retry_after_is_waited_for_where_the_deadline_allows_it(predict: Callable[..., Any]) -> None:
    def soon() -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=1.5), usegmt=True)  # in whole seconds

    for say, least in [(lambda: "1", 1.0), (soon, 0.4), (lambda: "0", 0.0), (lambda: "nonsense", 0.0)]:
        text = say()
        with serving(answer(503, b"", Retry_After=text), FINE) as server:
            started = time.monotonic()
            assert predict(server.url) == {"fine": True}
            assert least <= time.monotonic() - started < least + 1.5

    with serving(answer(503, b"", Retry_After="60"), FINE) as server:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            predict(server.url, timeout=5)
        assert time.monotonic() - started < 0.5
        assert len(server.requests) == 1


def test_waits_between_tries_are_spread_and_grow() -> None:
    drawn = [
        [exchange._backoff(repeated, wire.NoResponse("broken")) for _ in range(300)]
        for repeated in (0, 3, 20)
    ]

    longest = [exchange.BASE_SECONDS, 8 * exchange.BASE_SECONDS, exchange.LONGEST_SECONDS]
    for waits, most in zip(drawn, longest, strict=True):
        assert 0.9 * most < max(waits) <= most
        assert min(waits) < 0.1 * most


@pytest.mark.parametrize("trick", [reset, FULL])
def test_calls_with_effects_are_not_retried_if_they_may_have_happened(trick: Trick) -> None:
    """A call that changes the server is not sent again if it may have taken effect."""
    versions = answer(404, {"message": "no such model"})
    with (
        serving(versions, trick, FINE) as server,
        Client(url=server.url, management_url=server.url) as client,
    ):
        with pytest.raises(ServerUnavailable):
            client.register("m", "1.0", "m.mar")

        assert [path.split("?")[0] for path, _, _ in server.requests] == ["/models/m/all", "/models"]

    with serving(trick, FINE) as server, Client(url=server.url, management_url=server.url) as client:
        client.scale("m", "1.0", 2)

        assert len(server.requests) == 2


def test_garbage_instead_of_an_answer_is_an_error_of_ours() -> None:
    for predict in (sync_predict, async_predict):
        with (
            serving(b"\0\1\2 what is this\r\n\r\n") as server,
            pytest.raises(ServerUnavailable, match="the connection broke"),
        ):
            predict(server.url)


def test_error_names_the_fault_the_servers_words_and_the_log() -> None:
    """An error says whose fault it is, in the server's words, and where the log has it."""
    refusal = {"code": 400, "type": "BadRequest", "message": "send numbers", "request_id": "abc"}
    with (
        serving(answer(400, refusal), answer(500, b"", x_request_id="def")) as server,
        Client(url=server.url) as client,
    ):
        with pytest.raises(RequestRefused) as refused:
            client.predict("m", [1])
        with pytest.raises(ServerFault) as failed:
            client.predict("m", [1])

    error = refused.value
    assert (error.status, error.type, error.message, error.request_id) == (
        400,
        "BadRequest",
        "send numbers",
        "abc",
    )
    assert str(error) == f"POST {server.url}/predictions/m: 400: send numbers"
    assert (failed.value.status, failed.value.request_id) == (500, "def")
    assert isinstance(error, RequestError)
    assert isinstance(error, WorkError)


def test_one_connection_serves_many_calls_and_one_client_many_threads() -> None:
    with serving(FINE) as server, Client(url=server.url) as client:
        for _ in range(20):
            client.predict("m", [1])
        assert server.connections == 1

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.predict("m", [1]), range(200)))
        assert answers == [{"fine": True}] * 200
        assert len(server.requests) == 220
        assert server.connections <= 9


def test_sixteen_tasks_need_sixteen_connections() -> None:
    async def ask(url: str) -> list[Any]:
        async with AsyncClient(url=url) as client:
            return [await asyncio.gather(*(client.predict("m", [1]) for _ in range(16))) for _ in range(5)]

    with serving(FINE) as server:
        answers = asyncio.run(ask(server.url))

        assert answers == [[{"fine": True}] * 16] * 5
        assert server.connections == 16


def test_a_cancelled_task_leaves_a_client_that_works() -> None:
    async def ask(url: str) -> Any:
        async with AsyncClient(url=url) as client:
            task = asyncio.create_task(client.predict("m", [1]))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.predict("m", [1])

    with serving(silent, FINE) as server:
        assert asyncio.run(ask(server.url)) == {"fine": True}


def test_cancelled_many_end_at_once_and_nothing_of_them_goes_on() -> None:
    async def ask(url: str) -> float:
        async with AsyncClient(url=url) as client:
            task = asyncio.create_task(client.predict_many("m", range(1000)))
            await asyncio.sleep(0.2)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(asyncio.all_tasks()) == 1
            return time.monotonic() - started

    with serving(silent) as server:
        assert asyncio.run(ask(server.url)) < 0.3
        assert len(server.requests) == 4


def test_a_cookie_is_not_sent_back_and_a_name_stays_one_part_of_the_path() -> None:
    with serving(answer(Set_Cookie="a=b")) as server, Client(url=server.url) as client:
        client.predict("m", [1])
        client.predict("a/b?c", [1])

    assert "cookie" not in server.requests[1][1]
    assert server.requests[1][0] == "/predictions/a%2Fb%3Fc"
