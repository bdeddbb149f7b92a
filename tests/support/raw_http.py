"""HTTP byte by byte, as no client writes it: broken, ambiguous, slow."""

import random
import socket
import time
from contextlib import suppress

BODY = b'{"observation": [0.0, 0.0, 0.1, 0.2]}'
HEAD = b"POST /predictions/balance HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GOOD = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LAST = GOOD.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
_SECOND = b"GET /v2/models/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
_ENDINGS = (
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: 0\r\nContent-Length: 48\r\n\r\n",
    b"Content-Length: 0, 48\r\n\r\n",
    b"Content-Length: +5\r\n\r\nhello",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"A: b\x00c\r\nContent-Length: 0\r\n\r\n",
    b"Content-Length: many\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx\r\n0\r\n\r\n",
    b"Content-Length: 99999999999999999999999\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    b"Content-Length: 0\n\r\n",
    b"Content-Length: 0\r\n\n",
    b"Content-Length:\x0b0\r\n\r\n",
    b"\r\x00Content-Length: 0\r\n\r\n",
)
# requests whose end two servers could see in two places, with another one behind them
SMUGGLERS = tuple(HEAD + ending + _SECOND for ending in _ENDINGS)


def sent(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that comes back until the server closes the connection, or for two seconds."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection, suppress(OSError):
        with suppress(OSError):  # it was closed while we were sending
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        while chunk := connection.recv(65536):
            received += chunk
    return received


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def try_(port: int, data: bytes) -> list[int]:
    """The statuses of what comes back at once, for data that may be no request at all."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        try:
            return statuses(connection.recv(65536))
        except ConnectionResetError:
            return []


def mutated(chance: random.Random) -> bytes:
    """A good request with a few bytes overwritten, cut out or put in."""
    data = bytearray(LAST)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place, count = chance.randrange(len(data) + 1), chance.choice((1, 1, 4, 30))
        new = chance.choice((chance.randbytes(count), bytes(count), b"\xff" * count, b"\r\n", b":", b"0"))
        data[place : place + chance.choice((0, len(new), len(new), 50))] = new
    return bytes(data)
