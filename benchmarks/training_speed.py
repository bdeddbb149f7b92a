"""Measures how many pictures per second a classifier trains on, beside torchvision's usual training loop.

    .venv/bin/python benchmarks/training_speed.py ~/pictures/pizza --architecture resnet18 --size 128

The usual loop reads an ImageFolder through Pillow in as many worker processes as there are cores, crops at
random, mirrors, and takes steps of SGD in float32 with its tensors as they come. Ours is the recipe
`classifier` as `marina train` runs it: the pictures are prepared once (reported separately) and augmented in
memory, with AdamW and averaged weights. All take turns; the table has the medians over the rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

from handlers.inputs.images import ImageInput
from marina.core import paths
from training.data import ImageData, load_images
from training.runs.run import Run
from training.vision.classification import inputs, networks
from training.vision.classification.augmentation import augmentation
from training.vision.classification.learner import Learner, fit
from training.vision.classification.settings import ClassifierSettings
from training.vision.records import Storage

LABEL = "classifier, {}"


def usual(folder: Path, architecture: str, size: int, batch: int, epochs: int, device: str = "cpu") -> float:
    """Pictures per second of the usual loop, without its first batch and the start of the workers."""
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pictures = torchvision.datasets.ImageFolder(str(folder / "train"), augment)
    loader = torch.utils.data.DataLoader(
        pictures,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=torch.get_num_threads(),
        persistent_workers=True,
    )
    model = torchvision.models.get_model(architecture, num_classes=len(pictures.classes)).train().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    seen, started = -batch, 0.0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen += batch
            started = started or time.perf_counter()
    loss.item()  # a GPU has finished
    return seen / (time.perf_counter() - started)


class Timed(Learner):
    """Counts the pictures after the first training step, and the time that they take."""

    seen, started, seconds = 0, 0.0, 0.0

    def on_train_batch_start(self, *_: object) -> None:
        """Start the clock of the epoch."""
        self.began = time.perf_counter()
        self.ended = getattr(self, "ended", self.began)

    def on_train_batch_end(self, outputs: object, batch: tuple[torch.Tensor, ...], step: int) -> None:
        """Count the pictures, and the time since the last step; validation between epochs is left out."""
        super().on_train_batch_end(outputs, batch, step)
        now = time.perf_counter()
        if self.global_step > 1:
            self.seen += len(batch[0])
            self.seconds += now - (self.ended if step else self.began)
        self.ended = now


def ours(
    data: ImageData, architecture: str, size: int, batch: int, epochs: int, precision: str
) -> tuple[float, float]:
    """(Pictures per second, seconds of preparing them)."""
    settings = ClassifierSettings.model_validate(
        {"architecture": architecture, "batch_size": batch, "epochs": epochs, "precision": precision}
    )
    preset = networks.preset_of(architecture, "none", size)
    config = ImageInput(
        preset.crop, preset.crop, fit="crop", resize=preset.resize, interpolation=preset.interpolation
    )
    model = networks.build(architecture, "none", len(data.classes), 3, preset)
    started = time.perf_counter()
    train, validation = (inputs.pixels(part, config, Storage()) for part in (data.train, data.validation[:8]))
    prepared = time.perf_counter() - started
    learner = Timed(model, model.stages(), settings, augmentation(settings, config))
    with tempfile.TemporaryDirectory() as report:
        fit(learner, train, validation, Run(Path(report)))
    return learner.seen / learner.seconds, prepared


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a folder per class, in train/")
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def measure(arguments: argparse.Namespace) -> tuple[dict[str, list[float]], list[float]]:
    """(loop -> pictures per second of each round, seconds of preparing the pictures each time)."""
    data = load_images(str(arguments.folder))
    settings = arguments.architecture, arguments.size, arguments.batch, arguments.epochs
    precisions = ("float32", "bfloat16", "fastest")
    speeds: dict[str, list[float]] = {name: [] for name in ("usual loop", *map(LABEL.format, precisions))}
    preparing: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,  # a cache that is empty at first
        mock.patch.object(paths, "cache", return_value=Path(folder)),
    ):
        for _ in range(arguments.rounds):
            speeds["usual loop"].append(usual(arguments.folder, *settings))
            for precision in precisions:
                speed, seconds = ours(data, *settings, precision)
                speeds[LABEL.format(precision)].append(speed)
                preparing.append(seconds)
    return speeds, preparing


def main() -> None:
    """Print the table."""
    arguments = build_parser().parse_args()
    speeds, preparing = measure(arguments)
    base = statistics.median(speeds["usual loop"])
    setup = f"{arguments.architecture}, {arguments.size} pixels, batches of {arguments.batch}"
    print(f"{setup}, {torch.get_num_threads()} threads")
    for name, rounds in speeds.items():
        median, listed = statistics.median(rounds), ", ".join(f"{speed:.1f}" for speed in rounds)
        print(f"  {name:22} {median:7.1f} pictures/s  {median / base:5.2f} times  (rounds: {listed})")
    cached = statistics.median(preparing[1:])
    print(f"  prepared in {preparing[0]:.1f} s the first time, {cached:.2f} s from the cache")


if __name__ == "__main__":
    main()
