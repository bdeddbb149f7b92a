"""Measures what more nodes of a Ray cluster serve, and what the cluster costs beside the standalone engine.

    .venv/bin/marina bench scale                     # 1, 2 and 3 nodes, digits-sized and policy-sized models
    .venv/bin/marina bench scale --cap 0.25 --nodes 1 --nodes 3

Every node is one of `marina cluster up` on this machine, with one replica. `--cap` gives each node, and the
standalone server, the same share of a core by a cgroup (Linux, root), so that the nodes don't take the cores
from each other and the clients have some left: requests per second can then be compared. Callers are spread
over the nodes' fronts; HAProxy there chooses the replica. `ms CPU` is the processor time of all server
processes, the head and the controller included, per request; `idle` is what they take per second without any
request, in cores. `of n` is the rate over n times that of one node.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.served_models import build_model
from marina import engines
from marina.client import Client
from marina.core import spec
from marina.core.console import Output
from marina.core.scratch import scratch_folder
from marina.engines import ports
from marina.engines import server_process as server
from marina.engines.ray.joined import ADDRESS
from marina.engines.ray.local_cluster import STEP, LocalCluster
from marina.load.load_generator import LoadResult, closed_loops, request
from marina.pipeline import steps as up

PERIOD = 100_000  # microseconds of a cgroup's quota
QUIET_SECONDS = 5.0
REPLICAS_SECONDS = 120.0
COLUMNS = (
    "model",
    "engine",
    "nodes",
    "clients",
    "req/s",
    "of n",
    "p50 ms",
    "p99 ms",
    "failed",
    "ms CPU",
    "idle",
)


@dataclass(frozen=True)
class Served:
    """A server under load: where it answers, the roots of its process trees, and those that are capped."""

    fronts: list[int]
    roots: list[int]
    capped: list[int]
    client: Client


def families(roots: list[int]) -> list[psutil.Process]:
    """The processes of trees that are alive."""
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return list(found.values())


def processor_seconds(roots: list[int]) -> float:
    """Processor time of process trees so far."""
    total = 0.0
    for process in families(roots):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


@contextmanager
def capped(roots: list[int], cores: float | None) -> Iterator[None]:
    """Give each process tree so many cores for the time of the block. Raises OSError without cgroups."""
    if cores is None:
        yield
        return
    first = Path("/sys/fs/cgroup/cpu")  # version 1 has a folder per resource
    groups = [(first if first.is_dir() else first.parent) / f"marina-{os.getpid()}-{root}" for root in roots]
    quota = str(int(cores * PERIOD))
    try:
        for group, root in zip(groups, roots, strict=True):
            group.mkdir()
            if first.is_dir():
                (group / "cpu.cfs_period_us").write_text(str(PERIOD))
                (group / "cpu.cfs_quota_us").write_text(quota)
            else:
                (group / "cpu.max").write_text(f"{quota} {PERIOD}")
            for process in families([root]):
                with suppress(ProcessLookupError):
                    (group / "cgroup.procs").write_text(str(process.pid))
        yield
    finally:
        for group in groups:
            if group.is_dir():
                for pid in (group / "cgroup.procs").read_text().split():
                    with suppress(ProcessLookupError):
                        (group.parent / "cgroup.procs").write_text(pid)
                group.rmdir()


@contextmanager
def standalone(model: spec.Spec, home: Path) -> Iterator[Served]:
    """The standalone engine with one worker."""
    port = server.free_port_base()
    with up.serving([model], port, Output(as_json=True), engines.get("standalone")) as client:
        state = server.read_state(port, home)
        assert state
        yield Served([port], [state.pid], [state.pid], client)


@contextmanager
def ray_cluster(model: spec.Spec, home: Path, nodes: int) -> Iterator[Served]:
    """A cluster of so many nodes, each with a replica. Raises ServerError where it does not come up."""
    port = next(
        base
        for base in range(20080, 60000 - nodes * STEP, 10)
        if not any(ports.taken(base + number * STEP) for number in range(nodes + 1))
    )
    cluster = LocalCluster(nodes, 1.0, port, home)
    with ExitStack() as stack:
        stack.callback(cluster.stop)
        state = cluster.start()
        stack.callback(os.environ.pop, ADDRESS, None)
        os.environ[ADDRESS] = state.address
        engine = engines.get("ray")
        client = stack.enter_context(up.serving([model], port, Output(as_json=True), engine))
        client.scale(model.name, model.version, nodes)
        computing = state.nodes[1:]
        deadline = time.monotonic() + REPLICAS_SECONDS
        while not all(ports.taken(node.front_port) for node in computing):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not every node had a replica within {REPLICAS_SECONDS:.0f} s")
            time.sleep(0.5)
        controller = server.read_state(port, home)
        assert controller
        pids = [node.pid for node in computing]
        roots = [*pids, state.nodes[0].pid, controller.pid]
        yield Served([node.front_port for node in computing], roots, pids, client)


def measure(
    served: Served, model: spec.Spec, body: bytes, content_type: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each number of clients per node."""
    rows = []
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {served.client.token('inference')}"}
    contents = {port: request(port, f"/predictions/{model.name}", body, headers) for port in served.fronts}
    with capped(served.capped, arguments.cap):
        load(contents, 4, arguments.seconds / 2)
        before = processor_seconds(served.roots)
        time.sleep(QUIET_SECONDS)
        idle = (processor_seconds(served.roots) - before) / QUIET_SECONDS
        for clients in arguments.clients or [8]:
            before = processor_seconds(served.roots)
            measured = load(contents, clients, arguments.seconds)
            spent = processor_seconds(served.roots) - before
            rows.append(
                {
                    "model": model.name,
                    "nodes": len(contents),
                    "clients": clients * len(contents),
                    "rate": measured.rate,
                    "p50": measured.percentile(0.5),
                    "p99": measured.percentile(0.99),
                    "failed": measured.failed,
                    "cpu": 1000 * spent / max(1, len(measured.milliseconds)),
                    "idle": idle,
                }
            )
    return rows


def load(contents: dict[int, bytes], clients: int, seconds: float) -> LoadResult:
    """Load with so many clients at each front."""
    return asyncio.run(closed_loops(contents, clients, seconds))


def show(rows: list[dict[str, Any]], cap: float | None) -> None:
    """The table."""
    share = f", each node with {cap:g} of a core" if cap else ""
    table = Table(title=f"Ray Serve on more nodes{share}; {os.cpu_count()} cores here")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("model", "engine") else "right")
    for row in rows:
        table.add_row(
            *(row["model"], row["engine"], str(row["nodes"]), str(row["clients"])),
            *(f"{row['rate']:.0f}", f"{row['of_n']:.2f}" if "of_n" in row else ""),
            *(f"{row['p50']:.1f}", f"{row['p99']:.1f}", str(row["failed"])),
            *(f"{row['cpu']:.3f}", f"{row['idle']:.2f}"),
        )
    Console(width=max(120, Console().width)).print(table)


def compare_nodes(rows: list[dict[str, Any]]) -> None:
    """Write into the rows of Ray how their rate compares with that of as many single nodes."""
    alone = {
        (row["model"], row["clients"]): row["rate"]
        for row in rows
        if row["nodes"] == 1 and row["engine"] == "ray"
    }
    for row in rows:
        one = alone.get((row["model"], row["clients"] // row["nodes"]))
        if row["engine"] == "ray" and one:
            row["of_n"] = row["rate"] / (row["nodes"] * one)


def main() -> None:
    """Read the arguments, measure, show."""
    parser = argparse.ArgumentParser(
        prog="marina bench scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=["policy", "digits"], help="default: both")
    parser.add_argument("--nodes", action="append", type=int, help="default: 1, 2 and 3 in turn")
    parser.add_argument("--clients", action="append", type=int, help="of each node; default: 8")
    parser.add_argument("--seconds", type=float, default=8, help="of each load")
    parser.add_argument("--cap", type=float, help="cores of each node; default: no limit")
    parser.add_argument("--out", type=Path, help="write the rows there, as JSON")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    options = argparse.Namespace(delay=1, agreement=0.99, export=None, weights=None)
    for name in arguments.model or ["digits", "policy"]:
        with scratch_folder("marina-bench-") as home:
            model, body, content_type = build_model(name, options, home, workers=1, max_workers=1)
            with standalone(model, home) as served:
                found = measure(served, model, body, content_type, arguments)
            rows += [{"engine": "standalone", **row} for row in found]
            for nodes in arguments.nodes or [1, 2, 3]:
                with ray_cluster(model, home, nodes) as served:
                    found = measure(served, model, body, content_type, arguments)
                rows += [{"engine": "ray", **row} for row in found]
    compare_nodes(rows)
    show(rows, arguments.cap)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
