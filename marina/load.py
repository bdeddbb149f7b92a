"""Load over HTTP from one process: a closed loop of some clients, or an open one at a steady rate.

A closed loop's client sends its next request when it has its answer: a slow server is asked less often, and what would have waited
is never seen (coordinated omission). The open loop sends by the clock, and counts from when a request was due.
"""

import asyncio
import time
from dataclasses import dataclass, field


@dataclass
class Measured:
    """Latencies in milliseconds of what was answered with 200; how many were answered otherwise; how long it took."""

    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """The latency that `share` of the answers don't exceed; NaN without answers."""
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


def closed(port: int, content: bytes, clients: int, seconds: float) -> Measured:
    """`clients` who each wait for an answer before they ask again."""
    return asyncio.run(_closed(port, content, clients, seconds))


def opened(port: int, content: bytes, rate: float, seconds: float, clients: int = 256) -> Measured:
    """`rate` requests per second, whatever becomes of them, over at most `clients` connections."""
    return asyncio.run(_opened(port, content, rate, seconds, clients))


async def _closed(port: int, content: bytes, clients: int, seconds: float) -> Measured:
    found = Measured()
    started = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < started + seconds:
            sent = time.perf_counter()
            await _one(reader, writer, content, sent, found)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    found.seconds = time.perf_counter() - started
    return found


async def _opened(port: int, content: bytes, rate: float, seconds: float, clients: int) -> Measured:
    found, due = Measured(), iter(range(int(rate * seconds)))
    started = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in due:  # all clients take their turns from the same clock
            when = started + number / rate
            await asyncio.sleep(max(0.0, when - time.perf_counter()))
            await _one(reader, writer, content, when, found)
        writer.close()

    await asyncio.gather(*(client() for _ in range(min(clients, int(rate * seconds)))))
    found.seconds = time.perf_counter() - started
    return found


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes, since: float, found: Measured) -> None:
    writer.write(content)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    await reader.readexactly(length)
    if head[9:12] == b"200":
        found.milliseconds.append((time.perf_counter() - since) * 1000)
    else:
        found.failed += 1
