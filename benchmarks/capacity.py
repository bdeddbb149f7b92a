"""Measures how many requests a worker serves, and what it takes in memory.

    .venv/bin/python benchmarks/capacity.py                    # the models that have an archive
    .venv/bin/python benchmarks/capacity.py scenes --workers 2 --clients 8

One model at a time is served on ports of its own and gets its first golden sample from a closed loop of
clients. `worker ms` is the processor time of the workers per request, `server ms` that of Java; other
programs on the machine disturb both less than they disturb rates and latencies. `per core` is what a worker
with a core of its own would serve: 1000 / worker ms. Memory is per worker: resident, and private
(USS: what ends with the process).
"""

import argparse
import os
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from marina.core import paths, spec
from marina.core.console import Output
from marina.engines import server_process as server
from marina.load.load_generator import closed_loop, request
from marina.pipeline import readiness, steps

COLUMNS = "model workers clients requests/s p50 p95 p99 worker_ms server_ms per_core resident private"


def processes_of(port: int) -> tuple[psutil.Process, list[psutil.Process]]:
    """The Java process of the server at `port`, and its workers."""
    state = server.read_state(port)
    assert state is not None
    java = psutil.Process(state.pid)
    workers = [
        child
        for child in java.children(recursive=True)
        if any("model_service_worker" in word for word in child.cmdline())
    ]
    return java, workers


def processor_seconds(process: psutil.Process) -> float:
    """User and system time of one process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(model: spec.Spec, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per number of clients."""
    port, sample, rows = server.free_port_base(), readiness.golden_samples(model)[0], []
    with steps.serving([model], port, Output(as_json=True)) as client:
        if arguments.workers > 1:
            client.scale(model.name, model.version, arguments.workers)
        headers = {
            "Content-Type": sample["content_type"],
            "Authorization": f"Bearer {client.token('inference')}",
        }
        content = request(port, f"/predictions/{model.name}", sample["body"], headers)
        closed_loop(port, content, 8, arguments.warm_up)
        java, workers = processes_of(port)
        for clients in arguments.clients or (1, 8, 32):
            before = processor_seconds(java), sum(map(processor_seconds, workers))
            load = closed_loop(port, content, clients, arguments.seconds)
            after = processor_seconds(java), sum(map(processor_seconds, workers))
            answers = max(1, len(load.milliseconds))
            java_ms, worker_ms = (
                1000 * (end - start) / answers for start, end in zip(before, after, strict=True)
            )
            memory = [worker.memory_full_info() for worker in workers]
            rows.append(
                {
                    "model": model.name,
                    "workers": len(workers),
                    "clients": clients,
                    "requests/s": round(load.rate),
                    **{f"p{share}": round(load.percentile(share / 100), 1) for share in (50, 95, 99)},
                    "worker_ms": round(worker_ms, 3),
                    "server_ms": round(java_ms, 3),
                    "per_core": round(1000 / worker_ms),
                    "resident": round(max(info.rss for info in memory) / 2**20),
                    "private": round(max(info.uss for info in memory) / 2**20),
                    "java_mib": round(java.memory_info().rss / 2**20),
                    "failed": load.failed,
                }
            )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="models; default: all that have an archive")
    parser.add_argument(
        "--workers", type=int, default=1, help="of the model; its max_workers must allow them"
    )
    parser.add_argument("--clients", type=int, action="append", help="default: 1, 8 and 32 in turn")
    parser.add_argument("--seconds", type=float, default=8, help="of each load")
    parser.add_argument(
        "--warm-up", type=float, default=8, help="seconds of load before; Java compiles what is hot"
    )
    arguments = parser.parse_args()
    names = arguments.names or [
        name for name in spec.names() if (paths.model_store() / spec.load(name).archive_name).is_file()
    ]
    table = Table(title=f"capacity, {os.cpu_count()} cores; latencies in ms, memory in MiB")
    for column in [*COLUMNS.split(), "java_mib", "failed"]:
        table.add_column(column.replace("_", " "), justify="left" if column == "model" else "right")
    for name in names:
        for row in measure(spec.load(name), arguments):
            table.add_row(*(str(value) for value in row.values()))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
