"""Learns which pixels show what: semantic segmentation. Lightning carries the loop, the loss is cross-entropy and Dice's together.

A network begins anew or with what other pictures taught it (`segmentation.architectures`). The epoch that does best on the validation
pictures is handed over; with `averaging`, of the moving average of the weights.
"""

import copy
import re
import time
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from marina import spec
from training import datasets
from training.datasets import ImageData
from training.datasets.outlined_folder import IGNORED
from training.fitting import fit, follow, one_cycle, reduced
from training.running.checkpoints import Remembering
from training.segmentation import drawing
from training.segmentation.architectures import build
from training.segmentation.evaluation import by_class, overlap, pairs, segment
from training.segmentation.pixels import Batches, Prepared
from training.trained import HELD_OUT, Sample, Trained

from bundle_images import ImageInput

SAMPLES = 64
MAX_PIXELS = 12_000_000  # of a picture that is sent: every one of them gets its answer
SURE = 0.01  # of the picture: most that a class's area in a sample may be off, a fifth of what `marina.samples` allows
Architecture = Literal[
    "unet_small",
    "unet_mobilenet_v2",
    "lraspp_mobilenet_v3_large",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "fcn_resnet50",
]


class Settings(spec.Section):
    """The settings of this recipe."""

    data: str = Field(description="a folder of one's own: COCO json with a segmentation per object")
    architecture: Architecture = Field(default="unet_small", description="the network")
    weights: str = Field(default="none", description="none, imagenet (of the backbone), coco, or a file of the whole network")
    height: int = Field(default=320, ge=64, le=2048, multiple_of=32, description="height of the graph's input, pixels")
    width: int = Field(default=320, ge=64, le=2048, multiple_of=32, description="width of the graph's input, pixels")
    decode: Literal["fast", "exact"] = Field(
        default="fast", description="whether large JPEG files may be decoded at a fraction of their size"
    )
    fit: Literal["stretch", "letterbox"] = Field(default="letterbox", description="how a picture is brought to that size")
    epochs: int = Field(default=30, ge=1, le=10_000, description="times that all training pictures are seen")
    batch_size: int = Field(default=8, ge=2, le=512, description="pictures per step")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak of the one-cycle schedule (AdamW)")
    weight_decay: float = Field(default=1e-2, ge=0, description="of AdamW")
    augmentation: Literal["none", "light"] = Field(default="light", description="light: other scales, places, brightness and tints")
    flip: bool = Field(default=True, description="mirror half of the pictures; not for things that read one way")
    dice: float = Field(default=1.0, ge=0, le=100, description="weight of Dice's loss beside cross-entropy, for classes of small areas")
    averaging: float = Field(default=0.0, ge=0, lt=1, description="decay of a moving average of the weights per step; 0 for none")
    precision: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="of the convolutions while training")


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn, choose the best epoch on validation, measure on test, draw the report."""
    started, computed = time.monotonic(), time.process_time()
    data = datasets.load(settings.data, "segmenter", seed)
    lightning.seed_everything(seed, verbose=False)
    inputs = ImageInput(settings.height, settings.width, fit=settings.fit, decode=settings.decode, max_pixels=MAX_PIXELS)
    learner = Learner(settings, data, inputs)
    pictures = Prepared.of(data.train, inputs, "training pictures")
    light = settings.augmentation == "light"
    batches = Batches(pictures.pixels, pictures.labels(inputs), settings.batch_size, light, settings.flip, seed)
    about = data.about()
    fit(learner, batches, settings.epochs, lambda row: f"mean IoU {row['mean_iou']:.3f}", about["fingerprint"])
    segmenter = learner.average.cpu().eval()
    segmenter.load_state_dict(learner.best)

    test = Prepared.of(data.test, inputs, "test pictures")
    found = segment(segmenter, test.pixels, test.truth, inputs)
    counts = [pairs(one, truth, len(data.classes)) for one, truth in zip(found, test.truth, strict=True)]
    drawing.curves(learner.history, report / "curves.png")
    drawing.examples(found, test.truth, data, counts, report)
    return Trained(
        kind="segmenter",
        module=segmenter,
        example=(test.pixels[:2] if len(test.pixels) > 1 else test.pixels[:1].repeat(2, 1, 1, 1),),
        validation=(learner.validation.pixels[:HELD_OUT],),
        metrics=overlap(np.sum(counts, axis=0)),
        preprocess=inputs.as_config(),
        postprocess={"type": "segmentation"},
        samples=samples(found, test.truth, data),
        data=about,
        classes=list(data.classes),
        training={
            "epochs": settings.epochs,
            "best_epoch": learner.best_epoch + 1,
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(time.process_time() - computed, 1),
            "validation": learner.history[learner.best_epoch],
            "by_class": by_class(np.sum(counts, axis=0), data.classes),
        },
    )


class Learner(Remembering):
    """The network with its optimiser; after each epoch it measures itself on the validation pictures and keeps the best."""

    remembered = ("losses", "history", "best", "best_epoch")

    def __init__(self, settings: Settings, data: ImageData, inputs: ImageInput) -> None:
        super().__init__()
        self.settings, self.inputs, self.classes = settings, inputs, len(data.classes)
        self.segmenter = build(settings.architecture, self.classes, settings.weights)
        self.validation = Prepared.of(data.validation, inputs, "validation pictures")
        self.reduced = reduced(settings.precision)
        self.losses: list[float] = []
        self.history: list[dict[str, float]] = []
        self.average = copy.deepcopy(self.segmenter).eval() if settings.averaging else self.segmenter
        self.best: dict[str, torch.Tensor] = {}  # weights of the average
        self.best_epoch = -1

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """One step on pictures of 0..255."""
        pixels, labels = batch
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.reduced):
            logits = self.segmenter(pixels)
        loss = loss_of(logits.float(), labels, self.settings.dice)
        self.losses.append(float(loss.detach()))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Let the average follow."""
        if self.average is not self.segmenter:
            follow(self.average, self.segmenter, self.settings.averaging, self.global_step)

    def measure(self) -> dict[str, float]:
        """Measure the epoch that has ended on the validation pictures, and keep the network if no epoch did better."""
        self.segmenter.eval()
        found = segment(self.average, self.validation.pixels, self.validation.truth, self.inputs)
        self.segmenter.train()
        counts = [pairs(one, truth, self.classes) for one, truth in zip(found, self.validation.truth, strict=True)]
        self.history.append({"loss": float(np.mean(self.losses)), **overlap(np.sum(counts, axis=0))})
        self.losses.clear()
        if self.best_epoch < 0 or self.history[-1]["mean_iou"] > self.history[self.best_epoch]["mean_iou"]:
            self.best, self.best_epoch = copy.deepcopy(self.average.state_dict()), len(self.history) - 1
        return self.history[-1]

    def configure_optimizers(self) -> Any:
        """All of it, under a one-cycle learning rate."""
        return one_cycle(self, self.segmenter.parameters(), self.settings.learning_rate, self.settings.weight_decay)


def loss_of(logits: torch.Tensor, labels: torch.Tensor, dice: float) -> torch.Tensor:
    """Cross-entropy, and `dice` times Dice's loss (Milletari et al. 2016, section 3), the mean over the classes in the batch.

    `logits` [B, classes, h, w] are brought to the size of `labels` [B, H, W]; pixels that are IGNORED don't count.
    """
    logits = functional.interpolate(logits, labels.shape[-2:], mode="bilinear")
    counted = labels != IGNORED
    if not counted.any():
        return logits.sum() * 0
    loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED)
    if not dice:
        return loss
    truth = functional.one_hot(labels.where(counted, 0), logits.shape[1]).permute(0, 3, 1, 2) * counted[:, None]
    likely = logits.softmax(1) * counted[:, None]
    both, either = (likely * truth).sum((0, 2, 3)), (likely + truth).sum((0, 2, 3))
    there = truth.sum((0, 2, 3)) > 0
    return loss + dice * (1 - (2 * both + 1) / (either + 1))[there].mean()


def samples(found: list[np.ndarray], truth: list[np.ndarray], data: ImageData) -> list[Sample]:
    """Test pictures whose classes have about the areas that they should have, those with most classes first.

    Where there is none, those that come nearest stand with the areas that were found, under the name "…-as-found": they prove
    that a server answers as the model does, not that it is right.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", data.name.lower()).strip("-")[:40] or "picture"
    shares = [(_shares(one, len(data.classes)), _shares(other, len(data.classes))) for one, other in zip(found, truth, strict=True)]
    off = [float(np.abs(ours - theirs).max()) for ours, theirs in shares]
    right = sorted((k for k in range(len(off)) if off[k] <= SURE), key=lambda k: (-int((shares[k][1] > 0).sum()), off[k]))
    chosen = right[:SAMPLES] or sorted(range(len(off)), key=off.__getitem__)[:SAMPLES]
    made = []
    for k in chosen:
        areas = dict(zip(data.classes, np.round(shares[k][1 if right else 0], 4).tolist(), strict=True))
        expect = {"areas": {name: share for name, share in areas.items() if share > 0}}
        made.append(Sample(f"{stem}-{k}" if right else f"{stem}-{k}-as-found", *data.test[k].encoded(), expect))
    return made


def _shares(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels.ravel(), minlength=IGNORED + 1)[:classes] / labels.size  # type: ignore[no-any-return]
