"""Measures how a classifier's pictures come from disk, beside torchvision's and torch's loaders.

    .venv/bin/python benchmarks/data_loading.py --pictures 100000

Makes so many JPEG files of 500 x 375 in 100 classes in a temporary folder, and goes through some epochs in
shuffled batches of 64 at 224 pixels, with the augmentation `light`: ours as the recipe `classifier` does,
with the prepared pictures on disk; then ImageFolder and DataLoader with the same transforms, in as many
worker processes as ours has threads. Each runs in a process of its own, torch with one thread. The rows have
the time from the start of the process to the first batch, by the clock and of the processor; pictures per
second and processor milliseconds per picture of each epoch; and the peak of the memory, worker processes
included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT, CLASSES, MEASURED = 500, 375, 100, 500
SIZE, BATCH = 224, 64
LOADER_SECONDS = 3600  # of one loader


def make(folder: Path, count: int) -> None:
    """Write the training pictures, and MEASURED of validation and test each."""
    first = 0
    with ProcessPoolExecutor() as pool:
        for split, number in (("train", count), ("val", MEASURED), ("test", MEASURED)):
            for name in range(CLASSES):
                (folder / split / f"{name:03}").mkdir(parents=True)
            for _ in pool.map(partial(_write, folder / split), range(first, first + number), chunksize=200):
                pass
            first += number


def _write(folder: Path, number: int) -> None:
    """A picture as large as a photo's file: blotches with some noise."""
    generator = np.random.default_rng(number)
    small = generator.integers(0, 256, (24, 32, 3), np.uint8)
    blotches = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    noise = generator.integers(-10, 11, (HEIGHT, WIDTH, 1), np.int16)
    values = np.clip(np.asarray(blotches, np.int16) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(values).save(folder / f"{number % CLASSES:03}" / f"{number}.jpg", quality=85)


def ours(folder: Path) -> Iterable[Any]:
    """Batches as the recipe has them; to be gone through once per epoch."""
    from handlers.inputs.images import ImageInput
    from training.data import load_images
    from training.vision.classification import inputs
    from training.vision.classification.augmentation import augmentation
    from training.vision.classification.learner import Shuffled
    from training.vision.classification.settings import ClassifierSettings
    from training.vision.records import Storage

    config = ImageInput(SIZE, SIZE, fit="crop", resize=256)
    data = load_images(str(folder))
    inputs.pixels(data.validation, config, Storage())
    data.about()
    batches = Shuffled(inputs.pixels(data.train, config, Storage(memory_bytes=0)), BATCH)
    augment = augmentation(ClassifierSettings(), config)

    class Augmented:
        def __iter__(self) -> Any:
            return ((augment(pictures), labels) for pictures, labels in batches)

    return Augmented()


def reference(folder: Path, workers: int) -> Iterable[Any]:
    """The same transforms in torchvision's and torch's loaders."""
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transforms = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(SIZE),
            v2.PILToTensor(),
            v2.RandomResizedCrop(SIZE, scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(0.2, 0.2, 0.2),
        ]
    )
    return torch.utils.data.DataLoader(
        ImageFolder(str(folder / "train"), transforms),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )


def measure(loader: str, folder: Path, epochs: int, workers: int, started: float) -> dict[str, Any]:
    """Go through the epochs; `started` is when the process did, on the system's clock."""
    import torch

    torch.set_num_threads(1)
    batches = ours(folder) if loader == "ours" else reference(folder, workers)
    first, rates, costs = (0.0, 0.0), [], []
    for _ in range(epochs):
        began, computed, seen = time.perf_counter(), _processor_seconds(), 0
        for pictures, _labels in batches:
            if not first[0]:
                first = (round(time.time() - started, 1), round(_processor_seconds(), 1))
            seen += len(pictures)
        rates.append(round(seen / (time.perf_counter() - began), 1))
        costs.append(round(1e3 * (_processor_seconds() - computed) / seen, 2))
    return {
        "first batch, s and CPU s": first,
        "pictures/s": rates,
        "CPU ms/picture": costs,
        "peak, MB": _peak_megabytes(),
    }


def _processor_seconds() -> float:
    """Of this process and of its workers so far."""
    import psutil

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    times = [process.cpu_times() for process in processes]
    return float(sum(each.user + each.system for each in times))


def _peak_megabytes() -> int:
    """Of this process and of its workers, each at its own peak."""
    import psutil

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(_high_water(process.pid) for process in processes)


def _high_water(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def main() -> None:
    """Make the pictures, measure both, print a row each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", choices=["ours", "reference"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.folder, args.epochs, args.workers, args.started)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        make(folder, args.pictures)
        (Path(place) / "models").mkdir()
        for loader in ("ours", "reference"):
            command = [sys.executable, __file__, "--only", loader, "--folder", str(folder)]
            command += ["--epochs", str(args.epochs), "--workers", str(args.workers)]
            command += ["--started", str(time.time())]
            environment = {**os.environ, "MARINA_HOME": place}
            found = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                timeout=LOADER_SECONDS,
            )
            print(f"{loader:10} {found.stdout.strip()}")


if __name__ == "__main__":
    main()
