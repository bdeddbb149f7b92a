"""What a detected picture costs, beside TorchServe's own object_detector handler with the same network and threads.

    .venv/bin/marina bench detect                                      # torchvision's SSDLite with its weights of COCO, fetched
    .venv/bin/marina bench detect --source FILE.py:FUNCTION --scores sigmoid --data FOLDER    # your own

Both serve with two workers of one thread and batches of 8 or 1 ms, from ports and folders of their own, one after the other, in turns.
`ms CPU` is the processor time of the server's processes, workers included, per request. TorchServe's handler needs captum.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import psutil
import requests
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_image

from benchmarks.serving import main_process, processor_seconds
from marina import importing, server, up
from marina.console import Output
from marina.load import Measured, closed, request
from marina.server.java import MAIN_CLASS, find_java
from marina.spec import Spec
from training import datasets

NAME, SIZE = "detector", (640, 480)
SERVING = {"workers": 2, "batch_size": 8, "max_batch_delay_ms": 1}
MODEL_FILE = """import sys
sys.path.insert(0, {source!r})
import torch
from training.imports.sources import build
from training.imported_detector import Settings


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
        with Image.open(io.BytesIO(datasets.held_out(data, "detector").test[0].encoded()[0])) as opened:
            photo = opened.convert("RGB").resize(SIZE)
    else:
        photo = Image.fromarray(load_sample_image("china.jpg")).resize(SIZE)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def own(arguments: argparse.Namespace) -> Spec:
    """The detector, imported, exported and archived."""
    given = {"source": arguments.source, "weights": arguments.weights, "data": arguments.data, "classes": arguments.classes}
    overrides = {f"serving.{key}": value for key, value in SERVING.items()}
    overrides |= {"training.scores": arguments.scores} if arguments.scores else {}
    one, _ = importing.chosen(NAME, given, "detector", overrides, trust_pickle=False)
    importing.bring(one, trust_pickle=False, output=Output(as_json=True))
    importing.write(one)
    up.pack(one, Output(as_json=True))
    return one


@contextlib.contextmanager
def stock(one: Spec, folder: Path, body: bytes) -> Iterator[tuple[int, int]]:
    """TorchServe as it comes, with its own handler and the same network; gives the port and the process id."""
    store, port = folder / "store", server.free_port_base()
    store.mkdir(parents=True)
    (folder / "model.py").write_text(
        MODEL_FILE.format(source=str(Path(__file__).parent.parent), settings=one.training.settings), encoding="utf-8"
    )
    (folder / "config.yaml").write_text(
        f"minWorkers: {SERVING['workers']}\nmaxWorkers: {SERVING['workers']}\nbatchSize: {SERVING['batch_size']}\n"
        f"maxBatchDelay: {SERVING['max_batch_delay_ms']}\n",
        encoding="utf-8",
    )
    subprocess.run(
        [
            str(Path(sys.executable).parent / "torch-model-archiver"),
            *("--model-name", NAME, "--version", "1.0", "--model-file", str(folder / "model.py"), "--handler", "object_detector"),
            *("--config-file", str(folder / "config.yaml"), "--export-path", str(store)),
        ],
        check=True,
    )
    addresses = {"inference_address": port, "management_address": port + 1, "metrics_address": port + 2}
    lines = [f"{key}=http://127.0.0.1:{value}" for key, value in addresses.items()]
    lines += ["grpc_inference_address=127.0.0.1", "grpc_management_address=127.0.0.1"]
    lines += [f"grpc_inference_port={port + 3}", f"grpc_management_port={port + 4}", "disable_token_authorization=true"]
    (folder / "config.properties").write_text("\n".join(lines) + "\n", encoding="utf-8")
    home = Path(str(files("ts"))).parent
    command = [str(find_java()), f"-Dmodel_server_home={home}", f"-Djava.io.tmpdir={folder}", "-cp", str(home / "ts" / "frontend" / "*")]
    command += [
        MAIN_CLASS,
        "--python",
        sys.executable,
        "-f",
        str(folder / "config.properties"),
        "-s",
        str(store),
        "-m",
        f"{NAME}={NAME}.mar",
    ]
    variables = {**os.environ, "LOG_LOCATION": str(folder / "logs"), "METRICS_LOCATION": str(folder / "logs"), "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(240):
            with contextlib.suppress(requests.RequestException):
                if requests.post(f"http://127.0.0.1:{port}/predictions/{NAME}", data=body, timeout=60).status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit(f"TorchServe ended: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.5)
        else:
            raise SystemExit(f"TorchServe's own handler does not answer: {(folder / 'server.log').read_text()[-2000:]}")
        yield port, process.pid
    finally:
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
        process.wait(30)


def measured(root: int, port: int, content: bytes, arguments: argparse.Namespace) -> tuple[Measured, float]:
    """(what a closed loop saw, milliseconds of processor time per request)."""
    closed(port, content, arguments.clients, arguments.warm_up)
    before = processor_seconds(root)
    found = closed(port, content, arguments.clients, arguments.seconds)
    if found.failed or not found.milliseconds:
        raise SystemExit(f"{found.failed} of {found.failed + len(found.milliseconds)} requests failed")
    return found, 1000 * (processor_seconds(root) - before) / len(found.milliseconds)


def main() -> None:
    """Read the arguments, measure, show."""
    parser = argparse.ArgumentParser(prog="marina bench detect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="ssdlite320_mobilenet_v3_large", help="as of `marina import`")
    parser.add_argument("--weights")
    parser.add_argument("--scores")
    parser.add_argument("--data", help="its first test picture is sent; and it decides whether bfloat16 is good enough")
    parser.add_argument("--classes")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8, help="of each load")
    parser.add_argument("--warm-up", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if find_spec("captum") is None:
        raise SystemExit("TorchServe's object_detector handler imports captum; run: uv pip install captum")
    folder = Path(tempfile.mkdtemp(prefix="marina-bench-"))
    os.environ["MARINA_HOME"] = str(folder)
    try:
        one, body = own(arguments), picture(arguments.data)
        chosen = json.loads((one.export_dir / "runtime.json").read_text())["serve"]
        found: dict[str, list[tuple[Measured, float]]] = {"TorchServe's handler": [], "Marina": []}
        port = server.free_port_base()
        with up.serving([one], port, Output(as_json=True)) as client, stock(one, folder / "stock", body) as (other, pid):
            path, token = f"/predictions/{NAME}", {"Authorization": f"Bearer {client.token('inference')}"}
            for _ in range(arguments.rounds):
                plain = request(other, path, body, {"Content-Type": "image/jpeg"})
                found["TorchServe's handler"].append(measured(pid, other, plain, arguments))
                content = request(port, path, body, {"Content-Type": "image/jpeg", **token})
                found["Marina"].append(measured(main_process(port), port, content, arguments))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table = Table(title=f"{arguments.source}, a JPEG of 640 x 480, {arguments.clients} clients, medians of {arguments.rounds} rounds")
    for heading in ("server", "runtime", "req/s", "p50 ms", "p99 ms", "ms CPU"):
        table.add_column(heading, justify="left" if heading in ("server", "runtime") else "right")
    costs = {name: statistics.median(cost for _, cost in rows) for name, rows in found.items()}
    for name, rows in found.items():
        runtime = " ".join(chosen[0][key] for key in ("runtime", "precision")) if name == "Marina" and chosen else "torch fp32"
        middle = sorted(rows, key=lambda row: row[1])[len(rows) // 2][0]
        speeds = (f"{middle.rate:.0f}", f"{middle.percentile(0.5):.0f}", f"{middle.percentile(0.99):.0f}")
        table.add_row(name, runtime, *speeds, f"{costs[name]:.1f}")
    Console(width=110).print(table)
    theirs, ours = costs.values()
    print(f"Marina takes 1/{theirs / ours:.1f} of the processor time")


if __name__ == "__main__":
    main()
