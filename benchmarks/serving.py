"""Measures what a served request costs, beside a bare loop of the same work in one process without a server.

    .venv/bin/marina bench serve                     # digits-sized, ResNet-18-sized and policy-sized models
    .venv/bin/marina bench serve --engine torchserve --engine standalone
    .venv/bin/marina bench serve --model policy --model resnet18 --peers KIT --peer mosec --mode bf16

Models have random weights of seed 0 and go the whole way: export, archive, server, HTTP, in a home and on
ports of their own. `ms CPU` is the processor time of the server's processes, workers included, per request:
on a busy machine it is what to compare by. Latencies of the open loop count from when a request was due.
`bare` is the same handler called in process. The client here is Python and takes as much time as the server
does; --peers loads ours and other servers with wrk, and prints them in one table.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.peers import WORKLOADS, Kit
from benchmarks.served_models import MODELS, build_model
from handlers.kinds import predictor_of
from handlers.runtime.export import Export
from marina import engines
from marina.core import paths, spec
from marina.core.console import Output
from marina.core.scratch import scratch_folder
from marina.engines import server_process as server
from marina.load.load_generator import LoadResult, closed_loop, open_loop, request
from marina.pipeline import steps as up

STAGES = ("decode", "preprocess", "inference", "postprocess")


def bare(model: spec.Spec, body: bytes, size: int, seconds: float) -> float:
    """Milliseconds of CPU per request when one thread calls the handler with `size` requests at a time."""
    handler = predictor_of(model.kind)
    handler.load(model.export_dir, {**model.serving.model_config_yaml(), "handler": {"threads": 1}})
    row: Any = ({"body": json.loads(body) if model.kind == "policy" else body}, {})
    spent: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(spent) < 3:
        started = time.process_time()
        handler.answer_rows([row] * size)
        spent.append((time.process_time() - started) * 1000 / size)
    return statistics.median(spent)


def main_process(port: int, home: Path) -> int:
    """The process id of our server."""
    state = server.read_state(port, home)
    assert state is not None
    return state.pid


def processor_seconds(process: int) -> float:
    """Processor time of a server and its workers so far."""
    main = psutil.Process(process)
    return sum(sum(part.cpu_times()[:2]) for part in (main, *main.children(recursive=True)))


def resident(process: int) -> list[float]:
    """MiB of all processes of a server: resident, and their share of what several have in common (on macOS
    their own).
    """
    main = psutil.Process(process)
    usage = [part.memory_full_info() for part in (main, *main.children(recursive=True))]
    memory = [[getattr(info, name, info.uss) for info in usage] for name in ("rss", "pss")]
    return [round(sum(sizes) / 2**20) for sizes in memory]


def stages(log: Path, since: int) -> dict[str, float]:
    """Milliseconds of wall time per request and stage, from the workers' log after byte `since`."""
    requests, spent = 0, dict.fromkeys(STAGES, 0.0)
    with log.open("rb") as lines:
        lines.seek(since)
        for line in lines.read().decode(errors="replace").splitlines():
            if '"event":"batch"' in line:
                batch = json.loads(line[line.index("{") :])
                requests += batch["requests"]
                for stage in STAGES:
                    spent[stage] += batch[f"{stage}_ms"]
    return {stage: value / max(1, requests) for stage, value in spent.items()}


def measure(name: str, arguments: argparse.Namespace, home: Path) -> list[dict[str, Any]]:
    """The rows of the table for one model: the bare loop, and each engine under each load."""
    model, body, content_type = build_model(name, arguments, home)
    runtime = describe_runtime(model)
    costs = {size: bare(model, body, size, arguments.seconds / 2) for size in (1, model.serving.batch_size)}
    rows: list[dict[str, Any]] = [
        {"engine": "none", "load": f"bare, batch {size}", "cpu": cpu} for size, cpu in costs.items()
    ]
    for engine in arguments.engine or ["torchserve"]:
        rows += [
            {"engine": engine, **row}
            for row in measure_engine(engine, model, body, content_type, arguments, home)
        ]
    return [{**row, "model": name, "runtime": runtime} for row in rows]


def measure_engine(
    engine: str, model: spec.Spec, body: bytes, content_type: str, arguments: argparse.Namespace, home: Path
) -> list[dict[str, Any]]:
    """A row for each load of one engine that serves the model."""
    name, port, rows = model.name, server.free_port_base(), list[dict[str, Any]]()
    with up.serving([model], port, Output(as_json=True), engines.get(engine)) as client:
        authorization, process = f"Bearer {client.token('inference')}", main_process(port, home)
        headers = {"Content-Type": content_type, "Authorization": authorization}
        content = request(port, f"/predictions/{name}", body, headers)
        closed_loop(port, content, 8, arguments.warm_up)
        log = paths.run(port, home) / "logs" / "models.log"
        for clients in (1, 8, 32):
            load = functools.partial(closed_loop, port, content, clients, arguments.seconds)
            rows.append({"load": f"closed, {clients} clients", **measure_load(load, process, log)})
        rate = 0.6 * rows[1]["measured"].rate
        load = functools.partial(open_loop, port, content, rate, arguments.seconds)
        rows.append({"load": "open, 60 % of the rate at 8", **measure_load(load, process, log)})
        rows[-1]["memory"] = resident(process)
        if arguments.kit and name in WORKLOADS:
            runtime = f"{engine}, {describe_runtime(model)}"
            arguments.kit.load_ours(name, runtime, port, process, authorization)
    return rows


def measure_load(load: Callable[[], LoadResult], process: int, log: Path) -> dict[str, Any]:
    """What the client measured under a load, and the server's processor time and stages per request."""
    begin, before = log.stat().st_size, processor_seconds(process)
    measured = load()
    spent = processor_seconds(process) - before
    time.sleep(1.2)  # the log is written in batches
    cpu = 1000 * spent / max(1, len(measured.milliseconds))
    return {"cpu": cpu, "measured": measured, "stages": stages(log, begin)}


def describe_runtime(model: spec.Spec) -> str:
    """The runtime and precision that serve an export."""
    serving = Export.open(model.export_dir).runtimes["serve"]
    return f"{serving[0]['runtime']} {serving[0]['precision']}" if serving else "torch fp32"


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table(title="a served request")
    for heading in (
        "model",
        "runtime",
        "engine",
        "load",
        "req/s",
        "p50 ms",
        "p99 ms",
        "failed",
        "ms CPU",
        "of it decode",
        "prepare",
        "inference",
        "answer",
    ):
        table.add_column(
            heading, justify="left" if heading in ("model", "runtime", "engine", "load") else "right"
        )
    for row in rows:
        measured: LoadResult | None = row.get("measured")
        figures = (
            [
                f"{measured.rate:.0f}",
                f"{measured.percentile(0.5):.1f}",
                f"{measured.percentile(0.99):.1f}",
                str(measured.failed),
            ]
            if measured
            else [""] * 4
        )
        parts = [f"{row['stages'][stage]:.3f}" for stage in STAGES] if "stages" in row else [""] * 4
        table.add_row(
            row["model"], row["runtime"], row["engine"], row["load"], *figures, f"{row['cpu']:.3f}", *parts
        )
    console = Console(width=max(150, Console().width))
    console.print(table)
    for row in rows:
        if "memory" in row:
            console.print(
                f"{row['model']} on {row['engine']}: the server holds {row['memory'][0]} MiB, and "
                f"{row['memory'][1]} MiB with what its processes share counted once"
            )


def build_parser() -> argparse.ArgumentParser:
    """The options of `marina bench serve`."""
    parser = argparse.ArgumentParser(
        prog="marina bench serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(MODELS), help="default: all of them")
    parser.add_argument(
        "--engine", action="append", choices=list(engines.ENGINES), help="default: torchserve"
    )
    parser.add_argument("--seconds", type=float, default=6, help="of each load")
    parser.add_argument(
        "--warm-up", type=float, default=20, help="seconds of load before; Java compiles what is hot"
    )
    parser.add_argument("--delay", type=int, default=1, help="max_batch_delay_ms")
    parser.add_argument(
        "--agreement", type=float, default=0.99, help="of bfloat16 with float32; random weights may need less"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="state dict of the ResNet-18; random ones may not agree enough for bfloat16",
    )
    parser.add_argument(
        "--export",
        type=Path,
        help="the folder of an export that serves as the ResNet-18, in the precision that it chose",
    )
    parser.add_argument("--peers", type=Path, help="the folder of the peers' kit; needs wrk")
    parser.add_argument(
        "--peer", action="append", default=[], help="one of its peers, to be loaded beside ours"
    )
    parser.add_argument("--mode", action="append", help="of the peers' classifier: eager (default), bf16")
    parser.add_argument("--out", type=Path, help="write the rows there, as JSON")
    return parser


def main() -> None:
    """Read the arguments, measure, show."""
    parser = build_parser()
    arguments = parser.parse_args()
    names = arguments.model or list(MODELS)
    rows: list[dict[str, Any]] = []
    with scratch_folder("marina-bench-") as home:
        arguments.kit = _kit(arguments, home, parser) if arguments.peers else None
        for name in names:
            rows += measure(name, arguments, home)
        show(rows)
        if arguments.kit:
            arguments.kit.load_peers(names)
            arguments.kit.show()
    if arguments.out:
        plain = [_plain(row) for row in rows]
        arguments.out.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def _kit(arguments: argparse.Namespace, home: Path, parser: argparse.ArgumentParser) -> Kit:
    seconds = max(1, round(arguments.seconds))
    kit = Kit(
        arguments.peers.resolve(), arguments.peer, arguments.mode or ["eager"], seconds, home / "peers.jsonl"
    )
    if problem := kit.problem():
        parser.error(problem)
    return kit


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON."""
    plain = {key: value for key, value in row.items() if key != "measured"}
    measured: LoadResult | None = row.get("measured")
    if measured:
        plain |= {"rate": measured.rate, "p50": measured.percentile(0.5), "p99": measured.percentile(0.99)}
        plain["failed"] = measured.failed
    return plain


if __name__ == "__main__":
    main()
