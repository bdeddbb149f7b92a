"""Counts which of the requests that a server has accepted it still answers when it is told to stop (SIGTERM).

    .venv/bin/marina bench stop                      # TorchServe and the standalone engine

Sixteen callers send a large picture each, on connections of their own, to a digits-sized model that answers
one at a time. When the first is answered, the server's main process gets SIGTERM. `answered` counts the whole
answers, `503` those that say so, `broken off` the connections that end without an answer, `refused` those
that were not accepted any more; a supervised server waits up to 20 s for its end.
"""

import argparse
import http.client
import io
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.served_models import build_model
from marina import engines
from marina.core import spec
from marina.core.console import Output
from marina.engines import server_process as server
from marina.pipeline import steps as up

CALLERS = 16
PIXELS = (3000, 2000)  # of the picture: some 0.1 s to decode
OUTCOMES = ("answered", "503", "broken off", "refused")
OK = 200


def picture() -> bytes:
    """A JPEG of noise, which takes its time."""
    pixels = np.random.default_rng(0).integers(0, 256, (*PIXELS[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def ask(port: int, token: str, body: bytes) -> str:
    """One of OUTCOMES, or another status, of a request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.connect()
    except OSError:
        return "refused"
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
        connection.request("POST", "/predictions/digits", body, headers)
        answer = connection.getresponse()
        answer.read()
        return "answered" if answer.status == OK else str(answer.status)
    except (OSError, http.client.HTTPException):
        return "broken off"
    finally:
        connection.close()


def stop_under_load(engine: str, model: spec.Spec, body: bytes) -> tuple[Counter[str], float]:
    """The outcomes, and the seconds from SIGTERM to the end of the server's process."""
    port, outcomes, first = server.free_port_base(), Counter[str](), threading.Event()
    with up.serving([model], port, Output(as_json=True), engines.get(engine)) as client:
        token = client.token("inference")
        for _ in range(3):  # the first answers of a server take longer
            ask(port, token, body)

        def call() -> None:
            outcomes[ask(port, token, body)] += 1
            first.set()

        calling = [threading.Thread(target=call) for _ in range(CALLERS)]
        for thread in calling:
            thread.start()
        first.wait(60)
        state = server.read_state(port, model.home)
        assert state
        process = state.process()
        assert process
        os.kill(state.pid, signal.SIGTERM)
        started = time.monotonic()
        process.wait(60)
        seconds = time.monotonic() - started
        for thread in calling:
            thread.join(60)
    return outcomes, seconds


def main() -> None:
    """Read the arguments, measure, show."""
    parser = argparse.ArgumentParser(
        prog="marina bench stop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", action="append", choices=list(engines.ENGINES), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each engine")
    parser.add_argument("--out", type=Path, help="write the rows there, as JSON")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="marina-bench-"))
    rows: list[dict[str, Any]] = []
    try:
        options = argparse.Namespace(delay=1, agreement=0.99, export=None, weights=None)
        model, _, _ = build_model("digits", options, home, batch_size=1, workers=1)
        body = picture()
        for engine in arguments.engine or list(engines.ENGINES):
            outcomes, seconds = Counter[str](), []
            for _ in range(arguments.rounds):
                found, took = stop_under_load(engine, model, body)
                outcomes += found
                seconds.append(round(took, 1))
            rows.append({"engine": engine, **outcomes, "seconds": max(seconds)})
    finally:
        shutil.rmtree(home, ignore_errors=True)
    show(rows)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table(title="accepted requests at SIGTERM")
    table.add_column("engine")
    headings = [*OUTCOMES, *sorted({key for row in rows for key in row} - {*OUTCOMES, "engine", "seconds"})]
    for heading in (*headings, "s until it ended"):
        table.add_column(heading, justify="right")
    for row in rows:
        counts = [str(row.get(heading, 0)) for heading in headings]
        table.add_row(row["engine"], *counts, str(row["seconds"]))
    Console().print(table)


if __name__ == "__main__":
    main()
