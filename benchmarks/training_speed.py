"""Pictures per second that a classifier learns from, beside the usual loop of torchvision's training script, in one run.

    .venv/bin/python benchmarks/training_speed.py ~/pictures/pizza_steak_sushi --architecture resnet18 --size 128

The usual loop reads an ImageFolder through Pillow in as many worker processes as there are cores, crops at random, mirrors, and
takes steps of SGD in float32 with its tensors as they come. Ours is the recipe `classifier` as `marina train` runs it: the
pictures are prepared once (that is told apart) and varied in memory, AdamW with a running mean of the weights. All ways take
turns; printed are the medians over the rounds.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

import marina  # noqa: F401  # puts handlers/ on the path
from training import datasets
from training.classification import inputs, networks
from training.classification.augmentation import augmentation
from training.classification.learner import Learner, fit
from training.classification.settings import Learning

from bundle_images import ImageInput


def usual(folder: Path, architecture: str, size: int, batch: int, epochs: int) -> float:
    """Pictures per second of the usual loop, its first batch with the workers' start left out."""
    vary = v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pictures = torchvision.datasets.ImageFolder(str(folder / "train"), vary)
    loader = torch.utils.data.DataLoader(
        pictures, batch, shuffle=True, drop_last=True, num_workers=torch.get_num_threads(), persistent_workers=True
    )
    model = torchvision.models.get_model(architecture, num_classes=len(pictures.classes)).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    seen, started = -batch, 0.0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            seen += batch
            started = started or time.perf_counter()
    return seen / (time.perf_counter() - started)


class Timed(Learner):
    """Tells when its first training step was done and how many pictures came after it."""

    seen, started, seconds = 0, 0.0, 0.0

    def on_train_batch_start(self, *_: object) -> None:
        """From here on it counts."""
        self.began = time.perf_counter()
        self.ended = getattr(self, "ended", self.began)

    def on_train_batch_end(self, outputs: object, batch: tuple[torch.Tensor, ...], step: int) -> None:
        """Counts the pictures, and the time since the last step's end; the validation between two epochs is not training."""
        super().on_train_batch_end(outputs, batch, step)
        now = time.perf_counter()
        if self.global_step > 1:
            self.seen += len(batch[0])
            self.seconds += now - (self.ended if step else self.began)
        self.ended = now


def ours(data: datasets.ImageData, architecture: str, size: int, batch: int, epochs: int, precision: str) -> tuple[float, float]:
    """(Pictures per second, seconds of preparing them)."""
    settings = Learning.model_validate({"architecture": architecture, "batch_size": batch, "epochs": epochs, "precision": precision})
    preset = networks.preset_of(architecture, "none", size)
    config = ImageInput(preset.crop, preset.crop, fit="crop", resize=preset.resize, interpolation=preset.interpolation)
    model = networks.build(architecture, "none", len(data.classes), 3, preset)
    started = time.perf_counter()
    train, validation = inputs.pixels(data.train, config), inputs.pixels(data.validation[:8], config)
    prepared = time.perf_counter() - started
    learner = Timed(model, model.stages(), settings, augmentation(settings, config))
    fit(learner, train, validation)
    return learner.seen / learner.seconds, prepared


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder per class, in train/")
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    data = datasets.load(str(chosen.folder), "classifier")
    said = chosen.architecture, chosen.size, chosen.batch, chosen.epochs
    preparing: list[float] = []

    def own(precision: str) -> Callable[[], float]:
        def measured() -> float:
            speed, seconds = ours(data, *said, precision)
            preparing.append(seconds)
            return speed

        return measured

    ways: dict[str, Callable[[], float]] = {"usual loop": lambda: usual(chosen.folder, *said)}
    ways |= {f"classifier, {precision}": own(precision) for precision in ("float32", "bfloat16", "fastest")}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as home:
        os.environ["MARINA_HOME"] = home  # a cache that is empty at first
        for _ in range(chosen.rounds):
            for name, way in ways.items():
                found[name].append(way())
    base = statistics.median(found["usual loop"])
    print(f"{chosen.architecture}, {chosen.size} pixels, batches of {chosen.batch}, {torch.get_num_threads()} threads")
    for name, speeds in found.items():
        middle = statistics.median(speeds)
        print(f"  {name:22} {middle:7.1f} pictures/s  {middle / base:5.2f} times  (rounds: {', '.join(f'{one:.1f}' for one in speeds)})")
    print(f"  prepared in {preparing[0]:.1f} s the first time, {statistics.median(preparing[1:]):.2f} s from the cache")


if __name__ == "__main__":
    main()
