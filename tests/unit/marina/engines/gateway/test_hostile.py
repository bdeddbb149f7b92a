"""Hostile and broken HTTP on a real server: refused or harmless, and nobody else notices."""

import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from marina.engines.gateway import http_protocol
from marina.engines.gateway.bodies import Limits
from marina.engines.gateway.served_model import ServedModel
from tests.support.gateways import gateway, listening
from tests.support.raw_http import GOOD, HEAD, LAST, SMUGGLERS, mutated, sent, statuses, try_

LIMITS = Limits(max_request_size=100_000, body_seconds=0.3)


@pytest.fixture(scope="module")
def port(balance: ServedModel) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_protocol, "REQUEST_SECONDS", 0.6)
        with listening(gateway(balance, limits=LIMITS)) as number:
            yield number


@pytest.mark.parametrize("request_", SMUGGLERS)
def test_no_second_request_is_smuggled(port: int, request_: bytes) -> None:
    """A request whose end two servers could see in two places is refused, with all that stands behind it."""
    assert statuses(sent(port, request_)) == [400]


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    """Forty at once on one connection, a bad one among them."""
    bad = GOOD.replace(b"observation", b"observatory")

    received = sent(port, GOOD * 20 + bad + GOOD * 18 + LAST)

    assert statuses(received) == [200] * 20 + [400] + [200] * 19


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 40], 408),  # a header a moment
        ([HEAD + b"Content-Length: 90\r\n\r\n", *[b"x"] * 40], 408),  # a byte a moment
        ([HEAD + b"Content-Length: 90\r\n\r\n"], 408),  # no byte of the body
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 40], 408),
        ([b"GET /" + b"x" * 1_000_000], 431),
        ([b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000], 431),
        ([b"GET / HTTP/1.1\r\nA: " + b"b" * 1_000_000], 431),
        ([HEAD + b"Content-Length: 100001\r\n\r\n" + bytes(100_001)], 413),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"4000\r\n" + bytes(0x4000) + b"\r\n"] * 40], 413),
    ],
)  # fmt: skip
def test_who_takes_too_long_or_sends_too_much_is_cut_off(port: int, parts: list[bytes], status: int) -> None:
    """Slow or endless headers and bodies end in a refusal and a closed connection."""
    slow = len(parts) > 1 and status == 408

    found = statuses(sent(port, *parts, pause=0.025 if slow else 0))
    # who still sends headers when the connection is closed may not read why
    assert found == [status] or (status == 431 and not found)


def test_who_says_nothing_is_cut_off(port: int) -> None:
    """Without an answer: there was no request."""
    started = time.monotonic()

    assert sent(port) == b""
    assert time.monotonic() - started < 1.5


def test_idle_connections_cost_nobody_an_answer(port: int) -> None:
    """Two hundred connections that say nothing, and one that asks."""
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]

    started = time.monotonic()
    assert statuses(sent(port, LAST)) == [200]
    assert time.monotonic() - started < 1

    for connection in idle:
        connection.close()


def test_ten_thousand_random_requests_disturb_nobody(port: int) -> None:
    """Each is answered, refused or dropped; a good one is answered afterwards as before."""
    chance = random.Random(0)
    before = sent(port, LAST).rpartition(b"\r\n\r\n")[2]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(partial(try_, port), [mutated(chance) for _ in range(10_000)]))

    assert {status for one in found for status in one} <= {200, 400, 404, 405, 408, 413, 415}
    assert sum(map(len, found)) > 5_000
    assert sent(port, LAST).rpartition(b"\r\n\r\n")[2] == before
