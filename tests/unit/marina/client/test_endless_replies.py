"""Replies that don't end: the clients stop reading at a number of bytes, and say it."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from marina.client import grpc_client, wire
from marina.client.grpc_client import GrpcClient
from marina.core.errors import ServerFault
from tests.support.misbehaving_server import BOTH, serving

WORDS = r"more than 1,000,000 bytes \(marina.client.wire.MAX_REPLY_BYTES\).*check the address"


@pytest.fixture(autouse=True)
def _a_small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_REPLY_BYTES", 1_000_000)


def endless(connection: socket.socket) -> None:
    """Chunks of an answer, for as long as somebody reads them."""
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
    except OSError:
        return


@BOTH
def test_an_endless_reply_is_read_up_to_a_limit(predict: Callable[..., Any]) -> None:
    with serving(endless) as server, pytest.raises(ServerFault, match=WORDS):
        predict(server.url, timeout=30)

    assert len(server.requests) == 1


def test_an_endless_reply_over_grpc_is_read_up_to_a_limit() -> None:
    grpc = pytest.importorskip("grpc")
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: bytes(2_000_000))
    service, method = grpc_client.METHOD.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    with (
        GrpcClient(target=f"127.0.0.1:{port}", token="t", timeout=30) as client,
        pytest.raises(ServerFault, match=WORDS),
    ):
        client.predict("m", [1])
    server.stop(None).wait(10)
