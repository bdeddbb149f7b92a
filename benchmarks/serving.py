"""What a served request costs, beside a bare loop of the same work in one process without a server.

    .venv/bin/marina bench serve                     # digits-sized, ResNet-18-sized and policy-sized models
    .venv/bin/marina bench serve --model policy --model resnet18 --peers KIT --peer mosec --peer torchserve --mode bf16

Models have random weights of seed 0 and go the whole way: export, archive, TorchServe, HTTP, in a home and on ports of their own.
`ms CPU` is the processor time of the server's processes, workers included, per request: on a busy machine it is what to compare by.
Latencies of the open loop count from when a request was due. `bare` is the same handler called in process. The client here is
Python and takes as much time as the server does; --peers loads ours and other servers with wrk, and prints them in one table.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torchvision
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_image

from benchmarks.peers import WORKLOADS, Kit
from marina import archive, server, spec, up
from marina.console import Output
from marina.load import Measured, closed, opened, request
from training.classification.networks import SmallCNN
from training.export import export, handler_of
from training.trained import Sample, Trained

from bundle_images import ImageInput, open_image, prepare

WORKERS = {"policy": 1}  # several would share the batches of a tiny model out among them; of all others 2
STAGES = ("decode", "preprocess", "inference", "postprocess")


class Normalised(torch.nn.Module):
    """uint8 pictures -> logits, as a trained classifier has it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W] -> [B, classes]."""
        logits: torch.Tensor = self.network((images.float() - 118) / 58)
        return logits


class Perceptron(torch.nn.Module):
    """A policy of 4-128-128-2."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2)
        )

    def forward(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, 4] -> action [B], q_values [B, 2]."""
        values = self.layers(observations)
        return {"action": values.argmax(1), "q_values": values}


def policy() -> tuple[Trained, bytes, str]:
    """The smallest: what the server itself costs."""
    observations = torch.randn(8, 4)
    body = json.dumps({"observation": [round(value, 4) for value in observations[0].tolist()]}).encode()
    trained = _trained("policy", Perceptron(), observations)
    trained.preprocess = {"input": "observation", "shape": [4], "dtype": "float32", "environment": "CartPole-v1"}
    trained.postprocess = {"type": "policy", "action_space": {"type": "discrete", "n": 2}, "outputs": ["q_values"]}
    return trained, body, "application/json"


def digits() -> tuple[Trained, bytes, str]:
    """A small CNN on 16 x 16 pixels."""
    inputs = ImageInput(16, 16, mode="L", fit="stretch")
    return _classifier(Normalised(SmallCNN(1, 10)), inputs, 10, [_part(seed, 28, 28).convert("L") for seed in range(120)], "PNG")


def resnet18(weights: Path | None = None) -> tuple[Trained, bytes, str]:
    """ResNet-18 on a JPEG of 500 x 375; `weights` is a state dict of torchvision's own."""
    inputs = ImageInput(224, 224, fit="crop", resize=256)
    network = torchvision.models.resnet18(weights=None)
    if weights:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return _classifier(Normalised(network), inputs, 1000, [_part(seed, 500, 375) for seed in range(120)], "JPEG")


MODELS: dict[str, Callable[..., tuple[Trained, bytes, str]]] = {"policy": policy, "digits": digits, "resnet18": resnet18}


def _part(seed: int, width: int, height: int) -> Image.Image:
    """A part of one of scikit-learn's two photographs, by seed."""
    random = np.random.default_rng(seed)
    photo = Image.fromarray(load_sample_image("china.jpg" if seed % 2 else "flower.jpg"))
    scale = random.uniform(max(width / photo.width, height / photo.height, 0.2), 1)
    wide, high = min(photo.width, width / scale), min(photo.height, height / scale)
    left, top = random.uniform(0, photo.width - wide), random.uniform(0, photo.height - high)
    return photo.resize((width, height), box=(left, top, left + wide, top + high))


def _classifier(
    module: torch.nn.Module, inputs: ImageInput, classes: int, pictures: list[Image.Image], kind: str
) -> tuple[Trained, bytes, str]:
    files = [_file(picture, kind) for picture in pictures]
    pixels = torch.from_numpy(np.stack([prepare(open_image(file, inputs.mode), inputs) for file in files]))
    trained = _trained("classifier", module, pixels[:8])
    trained.validation = (pixels,)
    trained.preprocess = inputs.as_config()
    trained.postprocess = {"type": "classification", "top_k": 5}
    trained.classes = [str(index) for index in range(classes)]
    return trained, files[0], f"image/{kind.lower()}"


def _file(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=90)
    return buffer.getvalue()


def _trained(kind: Any, module: torch.nn.Module, example: torch.Tensor) -> Trained:
    return Trained(kind, module.eval().requires_grad_(False), (example,), {"none": 1.0}, {}, {}, [], {"name": "none"})


def made(name: str, arguments: argparse.Namespace, home: Path) -> tuple[spec.Spec, bytes, str]:
    """Export and archive a model into `home`, or archive the export that is named."""
    if name == "resnet18" and arguments.export:
        one = _spec(name, "classifier", arguments, home)
        shutil.copytree(arguments.export, one.export_dir)
        archive.build(one)
        return one, _file(_part(0, 500, 375), "JPEG"), "image/jpeg"
    torch.manual_seed(0)
    trained, body, content_type = MODELS[name](arguments.weights) if name == "resnet18" else MODELS[name]()
    with torch.inference_mode():
        output = trained.module(*(part[:1] for part in trained.example))
    expected = {"action": int(output["action"][0])} if trained.kind == "policy" else {"class": trained.classes[int(output[0].argmax())]}  # type: ignore[index]
    if trained.kind == "policy":
        body = json.dumps({"observation": trained.example[0][0].tolist()}).encode()
    trained.samples = [Sample("first", body, content_type, expected)]
    one = _spec(name, trained.kind, arguments, home)
    folder = one.export_dir.parent / ".making"
    (folder / "report").mkdir(parents=True)
    export(one, trained, folder)
    archive.build(one)
    return one, body, content_type


def _spec(name: str, kind: str, arguments: argparse.Namespace, home: Path) -> spec.Spec:
    batch = 32 if name == "policy" else 8
    serving = {"workers": WORKERS.get(name, 2), "batch_size": batch, "max_batch_delay_ms": arguments.delay}
    text = f"# {name}\nkind: {kind}\ntraining: {{recipe: benchmark}}\nfloor: {{none: 0}}\nserving: {json.dumps(serving)}\n"
    text += f"export: {{agreement: {arguments.agreement}}}\n"
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return spec.load(name)


def bare(one: spec.Spec, body: bytes, size: int, seconds: float) -> float:
    """Milliseconds of CPU per request when the handler is called with `size` requests at a time, by one thread."""
    handler = handler_of(one.kind)
    handler.load(one.export_dir, {**one.serving.model_config_yaml(), "handler": {"threads": 1}})
    row: Any = ({"body": json.loads(body) if one.kind == "policy" else body}, {})
    spent, until = [], time.monotonic() + seconds
    while time.monotonic() < until or len(spent) < 3:
        started = time.process_time()
        handler.answer_rows([row] * size)
        spent.append((time.process_time() - started) * 1000 / size)
    return statistics.median(spent)


def main_process(port: int) -> int:
    """The process id of our server."""
    state = server.read_state(port)
    assert state is not None
    return state.pid


def processor_seconds(process: int) -> float:
    """Of a server and its workers so far."""
    main = psutil.Process(process)
    return sum(sum(one.cpu_times()[:2]) for one in (main, *main.children(recursive=True)))


def resident(process: int) -> list[float]:
    """MiB of each worker: resident, and its share of what several have in common."""
    family = psutil.Process(process).children(recursive=True)
    workers = [one.memory_full_info() for one in family if any("model_service_worker" in word for word in one.cmdline())]
    return [round(statistics.mean(getattr(one, name) for one in workers) / 2**20) for name in ("rss", "pss")] if workers else [0, 0]


def stages(log: Path, since: int) -> dict[str, float]:
    """Milliseconds of wall time per request and stage, by the workers' own lines after byte `since` of their log."""
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
    """The rows of the table for one model."""
    one, body, content_type = made(name, arguments, home)
    chosen = json.loads((one.export_dir / "runtime.json").read_text())
    runtime = " ".join(chosen["serve"][0][key] for key in ("runtime", "precision")) if chosen["serve"] else "torch fp32"
    rows = [{"load": f"bare, batch {size}", "cpu": bare(one, body, size, arguments.seconds / 2)} for size in (1, one.serving.batch_size)]
    port = server.free_port_base()
    with up.serving([one], port, Output(as_json=True)) as client:
        authorization, process = f"Bearer {client.token('inference')}", main_process(port)
        content = request(port, f"/predictions/{name}", body, {"Content-Type": content_type, "Authorization": authorization})
        closed(port, content, 8, arguments.warm_up)
        log = Path(os.environ["MARINA_HOME"]) / "run" / str(port) / "logs" / "models.log"
        best = 0.0
        loads: list[tuple[str, Callable[[], Measured]]] = [
            (f"closed, {clients} clients", lambda clients=clients: closed(port, content, clients, arguments.seconds))
            for clients in (1, 8, 32)
        ]
        loads.append(("open, 60 % of the rate at 8", lambda: opened(port, content, 0.6 * best, arguments.seconds)))
        for words, load in loads:
            begin, before = log.stat().st_size, processor_seconds(process)
            found = load()
            spent = processor_seconds(process) - before
            best = found.rate if words.startswith("closed, 8") else best
            time.sleep(1.2)  # the log is written in batches
            answered = len(found.milliseconds)
            rows.append({"load": words, "cpu": 1000 * spent / max(1, answered), "found": found, "stages": stages(log, begin)})
        rows[-1]["memory"] = resident(process)
        if arguments.kit and name in WORKLOADS:
            arguments.kit.load_ours(name, runtime, port, process, authorization)
    for row in rows:
        row |= {"model": name, "runtime": runtime}
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table(title="a served request")
    for heading in (
        "model",
        "runtime",
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
        table.add_column(heading, justify="left" if heading in ("model", "runtime", "load") else "right")
    for row in rows:
        found: Measured | None = row.get("found")
        figures = (
            [f"{found.rate:.0f}", f"{found.percentile(0.5):.1f}", f"{found.percentile(0.99):.1f}", str(found.failed)] if found else [""] * 4
        )
        parts = [f"{row['stages'][stage]:.3f}" for stage in STAGES] if "stages" in row else [""] * 4
        table.add_row(row["model"], row["runtime"], row["load"], *figures, f"{row['cpu']:.3f}", *parts)
    console = Console(width=max(150, Console().width))
    console.print(table)
    for row in rows:
        if "memory" in row:
            console.print(f"{row['model']}: a worker holds {row['memory'][0]} MiB, {row['memory'][1]} MiB of it its own share")


def main() -> None:
    """Read the arguments, measure, show."""
    parser = argparse.ArgumentParser(prog="marina bench serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(MODELS), help="default: all of them")
    parser.add_argument("--seconds", type=float, default=6, help="of each load")
    parser.add_argument("--warm-up", type=float, default=20, help="seconds of load before; Java compiles what is hot")
    parser.add_argument("--delay", type=int, default=1, help="max_batch_delay_ms")
    parser.add_argument("--agreement", type=float, default=0.99, help="of bfloat16 with float32; random weights may need less")
    parser.add_argument("--weights", type=Path, help="state dict of the ResNet-18; random ones may not agree enough for bfloat16")
    parser.add_argument("--export", type=Path, help="the folder of an export that serves as the ResNet-18, in the precision that it chose")
    parser.add_argument("--peers", type=Path, help="the folder of the peers' kit; needs wrk")
    parser.add_argument("--peer", action="append", default=[], help="one of its peers, to be loaded beside ours")
    parser.add_argument("--mode", action="append", help="of the peers' classifier: eager (default), bf16")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    names = arguments.model or list(MODELS)
    home = Path(tempfile.mkdtemp(prefix="marina-bench-"))
    os.environ["MARINA_HOME"] = str(home)
    rows: list[dict[str, Any]] = []
    try:
        arguments.kit = _kit(arguments, home, parser) if arguments.peers else None
        for name in names:
            rows += measure(name, arguments, home)
        show(rows)
        if arguments.kit:
            arguments.kit.load_peers(names)
            arguments.kit.show()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if arguments.json:
        plain = [{key: value for key, value in row.items() if key != "found"} | _plain(row.get("found")) for row in rows]
        arguments.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def _kit(arguments: argparse.Namespace, home: Path, parser: argparse.ArgumentParser) -> Kit:
    seconds = max(1, round(arguments.seconds))
    kit = Kit(arguments.peers.resolve(), arguments.peer, arguments.mode or ["eager"], seconds, home / "peers.jsonl")
    if problem := kit.problem():
        parser.error(problem)
    return kit


def _plain(found: Measured | None) -> dict[str, float]:
    if found is None:
        return {}
    return {"rate": found.rate, "p50": found.percentile(0.5), "p99": found.percentile(0.99), "failed": found.failed}


if __name__ == "__main__":
    main()
