"""Learns which pixels show what: semantic segmentation. Lightning carries the loop, the loss is cross-entropy
and Dice's together.

A network starts from scratch or from pretrained weights (`segmentation.architectures`). The epoch that does
best on the validation pictures is exported; with `ema_decay`, of the moving average of the weights.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch.nn import functional

from handlers.inputs.images import ImageInput
from training.data import ImageData, load_outlines
from training.data.limits import Limits, PictureLimits
from training.data.outlined_folder import IGNORED
from training.data.overview import samples as samples_of
from training.export.trained import HELD_OUT, Sample, Trained, spread
from training.runs.curves import draw_curves
from training.runs.fitting import FitModule, fit
from training.runs.run import Run
from training.runs.schedules import BatchSize, FitSettings, LearningRate, MaxGradNorm, uses_bfloat16
from training.runs.seeds import seed_everything
from training.vision.detection.pixels import Flip, flips, two_pictures
from training.vision.records import StorageSettings
from training.vision.segmentation import drawing
from training.vision.segmentation.architectures import build
from training.vision.segmentation.evaluation import OVERLAP_METRICS, by_class, overlap, pairs, segment
from training.vision.segmentation.pixels import Batches, Prepared
from training.vision.transforms import Transforms
from training.vision.transforms import build as build_transforms

SAMPLES = 64
MAX_PIXELS = 12_000_000  # of a picture that is sent: every one of them gets its answer
# of the picture: most that a class's area in a sample may be off, a fifth of what `marina.samples` allows
SURE = 0.01
Architecture = Literal[
    "unet_small",
    "unet_mobilenet_v2",
    "lraspp_mobilenet_v3_large",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "fcn_resnet50",
]
MULTI_DEVICE = True
METRICS = OVERLAP_METRICS


class Settings(FitSettings, StorageSettings, PictureLimits):
    """The settings of this recipe."""

    data: str = Field(
        description="a folder of one's own: COCO or YOLO with an outline per object, or a mask per picture"
    )
    ignore_index: int | None = Field(
        default=255, ge=0, le=255, description="value of masks whose pixels don't count; null: all count"
    )
    architecture: Architecture = Field(default="unet_small", description="the network")
    weights: str = Field(
        default="none", description="none, imagenet (of the backbone), coco, or a file of the whole network"
    )
    height: int = Field(
        default=320, ge=64, le=2048, multiple_of=32, description="height of the graph's input, pixels"
    )
    width: int = Field(
        default=320, ge=64, le=2048, multiple_of=32, description="width of the graph's input, pixels"
    )
    decode: Literal["fast", "exact"] = Field(
        default="fast", description="whether large JPEG files may be decoded at a fraction of their size"
    )
    resize: Literal["stretch", "letterbox"] = Field(
        default="letterbox", description="how a picture is brought to that size"
    )
    batch_size: BatchSize = 8
    learning_rate: LearningRate = 1e-3
    max_grad_norm: MaxGradNorm = 5.0
    augmentation: Literal["none", "light"] | Transforms = Field(
        default="light",
        description=(
            "light: other scales, places, brightness and tints; or a list of torchvision's transforms"
        ),
    )
    horizontal_flip: bool = Field(
        default=True, description="mirror half of the pictures; not for things that read one way"
    )
    vertical_flip: bool = Field(
        default=False, description="turn half of the pictures upside down, in a mirror; for views from above"
    )
    dice: float = Field(
        default=1.0, ge=0, le=100, description="weight of Dice's loss beside cross-entropy, for small classes"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the convolutions while training"
    )

    renamed: ClassVar[dict[str, str]] = {"fit": "resize", "flip": "horizontal_flip"}

    @property
    def limits(self) -> Limits:
        """For reading the data, and for the graph's input; a mask has as many pixels as its picture."""
        return replace(super().limits, max_pixels=min(self.max_pixels, MAX_PIXELS))

    @property
    def flips(self) -> tuple[Flip, ...]:
        """The directions that pictures are mirrored in."""
        return flips(self.horizontal_flip, self.vertical_flip)

    def image_input(self) -> ImageInput:
        """How pictures are brought to the graph, in training and in serving."""
        return self.limit(ImageInput(self.height, self.width, fit=self.resize, decode=self.decode))


def load_data(settings: Settings, run: Run) -> ImageData:
    """The data that the settings name. Raises CallError."""
    return load_outlines(settings.data, run.seed, run.findings, settings.limits, settings.ignore_index)


def augmented(settings: Settings, data: ImageData, count: int, views: int) -> list[list[Image.Image]]:
    """For `count` training pictures, each as it is and in `views` variations, with their classes painted."""
    prepared = Prepared.of(samples_of(data, count), settings.image_input(), "pictures")
    rows: list[list[Image.Image]] = []
    varied = batches_of(settings, prepared, seed=0)
    plain = Batches(prepared, settings.batch_size, False, (), seed=0)
    for row in range(len(prepared.pixels)):
        rows.append([])
        for batches, times in ((plain, 1), (varied, views)):
            pixels, labels = batches.batch(next(batches.read([[row] * times])))
            rows[-1] += [drawing.truth(*pair, len(data.classes)) for pair in zip(pixels, labels, strict=True)]
    return rows


def train(settings: Settings, run: Run) -> Trained:
    """Learn, choose the best epoch on validation, measure on test, draw the report."""
    data = load_data(settings, run)
    seed_everything(run.seed)
    learner = Learner(settings, data)
    inputs = learner.inputs
    pictures = Prepared.of(data.train, inputs, "training pictures", settings.storage(run.findings))
    batches = batches_of(settings, pictures, run.seed)
    about = data.about(settings.full_fingerprint)
    fit(learner, batches, run, fingerprint=about["fingerprint"])
    segmenter = learner.best_model()

    test = Prepared.of(data.test, inputs, "test pictures", settings.storage())
    found = list(segment(segmenter, test.pixels, test.truth, inputs))
    counts = [pairs(one, truth, len(data.classes)) for one, truth in zip(found, test.truth, strict=True)]
    measures = {"mean_iou": "mean IoU", "dice": "Dice"}
    draw_curves(learner.history, measures, "Validation, mean over the classes", run.report / "curves.png")
    drawing.examples(found, test.truth, data, counts, run.report)
    return Trained(
        kind="segmenter",
        module=segmenter,
        example=(two_pictures(test.pixels),),
        validation=(learner.validation.pixels[:HELD_OUT],),
        calibration=lambda: (spread(pictures.pixels),),
        metrics=overlap(np.sum(counts, axis=0)),
        preprocess=inputs.as_config(),
        postprocess={"type": "segmentation"},
        samples=samples(found, test.truth, data),
        data=about,
        classes=list(data.classes),
        training={
            **learner.training_facts(run),
            "by_class": by_class(np.sum(counts, axis=0), data.classes),
        },
    )


def batches_of(settings: Settings, pictures: Prepared, seed: int) -> Batches:
    """The training pictures, augmented as the settings say."""
    light = settings.augmentation == "light"
    loader = Batches(pictures, settings.batch_size, light, settings.flips, seed)
    if isinstance(settings.augmentation, list):
        size = settings.height, settings.width
        loader.transforms = build_transforms(settings.augmentation, size, IGNORED)
    return loader


class Learner(FitModule):
    """A segmenter that learns; after each epoch it is measured on the validation pictures."""

    settings: Settings

    def __init__(self, settings: Settings, data: ImageData) -> None:
        super().__init__(build(settings.architecture, len(data.classes), settings.weights), settings)
        self.inputs, self.classes = settings.image_input(), len(data.classes)
        self.validation = Prepared.of(data.validation, self.inputs, "validation pictures", settings.storage())
        self.in_bfloat16 = uses_bfloat16(settings.precision)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """One step on pictures of 0..255."""
        pixels, labels = batch
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            logits = self.model(pixels)
        loss = loss_of(logits.float(), labels, self.settings.dice)
        self.losses.append(float(loss.detach()))
        return loss

    def evaluate(self) -> dict[str, float]:
        """Overlap on the validation pictures."""
        self.model.eval()
        truth = self.validation.truth
        found = segment(self.average, self.validation.pixels, truth, self.inputs)
        self.model.train()
        counts = [pairs(*each, self.classes) for each in zip(found, truth, strict=True)]
        return {"loss": float(np.mean(self.losses)), **overlap(np.sum(counts, axis=0))}

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """Mean IoU."""
        return (row["mean_iou"],)

    def plateau_loss(self, row: dict[str, float]) -> float:
        """What mean IoU lacks."""
        return 1 - row["mean_iou"]

    def summary(self, row: dict[str, float]) -> str:
        """Loss and mean IoU."""
        return f"loss {row['loss']:.2f}, validation mean IoU {row['mean_iou']:.3f}"


def loss_of(logits: torch.Tensor, labels: torch.Tensor, dice: float) -> torch.Tensor:
    """Cross-entropy, and `dice` times Dice's loss (Milletari et al. 2016, section 3), the mean over the
    classes in the batch.

    `logits` [B, classes, h, w] are brought to the size of `labels` [B, H, W]; pixels that are IGNORED don't
    count.
    """
    logits = functional.interpolate(logits, labels.shape[-2:], mode="bilinear")
    counted = labels != IGNORED
    if not counted.any():
        return logits.sum() * 0
    loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED)
    if not dice:
        return loss
    truth = (
        functional.one_hot(labels.where(counted, 0), logits.shape[1]).permute(0, 3, 1, 2) * counted[:, None]
    )
    likely = logits.softmax(1) * counted[:, None]
    both, either = (likely * truth).sum((0, 2, 3)), (likely + truth).sum((0, 2, 3))
    there = truth.sum((0, 2, 3)) > 0
    return loss + dice * (1 - (2 * both + 1) / (either + 1))[there].mean()


def samples(found: Sequence[np.ndarray], truth: Sequence[np.ndarray], data: ImageData) -> list[Sample]:
    """Test pictures whose classes have about the areas that they should have, those with most classes first.

    Where there is none, those that come nearest stand with the areas that were found, under the name
    "…-as-found": they prove that a server answers as the model does, not that it is right.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", data.name.lower()).strip("-")[:40] or "picture"
    shares = [
        (_shares(one, len(data.classes)), _shares(other, len(data.classes)))
        for one, other in zip(found, truth, strict=True)
    ]
    off = [float(np.abs(ours - theirs).max()) for ours, theirs in shares]
    right = sorted(
        (k for k in range(len(off)) if off[k] <= SURE), key=lambda k: (-int((shares[k][1] > 0).sum()), off[k])
    )
    chosen = right[:SAMPLES] or sorted(range(len(off)), key=off.__getitem__)[:SAMPLES]
    made = []
    for k in chosen:
        areas = dict(zip(data.classes, np.round(shares[k][1 if right else 0], 4).tolist(), strict=True))
        expect = {"areas": {name: share for name, share in areas.items() if share > 0}}
        made.append(
            Sample(f"{stem}-{k}" if right else f"{stem}-{k}-as-found", *data.test[k].encoded(), expect)
        )
    return made


def _shares(labels: np.ndarray, classes: int) -> np.ndarray:
    shares: np.ndarray = np.bincount(labels.ravel(), minlength=IGNORED + 1)[:classes] / labels.size
    return shares
