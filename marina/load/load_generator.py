"""Load over HTTP from one process: a closed loop of several clients, or an open loop at a constant rate.

In a closed loop a client sends its next request after an answer, so that a slow server gets fewer requests
and waiting times are missed (coordinated omission). The open loop sends by the clock, and a latency starts
when its request is due.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class LoadResult:
    """Latencies of answers with status 200 in milliseconds, the number of other answers and of connections
    that ended without one, and the duration.
    """

    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """The quantile `share` of the latencies; NaN without answers."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.milliseconds) / self.seconds if self.seconds else 0.0


def request(port: int, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """The bytes of a POST to this machine."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def closed_loop(port: int, content: bytes, clients: int, seconds: float) -> LoadResult:
    """Load by `clients` that each wait for an answer before the next request."""
    return asyncio.run(closed_loops({port: content}, clients, seconds))


def open_loop(port: int, content: bytes, rate: float, seconds: float, clients: int = 256) -> LoadResult:
    """Load of `rate` requests per second, independent of the answers, over at most `clients` connections."""
    return asyncio.run(_open_loop(port, content, rate, seconds, clients))


async def closed_loops(contents: Mapping[int, bytes], clients: int, seconds: float) -> LoadResult:
    """Load by `clients` at each of several ports, all measured together."""
    measured = LoadResult()
    started = time.perf_counter()

    async def client(port: int, content: bytes) -> None:
        connection = _Connection(port, measured)
        while time.perf_counter() < started + seconds:
            await connection.send(content, time.perf_counter())
        connection.close()

    await asyncio.gather(*(client(*one) for one in contents.items() for _ in range(clients)))
    measured.seconds = time.perf_counter() - started
    return measured


async def _open_loop(port: int, content: bytes, rate: float, seconds: float, clients: int) -> LoadResult:
    measured, due = LoadResult(), iter(range(int(rate * seconds)))
    started = time.perf_counter()

    async def client() -> None:
        connection = _Connection(port, measured)
        for number in due:  # all clients share one clock
            when = started + number / rate
            await asyncio.sleep(max(0.0, when - time.perf_counter()))
            await connection.send(content, when)
        connection.close()

    await asyncio.gather(*(client() for _ in range(min(clients, int(rate * seconds)))))
    measured.seconds = time.perf_counter() - started
    return measured


class _Connection:
    """A client's connection, opened again after the server has closed it."""

    def __init__(self, port: int, measured: LoadResult) -> None:
        self._port, self._measured = port, measured
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, content: bytes, since: float) -> None:
        """Send a request and read its answer, whose latency counts from `since`."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(content)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._measured.failed += 1
            self.close()
            return
        if lines[0][9:12] == b"200":
            self._measured.milliseconds.append((time.perf_counter() - since) * 1000)
        else:
            self._measured.failed += 1
        if b"connection: close" in lines:
            self.close()

    def close(self) -> None:
        """Close it, if it is open."""
        if self._streams:
            self._streams[1].close()
        self._streams = None
