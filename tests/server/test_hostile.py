"""Hostile callers of a whole standalone server: each is refused or cut off, no worker ends, and a neighbor is
answered all the time.
"""

import gzip
import random
import resource
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import grpc
import pytest
import requests

from marina import engines
from marina.client import Client
from marina.core.console import Output
from marina.core.errors import RequestError
from marina.engines import server_process
from marina.engines.gateway.http_protocol import REQUEST_SECONDS
from marina.packaging import archive
from marina.pipeline import steps
from marina.third_party import inference_pb2 as torchserve
from tests.support.raw_http import GOOD, HEAD, LAST, SMUGGLERS, mutated, sent, statuses, try_
from tests.support.toy_exports import export_toy

OBSERVATION = {"observation": [0.0, 0.0, 0.1, 0.2]}
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
GRPC_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 0)[1:] + b"\x04\x00" + bytes(4)


class Server:
    """A standalone server with one model in two workers."""

    def __init__(self, client: Client) -> None:
        self.client, self.port = client, int(client.inference.rsplit(":", 1)[1])
        self.header = f"Authorization: Bearer {client.token('inference')}\r\n".encode()

    def with_key(self, request: bytes) -> bytes:
        """The request with a key in its headers."""
        return request.replace(b"Host: x\r\n", b"Host: x\r\n" + self.header, 1)

    def pids(self) -> list[int]:
        """Its workers."""
        return [worker["pid"] for worker in self.client.describe("balance")[0]["workers"]]

    @contextmanager
    def neighbor(self, seconds: float = 10.0) -> Iterator[Counter[str]]:
        """Somebody who asks all the while, and is answered within `seconds` each time; no worker ends."""
        stop, found, before = threading.Event(), Counter[str](), self.pids()

        def ask() -> None:
            with Client(self.port, retries=0, timeout=seconds) as own:
                while not stop.is_set():
                    try:
                        found[str(own.predict("balance", OBSERVATION)["action"])] += 1
                    except RequestError as error:
                        found[str(error)] += 1
                    time.sleep(0.01)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield found
        finally:
            stop.set()
            asking.join()
        assert found.keys() == {"1"}
        assert self.pids() == before


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        spec = export_toy(home, more="serving: {workers: 2}\n")
        archive.build(spec)
        port, engine = server_process.free_port_base(), engines.get("standalone")
        with steps.serving([spec], port, Output(as_json=True), engine) as client:
            yield Server(client)


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What they give, all called at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result() for done in [pool.submit(call) for call in calls]]


def test_no_request_hides_behind_another(server: Server) -> None:
    """Ambiguous ends are refused, and all that stands behind them; what proxies send is not ambiguous."""
    with server.neighbor():
        hidden = {one: statuses(sent(server.port, server.with_key(one))) for one in SMUGGLERS}
        absolute = server.with_key(LAST).replace(b"POST /", b"POST http://elsewhere/")
        twice = server.with_key(server.with_key(LAST))

        assert {one: found for one, found in hidden.items() if found != [400]} == {}
        assert statuses(sent(server.port, server.with_key(LAST.replace(b"\r\n", b"\n")))) == [400]
        assert statuses(sent(server.port, absolute)) == [200]
        assert statuses(sent(server.port, twice)) == [400]


def test_many_requests_in_one_packet_are_answered_in_order(server: Server) -> None:
    """Also where they are longer together than the headers of one may be."""
    good, last = server.with_key(GOOD), server.with_key(LAST)
    bad = good.replace(b"observation", b"observatory")

    received = sent(server.port, good * 500 + bad + good * 20 + last)

    assert statuses(received) == [200] * 500 + [400] + [200] * 21


def endless(server: Server, head: bytes, piece: bytes) -> list[int]:
    """What comes back to a request that repeats the same piece without end; it is soon cut off."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(server.with_key(head))
        ends = time.monotonic() + 30
        with suppress(OSError):
            while time.monotonic() < ends:
                connection.sendall(piece)
            pytest.fail("it was taken for half a minute")
        try:
            return statuses(connection.recv(65536))
        except OSError:  # who still sends may not read why
            return []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "piece", "status"),
    [
        (HEAD, b"A: " + b"b" * 1000 + b"\r\n", 431),
        (HEAD + b"A: ", b"b" * 10_000, 431),
        (HEAD + CHUNKED + b"1;", b"a" * 10_000, 431),
        (HEAD + CHUNKED + b"1\r\n[\r\n0\r\n", b"A: " + b"b" * 1000 + b"\r\n", 431),
        (HEAD + CHUNKED + b"1\r\n[\r\n0\r\nA: ", b"b" * 10_000, 431),
        (HEAD + CHUNKED, b"1\r\n[\r\n" * 5_000, 431),
        (HEAD + CHUNKED, b"4000\r\n" + bytes(0x4000) + b"\r\n", 413),
        (HEAD.replace(b"/predictions", b"/nowhere") + CHUNKED + b"1;", b"a" * 10_000, 431),
    ],
    ids=[
        "headers",
        "a header",
        "a chunk's size",
        "trailers",
        "a trailer",
        "tiny chunks",
        "chunks",
        "nowhere",
    ],
)
def test_what_has_no_end_is_cut_off(server: Server, head: bytes, piece: bytes, status: int) -> None:
    """Ten at once, whatever it is that does not end."""
    with server.neighbor():
        found = at_once([partial(endless, server, head, piece)] * 10)

    # what is refused before its end has come may be answered so at first
    assert {status for one in found for status in one} <= {status, *([404] if b"nowhere" in head else [])}


@pytest.mark.slow
def test_bombs_are_refused_and_hold_up_nobody(server: Server) -> None:
    """Bodies that unpack to much, and JSON that is deep, broken or long; several at once."""
    url, headers = f"{server.client.inference}/predictions/balance", {"Content-Type": "application/json"}
    headers["Authorization"] = server.header.decode().partition(": ")[2].strip()
    numbers = b"[" + b"0.125," * 1_000_000
    bodies = {
        "packed": (gzip.compress(bytes(2**28), 1), {"Content-Encoding": "gzip"}, 413),
        "deep": (b"[" * 2_000_000, {}, 400),
        "deep objects": (b'{"a":' * 1_000_000, {}, 400),
        "broken": (numbers, {}, 400),
        "broken, without a type": (numbers, {"Content-Type": "image/png"}, 400),
        "many instances": (b'{"instances": [%s[0]]}' % (b"[0]," * 1_000_000), {}, 413),
        "long": (b'{"observation": %s0]}' % numbers, {}, 400),
    }

    def send(name: str) -> tuple[str, int]:
        body, more, _ = bodies[name]
        answer = requests.post(url, body, headers={**headers, **more}, timeout=300)
        return name, answer.status_code

    with server.neighbor(), ThreadPoolExecutor(6) as pool:
        found = set(pool.map(send, list(bodies) * 3))

    assert found == {(name, status) for name, (_, _, status) in bodies.items()}


@pytest.mark.slow
def test_callers_that_take_their_time_are_cut_off(server: Server) -> None:
    """Headers and bodies a byte a moment, or nothing at all: for a minute, and no longer."""
    starts = [b"", b"GET / HTTP/1.1\r\nA: ", HEAD + b"Content-Length: 900\r\n\r\n", HEAD + CHUNKED + b"ff;"]
    ends = time.monotonic() + REQUEST_SECONDS + 30

    def drip(start: bytes) -> tuple[bytes, bool]:
        with socket.create_connection(("127.0.0.1", server.port), timeout=1) as connection:
            connection.sendall(server.with_key(start))
            told = b""  # an answer may come in pieces
            while time.monotonic() < ends:
                try:
                    if start:
                        connection.sendall(b"a")
                    if not (found := connection.recv(65536)):
                        return start, statuses(told) in ([], [408])
                    told += found
                except TimeoutError:
                    continue
                except OSError:
                    return start, statuses(told) in ([], [408])
        return start, False

    with server.neighbor():
        found = at_once([partial(drip, start) for start in starts * 15])

    assert found == [(start, True) for start in starts * 15]


@pytest.mark.slow
def test_idle_connections_by_the_thousand_keep_nobody_out(server: Server) -> None:
    """More than the 1024 files that a process may have open by default."""
    count, before = 3000, resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < count + 500:
        pytest.skip(f"a process may open {before[1]} files at most here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        with server.neighbor(), ExitStack() as idle:
            for _ in range(count):
                idle.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            assert statuses(sent(server.port, server.with_key(LAST))) == [200]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
def test_ten_thousand_random_requests_end_no_worker(server: Server) -> None:
    """Each is answered, refused or dropped."""
    chance = random.Random(1)
    requests_ = [server.with_key(mutated(chance)) for _ in range(10_000)]

    with server.neighbor(), ThreadPoolExecutor(16) as pool:
        found = [status for one in pool.map(partial(try_, server.port), requests_) for status in one]

    assert set(found) <= {200, 400, 401, 404, 405, 408, 413, 415}
    assert len(found) > 5_000


def grpc_status(server: Server, method: str, message: bytes, with_key: bool = True) -> str:
    """How a call with these bytes as its message ends."""
    options = [("grpc.max_send_message_length", -1)]
    metadata = [("authorization", server.header.decode().partition(": ")[2].strip())] if with_key else []
    with grpc.insecure_channel(f"127.0.0.1:{server.port + 3}", options=options) as channel:
        done = channel.unary_unary(method).future(message, metadata=metadata, timeout=60)
        assert "Traceback" not in (done.details() or "")
        return str(done.code().name)


INFER, PREDICT = (
    "/inference.GRPCInferenceService/ModelInfer",
    "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
)


def test_grpc_refuses_what_is_too_much_or_no_message(server: Server) -> None:
    """Messages that are too long, random, of another kind, or without a key."""
    chance, prediction = random.Random(2), torchserve.PredictionsRequest(model_name="balance")
    prediction.input["data"] = bytes(21_000_000)
    long = prediction.SerializeToString()
    prediction.input["data"] = b'{"observation": ' + b"[0.5," * 3_000_000
    broken = prediction.SerializeToString()

    with server.neighbor():
        assert grpc_status(server, INFER, long) == "RESOURCE_EXHAUSTED"
        assert grpc_status(server, PREDICT, long) == "RESOURCE_EXHAUSTED"
        assert grpc_status(server, PREDICT, broken) == "INVALID_ARGUMENT"
        assert grpc_status(server, INFER, b"", with_key=False) == "UNAUTHENTICATED"
        assert grpc_status(server, "/inference.GRPCInferenceService/Nothing", b"") == "UNIMPLEMENTED"
        found = {grpc_status(server, INFER, chance.randbytes(size)) for size in range(1, 200)}
    assert found <= {"NOT_FOUND", "INVALID_ARGUMENT"}


@pytest.mark.slow
def test_connections_that_are_no_grpc_disturb_nobody(server: Server) -> None:
    """Half a greeting, frames without an end, random bytes: two hundred connections that stay open."""
    chance, address = random.Random(3), ("127.0.0.1", server.port + 3)
    starts = [b"", GRPC_GREETING[:10], GRPC_GREETING, GRPC_GREETING + b"\x00\xff\xff\x01\x04\x00\x00\x00\x01"]

    with server.neighbor(), ExitStack() as opened:
        for index in range(200):
            connection = opened.enter_context(socket.create_connection(address, timeout=10))
            connection.sendall(starts[index % 5] if index % 5 < 4 else chance.randbytes(500))
        good = torchserve.PredictionsRequest(model_name="balance")
        good.input["data"] = b'{"observation": [0.0, 0.0, 0.1, 0.2]}'
        assert grpc_status(server, PREDICT, good.SerializeToString()) == "OK"
