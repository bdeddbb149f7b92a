"""What it costs the sync client to bound a whole response, and which ways bound it at all.

    .venv/bin/python benchmarks/client_deadlines.py --rounds 9

Each way asks a small policy on the standalone engine in turns, over one kept connection; `times` is the
median of the rounds' ratios to the client's own adapter. `late after` is when each gives up on a server that
sends a byte of a header now and then, with a timeout of half a second.
"""

import argparse
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import requests
from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.table import Table
from urllib3.util import Timeout

from benchmarks.served_models import build_model
from marina import engines
from marina.client.deadline_adapter import DeadlineAdapter
from marina.core.console import Output
from marina.core.scratch import scratch_folder
from marina.engines import server_process as server
from marina.pipeline import steps

SECONDS = 0.5  # of the timeout, where the server trickles
TRICKLE_PAUSE = 0.05  # seconds between two bytes
GIVEN_UP = 4.0  # seconds, for ways without a bound
Post = Callable[[str, bytes, dict[str, str], float], bytes]


def session_of(adapter: HTTPAdapter) -> requests.Session:
    """A session that knows no proxy, with this transport."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", adapter)
    return session


def post(session: requests.Session, url: str, body: bytes, headers: dict[str, str], seconds: float) -> bytes:
    """With the timeout that requests has for the connection and for each read."""
    timeout: Any = Timeout(total=seconds)  # which the stubs of requests don't know
    return session.post(url, data=body, headers=headers, timeout=timeout).content


def post_streamed(
    session: requests.Session, url: str, body: bytes, headers: dict[str, str], seconds: float
) -> bytes:
    """As `post`, with a look at the clock after each part of the body."""
    end, parts = time.monotonic() + seconds, []
    response = session.post(url, data=body, headers=headers, timeout=seconds, stream=True)
    for part in response.iter_content(1 << 16):
        parts.append(part)
        if time.monotonic() > end:
            response.close()
            raise TimeoutError("timed out")
    return b"".join(parts)


def post_in_thread(
    pool: ThreadPoolExecutor,
    session: requests.Session,
    url: str,
    body: bytes,
    headers: dict[str, str],
    seconds: float,
) -> bytes:
    """As `post`, in a thread that is left behind when it is late."""
    return pool.submit(post, session, url, body, headers, seconds).result(seconds)


def post_by_httpx(
    client: httpx.Client, url: str, body: bytes, headers: dict[str, str], seconds: float
) -> bytes:
    """With the timeout that httpx has for the connection and for each read."""
    return client.post(url, content=body, headers=headers, timeout=seconds).content


def ways() -> dict[str, Post]:
    """The client's own adapter first."""
    plain = partial(session_of, HTTPAdapter())
    return {
        "the client's adapter": partial(post, session_of(DeadlineAdapter())),
        "requests": partial(post, plain()),
        "requests, streamed": partial(post_streamed, plain()),
        "requests, in another thread": partial(post_in_thread, ThreadPoolExecutor(1), plain()),
        "httpx": partial(post_by_httpx, httpx.Client(trust_env=False)),
    }


@contextmanager
def trickling() -> Iterator[str]:
    """The address of a server that never ends its first header."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=send, args=(connection,), daemon=True).start()

        def send(connection: socket.socket) -> None:
            with connection:
                end = time.monotonic() + GIVEN_UP
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                    while time.monotonic() < end:
                        connection.sendall(b"x")
                        stop.wait(TRICKLE_PAUSE)
                except OSError:
                    return

        stack.callback(stop.set)
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def late_after(ask: Post) -> float:
    """Seconds until a way gives up on a server that trickles; about GIVEN_UP where it doesn't."""
    with trickling() as url:
        started = time.monotonic()
        with suppress(OSError, TimeoutError, requests.RequestException, httpx.HTTPError):
            ask(url, b"{}", {}, SECONDS)
        return time.monotonic() - started


def cost(ask: Callable[[], bytes], count: int) -> dict[str, float]:
    """Milliseconds per request: of this process's CPU, and until the answer."""
    started, computed = time.monotonic(), time.process_time()
    for _ in range(count):
        ask()
    spent = time.process_time() - computed, time.monotonic() - started
    return dict(zip(("cpu", "wall"), (1000 * one / count for one in spent), strict=True))


def measured(rounds: int, count: int) -> list[dict[str, dict[str, float]]]:
    """The cost of each way, in rounds of `count` requests to a server of its own."""
    with scratch_folder("marina-bench-") as home:
        model, body, content_type = build_model("policy", argparse.Namespace(delay=1, agreement=0.99), home)
        engine = engines.get("standalone")
        with steps.serving([model], server.free_port_base(), Output(as_json=True), engine) as client:
            headers = {"content-type": content_type, "authorization": f"Bearer {client.token('inference')}"}
            url = f"{client.inference}/predictions/policy"
            asks = {name: partial(ask, url, body, headers, 30.0) for name, ask in ways().items()}
            for ask in asks.values():
                cost(ask, 50)
            return [{name: cost(ask, count) for name, ask in asks.items()} for _ in range(rounds)]


def summarized(name: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Medians of a way's costs, and of their ratios to the first way's."""
    first, row = next(iter(rounds[0])), {"late_after": late_after(ways()[name])}
    for what in ("cpu", "wall"):
        row[what] = statistics.median(one[name][what] for one in rounds)
        row[f"{what}_times"] = statistics.median(one[name][what] / one[first][what] for one in rounds)
    return row


def main() -> None:
    """Read the arguments, measure, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=300, help="per round, of each way")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="file for the results")
    arguments = parser.parse_args()
    rounds = measured(arguments.rounds, arguments.requests)
    results = {name: summarized(name, rounds) for name in ways()}
    table = Table(title=f"ms per request, medians of {arguments.rounds} rounds of {arguments.requests}")
    for heading in ("way", "CPU ms", "times", "wall ms", "times", "late after"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, row in results.items():
        figures = [f"{row[key]:.2f}" for key in ("cpu", "cpu_times", "wall", "wall_times")]
        table.add_row(name, *figures, f"{row['late_after']:.1f} s")
    Console(width=110).print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
