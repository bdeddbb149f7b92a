"""A server of HTTP that misbehaves on purpose, for the clients' tests."""

import asyncio
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import pytest

from marina.client import Client
from marina.client.async_client import AsyncClient

Trick = bytes | Callable[[socket.socket], None]


def answer(status: int = 200, content: Any = None, **headers: str) -> bytes:
    """A whole answer; by default the one that everybody hopes for."""
    body = (
        content
        if isinstance(content, bytes)
        else json.dumps({"fine": True} if content is None else content).encode()
    )
    own = {
        "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    return f"HTTP/1.1 {status} Words\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def torchserve(status: int, error_type: str, message: str) -> bytes:
    """An error as TorchServe words it."""
    return answer(status, {"code": status, "type": error_type, "message": message})


FULL = torchserve(503, "ServiceUnavailableException", 'Model "m" has no worker to serve inference request.')
DIED = torchserve(500, "InternalServerException", "Worker died.")
FINE = answer()


def reset(connection: socket.socket) -> None:
    """End the connection with a reset instead of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half(connection: socket.socket) -> None:
    """Half an answer, and the end."""
    connection.sendall(FINE[:-5])


def silent(connection: socket.socket) -> None:
    """Nothing, for as long as the client waits."""
    connection.settimeout(5)
    connection.recv(1)


def dripping(what: bytes) -> Callable[[socket.socket], None]:
    """A byte now and then, without end."""

    def drip(connection: socket.socket) -> None:
        try:
            for byte in what + bytes(1000):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            return

    return drip


def stalling(connection: socket.socket) -> None:
    """A good part of the answer, late; then nothing more."""
    time.sleep(0.3)
    connection.sendall(FINE[:-5])
    silent(connection)


class Server(socketserver.ThreadingTCPServer):
    """Answers each request with the next of its tricks, the last of them for ever; notes what arrived."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, *tricks: Trick, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Requests)
        self.tricks, self.requests, self.lock = (
            list(tricks),
            list[tuple[str, dict[str, str], bytes]](),
            threading.Lock(),
        )
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def next(self, path: str, headers: dict[str, str], body: bytes) -> Trick:
        with self.lock:
            self.requests.append((path, headers, body))
            return self.tricks.pop(0) if len(self.tricks) > 1 else self.tricks[0]


class Requests(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        try:
            while line := self.rfile.readline():
                headers: dict[str, str] = {}
                while (header := self.rfile.readline().decode().strip()) and ":" in header:
                    name, value = header.split(":", 1)
                    headers[name.lower()] = value.strip()
                body = self.rfile.read(int(headers.get("content-length", 0)))
                trick = self.server.next(line.decode().split()[1], headers, body)
                if not isinstance(trick, bytes):
                    trick(self.connection)
                    return
                self.connection.sendall(trick)
        except OSError:
            return


S = TypeVar("S", bound=Server)


@contextmanager
def running(server: S) -> Iterator[S]:
    """The server, for the length of a `with` block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def serving(*tricks: Trick, port: int = 0) -> AbstractContextManager[Server]:
    """A running server with these tricks."""
    return running(Server(*tricks, port=port))


def sync_predict(url: str, body: Any = None, **settings: Any) -> Any:
    with Client(url=url, **settings) as client:
        return client.predict("m", {"x": 1} if body is None else body)


def async_predict(url: str, body: Any = None, **settings: Any) -> Any:
    async def predict() -> Any:
        async with AsyncClient(url=url, **settings) as client:
            return await client.predict("m", {"x": 1} if body is None else body)

    return asyncio.run(predict())


BOTH = pytest.mark.parametrize("predict", [sync_predict, async_predict], ids=["sync", "async"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
