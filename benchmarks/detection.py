"""Measures what a detected picture costs, beside TorchServe's own object_detector handler.

Both have the same network and threads.

    .venv/bin/marina bench detect     # torchvision's SSDLite with its COCO weights, downloaded
    .venv/bin/marina bench detect --source FILE.py:FUNCTION --scores sigmoid --data FOLDER    # your own

Both serve with two workers of one thread and batches of 8 or 1 ms, from ports and folders of their own, and
take turns under load. `ms CPU` is the processor time of the server's processes, workers included, per
request. TorchServe's handler needs captum.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_image

from benchmarks.serving import describe_runtime, main_process, processor_seconds
from marina.core.console import Output
from marina.core.scratch import scratch_folder
from marina.core.spec import Spec
from marina.engines import server_process as server
from marina.engines.torchserve.java import MAIN_CLASS, find_java
from marina.load.load_generator import LoadResult, closed_loop, request
from marina.pipeline import importing
from marina.pipeline import steps as up
from training.data import held_out_objects

NAME, SIZE = "detector", (640, 480)
STOCK, OWN = "TorchServe's handler", "Marina"
SERVING = {"workers": 2, "batch_size": 8, "max_batch_delay_ms": 1}
Load = tuple[LoadResult, float]  # what the client measured, ms of processor time per request
MODEL_FILE = """import sys
sys.path.insert(0, {source!r})
import torch
from training.imports.sources import build
from training.recipes.imported_detector import Settings


class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = build(Settings(**{settings!r})).eval()

    def forward(self, pictures):
        return self.network(list(pictures))
"""


def picture(data: str | None) -> bytes:
    """A JPEG of 640 x 480: the first of the data's test pictures, or scikit-learn's photograph."""
    if data:
        with Image.open(io.BytesIO(held_out_objects(data).test[0].encoded()[0])) as opened:
            photo = opened.convert("RGB").resize(SIZE)
    else:
        photo = Image.fromarray(load_sample_image("china.jpg")).resize(SIZE)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def build_own(arguments: argparse.Namespace, home: Path) -> Spec:
    """The detector, imported, exported and archived."""
    settings = {name: getattr(arguments, name) for name in ("source", "weights", "data", "classes")}
    overrides = {f"serving.{key}": value for key, value in SERVING.items()}
    overrides |= {"training.scores": arguments.scores} if arguments.scores else {}
    output = Output(as_json=True)
    spec, _ = importing.make_spec(NAME, settings, "detector", overrides, trust_pickle=False, home=home)
    importing.import_and_export(spec, trust_pickle=False, output=output)
    importing.write_spec(spec)
    up.pack(spec, output)
    return spec


def build_archive(spec: Spec, folder: Path) -> Path:
    """Archive the network of `spec` for TorchServe's own handler; returns the model store."""
    store = folder / "store"
    store.mkdir(parents=True)
    source = MODEL_FILE.format(source=str(Path(__file__).parent.parent), settings=spec.training.settings)
    (folder / "model.py").write_text(source, encoding="utf-8")
    workers = {"minWorkers": SERVING["workers"], "maxWorkers": SERVING["workers"]}
    batches = {"batchSize": SERVING["batch_size"], "maxBatchDelay": SERVING["max_batch_delay_ms"]}
    (folder / "config.yaml").write_text(yaml.safe_dump({**workers, **batches}), encoding="utf-8")
    options = {
        "--model-name": NAME,
        "--version": "1.0",
        "--model-file": folder / "model.py",
        "--handler": "object_detector",
        "--config-file": folder / "config.yaml",
        "--export-path": store,
    }
    words = [str(word) for pair in options.items() for word in pair]
    subprocess.run(
        [str(Path(sys.executable).parent / "torch-model-archiver"), *words], check=True, timeout=900
    )
    return store


def write_properties(port: int, folder: Path) -> Path:
    """The configuration of a TorchServe at `port` and the four above it, without tokens."""
    addresses = {"inference_address": port, "management_address": port + 1, "metrics_address": port + 2}
    properties = {key: f"http://127.0.0.1:{value}" for key, value in addresses.items()}
    properties |= {"grpc_inference_address": "127.0.0.1", "grpc_management_address": "127.0.0.1"}
    properties |= {"grpc_inference_port": str(port + 3), "grpc_management_port": str(port + 4)}
    properties |= {"disable_token_authorization": "true"}
    file = folder / "config.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8")
    return file


def start_stock(properties: Path, store: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """Start TorchServe as it comes, with its log in `folder`."""
    home = Path(str(files("ts"))).parent
    java = [str(find_java()), f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={folder}"]
    java += ["-cp", str(home / "ts" / "frontend" / "*"), MAIN_CLASS]
    options = [
        "--python",
        sys.executable,
        "-f",
        str(properties),
        "-s",
        str(store),
        "-m",
        f"{NAME}={NAME}.mar",
    ]
    logs = str(folder / "logs")
    variables = {**os.environ, "LOG_LOCATION": logs, "METRICS_LOCATION": logs, "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen([*java, *options], env=variables, stdout=log, stderr=log, cwd=folder)


def wait_until_answered(process: "subprocess.Popen[bytes]", url: str, body: bytes, log: Path) -> None:
    """Send `body` until it is answered. Raises SystemExit with the end of the log if it isn't."""
    for _ in range(240):
        with contextlib.suppress(requests.RequestException):
            if requests.post(url, data=body, timeout=60).status_code == 200:
                return
        if process.poll() is not None:
            raise SystemExit(f"TorchServe ended: {log.read_text()[-2000:]}")
        time.sleep(0.5)
    raise SystemExit(f"TorchServe's own handler does not answer: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def serve_stock(spec: Spec, folder: Path, body: bytes) -> Iterator[tuple[int, int]]:
    """TorchServe with its own handler and the same network; yields the port and the process id."""
    port, store = server.free_port_base(), build_archive(spec, folder)
    process = start_stock(write_properties(port, folder), store, folder)
    try:
        url = f"http://127.0.0.1:{port}/predictions/{NAME}"
        wait_until_answered(process, url, body, folder / "server.log")
        yield port, process.pid
    finally:
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
        process.wait(30)


def measure(root: int, port: int, content: bytes, arguments: argparse.Namespace) -> Load:
    """A closed loop, and milliseconds of processor time per request of the server `root`."""
    closed_loop(port, content, arguments.clients, arguments.warm_up)
    before = processor_seconds(root)
    measured = closed_loop(port, content, arguments.clients, arguments.seconds)
    answered = len(measured.milliseconds)
    if measured.failed or not answered:
        raise SystemExit(f"{measured.failed} of {measured.failed + answered} requests failed")
    return measured, 1000 * (processor_seconds(root) - before) / answered


def measure_both(spec: Spec, arguments: argparse.Namespace, home: Path) -> dict[str, list[Load]]:
    """Every round of each server, in turns."""
    body, port = picture(arguments.data), server.free_port_base()
    rounds: dict[str, list[Load]] = {STOCK: [], OWN: []}
    path, headers = f"/predictions/{NAME}", {"Content-Type": "image/jpeg"}
    with (
        up.serving([spec], port, Output(as_json=True)) as client,
        serve_stock(spec, home / "stock", body) as (stock_port, stock_process),
    ):
        for _ in range(arguments.rounds):
            content = request(stock_port, path, body, headers)
            rounds[STOCK].append(measure(stock_process, stock_port, content, arguments))
            token = {"Authorization": f"Bearer {client.token('inference')}"}
            content = request(port, path, body, {**headers, **token})
            rounds[OWN].append(measure(main_process(port, home), port, content, arguments))
    return rounds


def summarize(name: str, runtime: str, rounds: list[Load]) -> dict[str, Any]:
    """The row of a server: its round of median cost, and the median cost."""
    median = sorted(rounds, key=lambda load: load[1])[len(rounds) // 2][0]
    figures = {"rate": median.rate, "p50": median.percentile(0.5), "p99": median.percentile(0.99)}
    cost = statistics.median(cost for _, cost in rounds)
    return {"server": name, "runtime": runtime, **figures, "cpu_ms": cost}


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print the table."""
    table = Table(title=title)
    for heading in ("server", "runtime", "req/s", "p50 ms", "p99 ms", "ms CPU"):
        table.add_column(heading, justify="left" if heading in ("server", "runtime") else "right")
    for row in rows:
        speeds = [f"{row[key]:.0f}" for key in ("rate", "p50", "p99")]
        table.add_row(row["server"], row["runtime"], *speeds, f"{row['cpu_ms']:.1f}")
    Console(width=110).print(table)
    theirs, ours = (row["cpu_ms"] for row in rows)
    print(f"Marina takes 1/{theirs / ours:.1f} of the processor time")


def build_parser() -> argparse.ArgumentParser:
    """The options of `marina bench detect`."""
    parser = argparse.ArgumentParser(
        prog="marina bench detect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="ssdlite320_mobilenet_v3_large", help="as of `marina import`")
    parser.add_argument("--weights")
    parser.add_argument("--scores")
    parser.add_argument(
        "--data", help="its first test picture is sent; and it decides whether bfloat16 is good enough"
    )
    parser.add_argument("--classes")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8, help="of each load")
    parser.add_argument("--warm-up", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows there, as JSON")
    return parser


def main() -> None:
    """Read the arguments, measure, show."""
    arguments = build_parser().parse_args()
    if find_spec("captum") is None:
        raise SystemExit("TorchServe's object_detector handler imports captum; run: uv pip install captum")
    with scratch_folder("marina-bench-") as home:
        spec = build_own(arguments, home)
        runtime = describe_runtime(spec)
        rounds = measure_both(spec, arguments, home)
    rows = [summarize(STOCK, "torch fp32", rounds[STOCK]), summarize(OWN, runtime, rounds[OWN])]
    title = f"{arguments.source}, a JPEG of 640 x 480, {arguments.clients} clients"
    show(rows, f"{title}, medians of {arguments.rounds} rounds")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
