"""The parts of `make gpu-check`. Each takes a device in torch's words, a budget and an empty folder; with the
device "cpu" and a small budget a test runs them too.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from PIL import Image

from benchmarks import data_loading, served_models, training_speed
from handlers.inputs.images import open_image
from handlers.kinds import predictor_of
from handlers.protocol.requests import Row as RequestRow
from handlers.runtime.machine import usable_cores
from marina import engines
from marina.core import paths, spec
from marina.core.console import Output
from marina.engines import server_process as server
from marina.load.load_generator import closed_loop, request
from marina.pipeline import steps as up
from training.data import load_images
from training.recipes import dqn
from training.runs.run import Run

GOAL = 0.8  # of the bare loop's pictures per second, served


@dataclass(frozen=True)
class Budget:
    """How much is measured: seconds of each load, sizes of batches, networks, pictures, environment steps."""

    seconds: float = 6.0
    batches: tuple[int, ...] = (1, 8, 64)
    served: str = "resnet50"
    trained: str = "resnet50"
    size: int = 224  # pixels
    pictures: int = 6400
    batch: int = 64
    policy_steps: int = 4000
    models: tuple[str, ...] = ("digits", "scenes", "cartpole", "languages", "co2")


@dataclass(frozen=True)
class Row:
    """A row of the table: a figure in `unit`, another beside it, and the least ratio that is the goal."""

    what: str
    figure: float | None = None
    unit: str = ""
    beside: float | None = None
    beside_what: str = ""
    goal: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The figure over the other one."""
        return self.figure / self.beside if self.figure is not None and self.beside else None

    @property
    def failed(self) -> bool:
        """Whether the part failed, or the goal is missed."""
        return self.note.startswith("failed") or (
            self.goal is not None and (self.ratio is None or self.ratio < self.goal)
        )

    def cells(self) -> tuple[str, ...]:
        """As texts."""
        figure = "" if self.figure is None else f"{self.figure:,.1f} {self.unit}"
        beside = "" if self.beside is None else f"{self.beside_what} {self.beside:,.1f}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        goal = "" if self.goal is None else f"{self.goal:g}"
        verdict = self.note or ("" if self.goal is None else "missed" if self.failed else "met")
        return (self.what, figure, beside, ratio, goal, verdict)


def serving(device: str, budget: Budget, home: Path) -> list[Row]:
    """Pictures per second by so many clients at a time, beside the handler in a loop with such batches."""
    options = argparse.Namespace(delay=1, agreement=0.01, export=None, weights=None)
    placed = {} if device == "cpu" else {"device": "gpu", "precision": "bfloat16"}
    most = max(budget.batches)
    model, body, content_type = served_models.build_model(
        budget.served, options, home, runtimes=(), workers=1, batch_size=most, **placed
    )
    bare = _bare(model, body, device, budget)
    rows, port = [], server.free_port_base()
    with up.serving([model], port, Output(as_json=True), engines.get("standalone")) as client:
        headers = {"Content-Type": content_type, "Authorization": f"Bearer {client.token('inference')}"}
        content = request(port, f"/predictions/{model.name}", body, headers)
        closed_loop(port, content, most, budget.seconds / 2)
        for clients in budget.batches:
            rate = closed_loop(port, content, clients, budget.seconds).rate
            name = f"{budget.served} served, {clients} clients"
            rows.append(Row(name, rate, "pictures/s", bare[clients], f"bare loop, batch {clients}:", GOAL))
        if (used := _gpu_memory(device)) is not None:
            rows.append(Row("memory of the GPU that all processes hold", used, "MiB"))
    return rows


def _bare(model: spec.Spec, body: bytes, device: str, budget: Budget) -> dict[int, float]:
    """Size of a batch -> pictures per second of the handler, called in this process."""
    predictor = predictor_of(model.kind)
    predictor.start(model.export_dir, model.serving.model_config_yaml(), device)
    row: RequestRow = ({"body": body}, {})
    return {
        size: size / _median(partial(predictor.answer_rows, [row] * size), budget.seconds / 2)
        for size in budget.batches
    }


def copies(device: str, budget: Budget, _: Path) -> list[Row]:
    """How much of the time of copying uint8 batches is hidden behind computing, by a stream of its own."""
    size = budget.batch
    network = torchvision.models.get_model(budget.served, weights=None).eval().to(device, torch.bfloat16)
    pixels = torch.zeros(size, 3, budget.size, budget.size, dtype=torch.uint8)
    pinned = pixels if device == "cpu" else pixels.pin_memory()
    ready = pinned.to(device).to(torch.bfloat16)
    stream = _stream(device)

    def copy() -> torch.Tensor:
        return pinned.to(device, non_blocking=True)

    def compute() -> Any:
        with torch.inference_mode():
            return network(ready)

    def both() -> None:
        with stream:
            copy()
        compute()

    alone, computing, together = (
        _median(partial(_finished, call, device), budget.seconds / 3) for call in (copy, compute, both)
    )
    hidden = (alone + computing - together) / min(alone, computing)
    return [
        Row(f"copy of {size} pictures, pinned", 1000 * alone, "ms", 1000 * computing, "computing them:"),
        Row("share of the copy that computing hides", 100 * max(0.0, min(1.0, hidden)), "%"),
    ]


def decoding(device: str, budget: Budget, _: Path) -> list[Row]:
    """JPEGs of 500 x 375 per second: by the device (nvJPEG), beside our reader in a thread per core."""
    files = [_jpeg(seed) for seed in range(budget.batch)]
    encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    decode = partial(torchvision.io.decode_jpeg, encoded, device=device)
    with ThreadPoolExecutor(usable_cores()) as pool:
        ours = len(files) / _median(lambda: list(pool.map(_read, files)), budget.seconds / 3)
    theirs = len(files) / _median(partial(_finished, decode, device), budget.seconds / 3)
    return [Row(f"JPEGs decoded by {device}", theirs, "pictures/s", ours, f"{usable_cores()} threads:")]


def training(device: str, budget: Budget, home: Path) -> list[Row]:
    """Pictures per second of the recipe `classifier` in bfloat16, beside torchvision's usual loop."""
    folder = home / "pictures"
    data_loading.make(folder, budget.pictures)
    usual = training_speed.usual(folder, budget.trained, budget.size, budget.batch, 1, device)
    with mock.patch.object(paths, "cache", return_value=home / "cache"):
        data = load_images(str(folder))
        ours, _ = training_speed.ours(data, budget.trained, budget.size, budget.batch, 2, "bfloat16")
    return [
        Row(f"{budget.trained} trained in bfloat16", ours, "pictures/s", usual, "usual loop, float32:", 1.0)
    ]


def policy(device: str, budget: Budget, home: Path) -> list[Row]:
    """Environment steps per second of DQN on four pictures of Pong, on the device and on the CPU."""
    with suppress(ImportError):
        import ale_py  # noqa: F401

        rates = {
            where: _policy_rate(where, budget, home)
            for where in dict.fromkeys((device.partition(":")[0], "cpu"))
        }
        return [Row("DQN from pixels", rates[device.partition(":")[0]], "steps/s", rates["cpu"], "CPU:")]
    return [Row("DQN from pixels", note="not run: pip install 'marina[atari]'")]


def _policy_rate(device: str, budget: Budget, home: Path) -> float:
    settings = dqn.Settings(
        environment="ALE/Pong-v5",
        atari=True,
        frame_stack=4,
        clip_rewards=True,
        num_envs=8,
        train_freq=4,
        gradient_steps=8,
        batch_size=32,
        hidden=(512,),
        learning_starts=64,
        total_timesteps=budget.policy_steps,
        evaluation_episodes=2,
        n_eval_episodes=2,
        eval_freq=10**9,
        environment_options={"max_episode_steps": 200},
        device=device,  # type: ignore[arg-type]
    )
    started = time.perf_counter()
    report = home / device
    report.mkdir()
    steps = dqn.train(settings, Run(report)).metrics["steps"]
    return float(steps) / (time.perf_counter() - started)


def parity(device: str, budget: Budget, _: Path) -> list[Row]:
    """Whether the golden samples of exports, made on a CPU, are answered alike on the device."""
    rows = []
    for name in budget.models:
        what = f"golden samples of {name}"
        model = spec.load(name)
        if not model.export_dir.is_dir():
            rows.append(Row(what, note=f"not run: no export; marina train {name}"))
            continue
        predictor = predictor_of(model.kind)
        ready = predictor.start(model.export_dir, {"handler": {"precision": "auto"}}, device)
        note = f"alike, in {predictor.model.precision}"
        rows.append(Row(what, float(ready["golden_samples"]), "answers", note=note))
    return rows


def _median(call: Callable[[], Any], seconds: float) -> float:
    """The median of the seconds that a call takes, after one that warms up."""
    call()
    spent: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(spent) < 3:
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def _finished(call: Callable[[], Any], device: str) -> None:
    """Call, and wait for the device."""
    call()
    if device != "cpu":
        torch.cuda.synchronize(device)


def _stream(device: str) -> Any:
    """A context in which work is queued beside all other work of the GPU."""
    if device == "cpu":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _gpu_memory(device: str) -> float | None:
    """MiB of the GPU that are in use; None without one, or without its library."""
    with suppress(ImportError):
        import pynvml  # type: ignore[import-untyped]

        if device != "cpu":
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2] or 0))
            return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / 2**20
    return None


def _jpeg(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _read(file: bytes) -> np.ndarray:
    return np.asarray(open_image(file, "RGB"))
