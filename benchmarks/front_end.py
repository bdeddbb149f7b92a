"""Where the processor time of a small request goes, thread by thread, and what a setting changes.

    .venv/bin/python benchmarks/front_end.py --variant workers=2 --variant max_batch_delay_ms=2 --variant
    TS_NUMBER_OF_NETTY_THREADS=8

A variant is our default with settings changed, separated by commas: those in capitals are the server's
environment (TorchServe's TS_..., or JDK_JAVA_OPTIONS), others are keys of `serving`. All serve the policy of
benchmarks/serving.py at the same time and are loaded in turns, so that other programs disturb them alike;
`times` is the median of the rounds' ratios to the default.
"""

import argparse
import os
import statistics
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.served_models import build_model
from benchmarks.serving import main_process
from marina.core import spec
from marina.core.console import Output
from marina.core.scratch import scratch_folder
from marina.engines import server_process as server
from marina.load.load_generator import closed_loop, request
from marina.packaging import archive
from marina.pipeline import steps as up

PARTS = {
    "epollEventLoopG": "network",
    "W-": "batching",
    "C1": "compiler",
    "C2": "compiler",
    "G": "memory",
    "VM": "memory",
}
COLUMNS = ("network", "batching", "compiler", "memory", "other", "worker")


@dataclass(frozen=True)
class Variant:
    """A server that runs, and the request that it gets."""

    name: str
    port: int
    home: Path
    content: bytes

    def load(self, clients: int, seconds: float) -> dict[str, float]:
        """Milliseconds of processor time per request by part, latencies and rate, under this many clients."""
        before = self._spent()
        measured = closed_loop(self.port, self.content, clients, seconds)
        spent, answered = self._spent(), max(1, len(measured.milliseconds))
        parts = {part: 1000 * (spent[part] - before[part]) / answered for part in COLUMNS}
        return {
            **parts,
            "all": sum(parts.values()),
            "p50": measured.percentile(0.5),
            "p99": measured.percentile(0.99),
            "rate": measured.rate,
        }

    def _spent(self) -> dict[str, float]:
        """Seconds so far, by part: of Java's threads by their names, of the workers as a whole."""
        java = psutil.Process(main_process(self.port, self.home))
        spent: dict[str, float] = defaultdict(float)
        for task in Path(f"/proc/{java.pid}/task").iterdir():
            try:
                name = (task / "comm").read_text(encoding="utf-8").strip()
                seconds = int((task / "schedstat").read_text(encoding="utf-8").split()[0]) / 1e9
            except OSError:  # it ended
                continue
            spent[next((part for start, part in PARTS.items() if name.startswith(start)), "other")] += seconds
        for child in java.children(recursive=True):
            spent["worker"] += sum(child.cpu_times()[:2])
        return spent


def started(text: str, content: tuple[bytes, str], stack: ExitStack, home: Path) -> Variant:
    """Serve the policy with the settings in `text`, until `stack` closes."""
    settings = dict(pair.strip().split("=", 1) for pair in text.split(",") if pair.strip())
    model = spec.load(
        "policy",
        {f"serving.{name}": yaml.safe_load(value) for name, value in settings.items() if name.islower()},
        home,
    )
    archive.build(model)
    port = server.free_port_base()
    with mock.patch.dict(os.environ, {name: value for name, value in settings.items() if not name.islower()}):
        client = stack.enter_context(up.serving([model], port, Output(as_json=True)))
    body, content_type = content
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {client.token('inference')}"}
    return Variant(text or "default", port, home, request(port, "/predictions/policy", body, headers))


def main() -> None:
    """Read the arguments, measure, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--variant", action="append", default=[], help="settings that differ from the default"
    )
    parser.add_argument("--clients", type=int, action="append", help="default: 1, 8 and 32")
    parser.add_argument("--seconds", type=float, default=3, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--warm-up", type=float, default=30, help="seconds of load for each before; Java compiles what is hot"
    )
    arguments = parser.parse_args()
    table = Table(title="ms of processor time per request")
    for heading in ("clients", "variant", *COLUMNS, "all", "times", "p50 ms", "p99 ms", "req/s"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    with ExitStack() as stack:
        home = stack.enter_context(scratch_folder("marina-bench-"))
        _, body, content_type = build_model("policy", argparse.Namespace(delay=1, agreement=0.99), home)
        variants = [started(text, (body, content_type), stack, home) for text in ["", *arguments.variant]]
        for variant in variants:
            for clients in (32, 1):
                variant.load(clients, arguments.warm_up / 2)
        for clients in arguments.clients or [1, 8, 32]:
            rounds = [
                [variant.load(clients, arguments.seconds) for variant in variants]
                for _ in range(arguments.rounds)
            ]
            for index, variant in enumerate(variants):
                middle = {
                    key: statistics.median(row[index][key] for row in rounds) for key in rounds[0][index]
                }
                times = statistics.median(row[index]["all"] / row[0]["all"] for row in rounds)
                figures = [*(f"{middle[key]:.4f}" for key in (*COLUMNS, "all")), f"{times:.2f}"]
                figures += [f"{middle['p50']:.1f}", f"{middle['p99']:.1f}", f"{middle['rate']:.0f}"]
                table.add_row(str(clients), variant.name, *figures)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
