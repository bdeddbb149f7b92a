"""Measures how a classifier's pictures come from disk, beside torchvision's and torch's loaders.

    marina bench data                               100,000 pictures: half an hour on two cores
    marina bench data --pictures 10000 --rounds 3   smaller

Makes so many JPEG files of 500 x 375 in 100 classes (38 KB each) in a temporary folder; 400 pictures are
encoded, and every file has a comment of its own, so that files are all different and decoding them takes what
it takes. Then, in shuffled batches of 64 at 224 pixels with the augmentation `light`:

- the command: `marina train` with that folder, from its start to its first training step, which ends it;
- ours: batches as the recipe `classifier` has them, prepared pictures kept on disk;
- reference: ImageFolder and DataLoader with the same transforms, in as many workers as ours has threads.

Both run in a process of their own, torch with one thread, and take turns: each turn is some batches, of
which the first ones, which may have been read ahead, are not counted. Turns of the first epoch prepare the
pictures, those of the second one read them. In between ours finishes its epoch, so that all pictures were
seen. Memory is sampled twice a second: the proportional set size of a process and its workers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

WIDTH, HEIGHT, CLASSES, MEASURED, BASES = 500, 375, 100, 500, 4  # BASES: pictures of each class
SIZE, BATCH, READ_AHEAD = 224, 64, 20  # batches
LOADER_SECONDS = 7200.0  # at most, for `marina train` to take its first step
SPEC = """\
# Tells generated pictures apart.
kind: classifier
training: {recipe: classifier, data: FOLDER, architecture: mobilenet_v3_small, image_size: 224}
floor: {accuracy: 0.0}
"""


def make(folder: Path, count: int) -> None:
    """Write `count` training pictures, and MEASURED of validation and test each."""
    bases = [_encoded(number) for number in range(CLASSES * BASES)]
    first = 0
    for split, number in (("train", count), ("val", MEASURED), ("test", MEASURED)):
        for name in range(CLASSES):
            (folder / split / f"{name:03}").mkdir(parents=True)
        for picture in range(first, first + number):
            turn, label = divmod(picture, CLASSES)
            content, length = bases[label * BASES + turn % BASES], turn // BASES
            comment = b"\xff\xfe" + (2 + length).to_bytes(2, "big") + b"." * length
            path = folder / split / f"{label:03}" / f"{picture}.jpg"
            path.write_bytes(content[:2] + comment + content[2:])
        first += number


def _encoded(seed: int) -> bytes:
    """A JPEG as large as a photo's: blotches with some noise."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (24, 32, 3), np.uint8)
    blotches = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    noise = generator.integers(-4, 5, (HEIGHT, WIDTH, 1), np.int16)
    values = np.clip(np.asarray(blotches, np.int16) + noise, 0, 255).astype(np.uint8)
    with tempfile.SpooledTemporaryFile() as file:
        Image.fromarray(values).save(file, "JPEG", quality=85)
        file.seek(0)
        return file.read()


def ours(folder: Path) -> Iterator[Any]:
    """Batches without end, as the recipe has them."""
    from handlers.inputs.images import ImageInput
    from training.data import load_images
    from training.vision.classification import inputs
    from training.vision.classification.augmentation import augmentation
    from training.vision.classification.learner import Shuffled
    from training.vision.classification.settings import ClassifierSettings
    from training.vision.records import Storage

    config = ImageInput(SIZE, SIZE, fit="crop", resize=256)
    data = load_images(str(folder))
    batches = Shuffled(inputs.pixels(data.train, config, Storage(memory_bytes=0)), BATCH)
    augment = augmentation(ClassifierSettings(), config)
    while True:
        yield from ((augment(pictures), labels) for pictures, labels in batches)


def reference(folder: Path, workers: int) -> Iterator[Any]:
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
    pictures = ImageFolder(str(folder / "train"), transforms)
    options: dict[str, Any] = {"shuffle": True, "drop_last": True, "persistent_workers": True}
    loader = torch.utils.data.DataLoader(pictures, BATCH, num_workers=workers, **options)
    while True:
        yield from loader


def serve(loader: str, folder: Path, workers: int) -> None:
    """Take as many batches as each line of stdin says, and answer with pictures and seconds."""
    import torch

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # progress bars are no answers
    batches = ours(folder) if loader == "ours" else reference(folder, workers)
    for line in sys.stdin:
        began, computed, seen = time.perf_counter(), _processor_seconds(), 0
        for _ in range(int(line)):
            seen += len(next(batches)[0])
        row = {"pictures": seen, "seconds": time.perf_counter() - began}
        print(json.dumps({**row, "cpu": _processor_seconds() - computed}), file=answers, flush=True)


def first_batch(started: float) -> None:
    """Run `marina train` of the folder that MARINA_HOME names, up to its first training step."""
    from marina.cli import main as marina
    from training.vision.classification import learner

    def report(*_: Any) -> None:
        found = {"seconds": time.time() - started, "cpu": time.process_time()}
        print(json.dumps(found), file=sys.__stdout__, flush=True)
        os._exit(0)

    learner.Learner.on_train_batch_start = report  # type: ignore[method-assign, assignment]
    sys.argv = ["marina", "train", "pictures"]
    marina()


def _processor_seconds() -> float:
    """Of this process and of its workers so far."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    times = [process.cpu_times() for process in processes]
    return float(sum(each.user + each.system for each in times))


class Loader:
    """One of both in a process of its own, with its memory over time."""

    def __init__(self, name: str, folder: Path, workers: int) -> None:
        command = [sys.executable, __file__, "--only", name, "--folder", str(folder)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.name, self.taken = name, 0
        self.process = subprocess.Popen([*command, "--workers", str(workers)], **pipes)
        self.memory: list[tuple[int, float]] = []  # pictures taken so far, megabytes
        self.turns: list[dict[str, float]] = []
        threading.Thread(target=self._sample, daemon=True).start()

    def take(self, batches: int) -> dict[str, float]:
        """Take so many. Raises RuntimeError where the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(batches, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the loader {self.name} has ended")
        row: dict[str, float] = json.loads(answer)
        self.taken += int(row["pictures"])
        return row

    def turn(self, batches: int) -> None:
        """One turn that counts, after what was read ahead."""
        self.take(READ_AHEAD)
        self.turns.append(self.take(batches))

    def stop(self) -> None:
        """End the process and its workers."""
        for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
            process.kill()
        self.process.wait(60)

    def _sample(self) -> None:
        while self.process.poll() is None:
            try:
                whole = psutil.Process(self.process.pid)
                processes = [whole, *whole.children(recursive=True)]
                used = sum(process.memory_full_info().pss for process in processes) / 1e6
                self.memory.append((self.taken, used))
            except psutil.Error:  # one of them has just ended
                pass
            time.sleep(0.5)


def measure(folder: Path, pictures: int, rounds: int, batches: int, workers: int) -> dict[str, Any]:
    """Both in turns: first epoch, the rest of it, second epoch."""
    loaders = [Loader(name, folder, workers) for name in ("ours", "reference")]
    epoch = pictures // BATCH
    try:
        for loader in loaders:
            loader.take(1)  # workers and pools are started
        for stage in range(2):
            for _ in range(rounds):
                for loader in loaders:
                    loader.turn(batches)
            if not stage:
                loaders[0].take(epoch - loaders[0].taken // BATCH)
        return {loader.name: summary(loader, rounds) for loader in loaders}
    finally:
        for loader in loaders:
            loader.stop()


def summary(loader: Loader, rounds: int) -> dict[str, Any]:
    """Medians of pictures per second and of processor milliseconds, and memory."""
    row: dict[str, Any] = {}
    for name, turns in (("first", loader.turns[:rounds]), ("second", loader.turns[rounds:])):
        row[f"{name} epoch, images/s"] = statistics.median(
            each["pictures"] / each["seconds"] for each in turns
        )
        row[f"{name} epoch, CPU ms"] = statistics.median(
            1e3 * each["cpu"] / each["pictures"] for each in turns
        )
    row["peak, MB"] = max(used for _, used in loader.memory)
    return {**row, "turns": loader.turns, "memory": loader.memory}


def time_command(folder: Path, home: Path) -> dict[str, float]:
    """Seconds from the start of `marina train` to its first step, by the clock and of its processor time
    (without the process beside it that gets the export's runtimes ready).
    """
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / "pictures.yaml").write_text(SPEC.replace("FOLDER", json.dumps(str(folder))))
    command = [sys.executable, __file__, "--only", "command", "--started", str(time.time())]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LOADER_SECONDS)
    row: dict[str, float] = json.loads(found.stdout.strip().splitlines()[-1])
    return row


def draw(results: dict[str, Any], file: Path) -> None:
    """Memory over the pictures that were taken."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in (("ours", "recipe classifier"), ("reference", "ImageFolder and DataLoader")):
        taken, used = zip(*results[name]["memory"], strict=True)
        axes.plot(np.array(taken) / 1e3, used, label=label, drawstyle="steps-post")
    axes.axhline(1500, color="gray", linestyle=":", label="1,500 MB")
    axes.set(xlabel="thousand images taken", ylabel="memory, MB", ylim=(0, None))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def show(results: dict[str, Any]) -> None:
    """Print a row each, and the ratios."""
    command, load = results["command"], ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"first step of `marina train`: {command['seconds']:.1f} s, {command['cpu']:.1f} s of the processor"
    )
    mine, other = (
        {key: value for key, value in results[name].items() if key not in ("turns", "memory")}
        for name in ("ours", "reference")
    )
    for key, value in mine.items():
        print(f"{key:24} ours {value:8.1f}   reference {other[key]:8.1f}   ratio {value / other[key]:5.2f}")
    print(f"load of the machine at the end: {load}")


def main() -> None:
    """Make the pictures, measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each in each epoch")
    parser.add_argument("--batches", type=int, default=60, help="counted in a turn")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--picture", type=Path, help="file for memory over time, PNG")
    parser.add_argument("--out", type=Path, help="file for the results")
    parser.add_argument("--only", choices=["ours", "reference", "command"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only == "command":
        first_batch(args.started)
    elif args.only:
        serve(args.only, args.folder, args.workers)
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    """All of it, in a temporary home."""
    needed = (args.rounds * (args.batches + READ_AHEAD) + 1) * BATCH
    if args.pictures < needed:
        raise SystemExit(f"--pictures {args.pictures}: these turns need {needed:,}; give fewer --rounds")
    with tempfile.TemporaryDirectory() as place:
        home, folder = Path(place), Path(place) / "data"
        os.environ.update(MARINA_HOME=place, OMP_NUM_THREADS="1")
        make(folder, args.pictures)
        results: dict[str, Any] = {"command": time_command(folder, home)}
        results |= measure(folder, args.pictures, args.rounds, args.batches, args.workers)
    show(results)
    if args.picture:
        draw(results, args.picture)
    if args.out:
        args.out.write_text(json.dumps(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
