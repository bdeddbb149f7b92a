"""Learns to find things in pictures: boxes with a class and a score. Lightning carries the loop, torchvision
the losses.

A detector starts from scratch or from pretrained weights (`detection.weights`). The epoch that does best on
the validation pictures is exported; with `ema_decay`, of the moving average of the weights.
"""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator

from handlers.inputs.images import ImageInput
from handlers.kinds.instance_masks import MAX_PIXELS
from marina.core.errors import CallError
from training.data import ImageData, load_objects
from training.data.limits import Limits, PictureLimits
from training.data.overview import samples
from training.export.trained import HELD_OUT, Trained, spread
from training.findings import Findings
from training.runs.fitting import FitModule, fit
from training.runs.run import Run
from training.runs.schedules import BatchSize, Epochs, FitSettings, LearningRate, MaxGradNorm, uses_bfloat16
from training.runs.seeds import seed_everything
from training.vision.detection import drawing
from training.vision.detection.architectures import Detector, Targets
from training.vision.detection.evaluation import (
    LEAST,
    PRECISION_METRICS,
    Found,
    at_threshold,
    average_precision,
    best_threshold,
    detect,
    mask_precision,
    precision_of_answers,
)
from training.vision.detection.pixels import Batches, Flip, Prepared, flips, two_pictures
from training.vision.detection.samples import make_samples, request_masks
from training.vision.detection.views import Views
from training.vision.detection.weights import build, freeze, is_factory
from training.vision.records import StorageSettings
from training.vision.transforms import Transforms
from training.vision.transforms import build as build_transforms

MULTI_DEVICE = True
METRICS = (*PRECISION_METRICS, "precision", "recall")
Architecture = Literal[
    "fcos_small",
    "ssdlite320_mobilenet_v3_large",
    "ssd300_vgg16",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_mobilenet_v2_320_fpn",
    "maskrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn_v2",
]


class Settings(FitSettings, StorageSettings, PictureLimits):
    """The settings of this recipe."""

    data: str = Field(description="'scenes', or a folder of one's own (Pascal VOC, COCO or YOLO)")
    architecture: Architecture | None = Field(
        default=None, description="the detector; default: fcos_small, or what the weights are of"
    )
    weights: str = Field(
        default="none",
        description="none, imagenet, coco, a file, or file.py:function that gives the whole detector",
    )
    arguments: dict[str, Any] = Field(default={}, description="keyword arguments of that function")
    height: int | None = Field(
        default=None, ge=64, le=2048, description="of the graph's input, pixels; default: 320, of ssd300 300"
    )
    width: int | None = Field(default=None, ge=64, le=2048, description="of the graph's input, pixels")
    decode: Literal["fast", "exact"] = Field(
        default="fast", description="whether large JPEG files may be decoded at a fraction of their size"
    )
    resize: Literal["stretch", "letterbox"] = Field(
        default="letterbox", description="how a picture is brought to that size"
    )
    epochs: Epochs = 30
    batch_size: BatchSize = 16
    learning_rate: LearningRate = 2e-3
    max_grad_norm: MaxGradNorm = 5.0
    augmentation: Literal["none", "light", "ssd"] | Transforms = Field(
        default="light",
        description=(
            "light: other scales, places, brightness and tints; ssd: crops and zooms too, picture by "
            "picture; or a list of torchvision's transforms"
        ),
    )
    horizontal_flip: bool = Field(
        default=False, description="mirror half of the pictures; not for things that read one way"
    )
    vertical_flip: bool = Field(
        default=False, description="turn half of the pictures upside down, in a mirror; for views from above"
    )
    frozen_stages: int | None = Field(
        default=None,
        ge=0,
        le=5,
        description=(
            "halvings of the picture's size that stay as the weights have them; default: 2, none without"
        ),
    )
    frozen_statistics: bool | None = Field(
        default=None,
        description="keep the weights' batch normalisation; default: for whole detectors in batches below 16",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the convolutions while training"
    )
    score_threshold: float | None = Field(
        default=None, ge=0, lt=1, description="least score served; default: the best on validation"
    )
    nms_threshold: float = Field(
        default=0.5, gt=0, le=1, description="boxes of one class that overlap more are one thing"
    )
    detections_per_image: int = Field(
        default=100, ge=1, le=1000, description="most things found in one picture"
    )
    proposals: int | None = Field(
        default=None,
        ge=10,
        le=5000,
        description="places that R-CNN looks at closely; default: the architecture's own, up to 2000",
    )

    renamed: ClassVar[dict[str, str]] = {"fit": "resize", "flip": "horizontal_flip"}

    @model_validator(mode="after")
    def _size(self) -> "Settings":
        if self.arguments and not is_factory(self.weights):
            raise ValueError("arguments are for weights of the form file.py:function; leave them out")
        if self.architecture is not None or not is_factory(self.weights):
            wrong = [
                side
                for side in (self.height, self.width)
                if side and side % 32 and self.architecture != "ssd300_vgg16"
            ]
            if wrong:
                raise ValueError(f"height and width must be multiples of 32, not {wrong[0]}")
        return self

    @property
    def limits(self) -> Limits:
        """For reading the data, and for the graph's input; a mask has as many pixels as its picture."""
        masks = (self.architecture or "").startswith("maskrcnn")
        return replace(
            super().limits, max_pixels=min(self.max_pixels, MAX_PIXELS if masks else self.max_pixels)
        )

    @property
    def flips(self) -> tuple[Flip, ...]:
        """The directions that pictures are mirrored in."""
        return flips(self.horizontal_flip, self.vertical_flip)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the graph's input."""
        default = 300 if self.architecture == "ssd300_vgg16" else 320
        return self.height or default, self.width or default

    @property
    def frozen(self) -> tuple[int, bool]:
        """(stages that are not trained, whether batch normalisation keeps its statistics)."""
        whole = self.weights not in ("none", "imagenet")
        stages = self.frozen_stages if self.frozen_stages is not None else 2 if self.weights != "none" else 0
        return (
            stages,
            self.frozen_statistics if self.frozen_statistics is not None else whole and self.batch_size < 16,
        )

    def image_input(self) -> ImageInput:
        """How pictures are brought to the graph, in training and in serving."""
        return self.limit(ImageInput(*self.size, fit=self.resize, decode=self.decode))


def load_data(settings: Settings, run: Run) -> ImageData:
    """The data that the settings name. Raises CallError."""
    return load_objects(settings.data, run.seed, run.findings, settings.limits)


def augmented(settings: Settings, data: ImageData, count: int, views: int) -> list[list[Image.Image]]:
    """For `count` training pictures, each as it is and in `views` variations, with their boxes."""
    few, inputs = replace(data, train=samples(data, count)), settings.image_input()
    plain = settings.model_copy(
        update={"augmentation": "none", "horizontal_flip": False, "vertical_flip": False}
    )
    rows: list[list[Image.Image]] = [[] for _ in few.train]
    for chosen, times in ((plain, 1), (settings, views)):
        loader: Any = batches(chosen, few, inputs, seed=0)
        read = loader.read([[row] * times for row in range(len(few.train))])
        for row, (pixels, targets) in zip(rows, map(loader.batch, read), strict=True):
            row += [drawing.truth(*pair, data.classes) for pair in zip(pixels, targets, strict=True)]
    return rows


def train(settings: Settings, run: Run) -> Trained:
    """Learn, choose the best epoch and the threshold on validation, measure on test, draw the report."""
    data = load_data(settings, run)
    seed_everything(run.seed)
    learner = Learner(settings, data)
    inputs, masks = learner.inputs, learner.model.has_masks
    if masks:
        inputs = replace(inputs, max_pixels=min(inputs.max_pixels, MAX_PIXELS))
    pictures = batches(settings, data, inputs, run.seed, masks, run.findings)
    about = data.about(settings.full_fingerprint)
    fit(learner, pictures, run, fingerprint=about["fingerprint"])
    detector: Detector = learner.best_model()

    threshold = learner.threshold_of(detector)
    test = Prepared.of(data.test, inputs, "test pictures", storage=settings.storage())
    found = learner.found(detector, test, masks)
    served = [one.above(threshold) for one in found]
    measured = average_precision(found, data.test)
    by_masks = mask_precision(found, data.test) if masks else {}
    samples = make_samples(found, data, threshold)
    drawing.draw_report(learner.history, measured.curves, served, data, run.report)
    return Trained(
        kind="detector",
        module=detector,
        example=detector.inputs(two_pictures(test.pixels), threshold),
        validation=detector.inputs(learner.validation.pixels[:HELD_OUT], threshold),
        sure=threshold,
        quality=lambda answers: precision_of_answers(answers, data.validation, inputs, data.classes),
        calibration=lambda: detector.inputs(
            Prepared.of(
                spread(data.train), inputs, "calibration pictures", storage=settings.storage(run.findings)
            ).pixels[:],
            threshold,
        ),
        metrics={**measured.summary, **by_masks, **at_threshold(served, data.test)},
        preprocess=inputs.as_config(),
        postprocess={"type": "detection", "score_threshold": threshold, **learner.postprocess},
        samples=[request_masks(sample) for sample in samples] if masks else samples,
        data=about,
        classes=list(data.classes),
        training={
            **learner.training_facts(run),
            "by_class": {data.classes[label]: value for label, value in measured.by_class.items()},
        },
    )


def batches(
    settings: Settings,
    data: ImageData,
    inputs: ImageInput,
    seed: int,
    masks: bool = False,
    findings: Findings | None = None,
) -> Batches | Views:
    """The training pictures, augmented as the settings say, with masks if asked for; damaged ones go to the
    `findings`. Raises CallError where that can't be.
    """
    storage = settings.storage(findings)
    if settings.augmentation == "ssd":
        if masks:
            raise CallError("augmentation 'ssd' doesn't move masks; use light or none with Mask R-CNN")
        return Views(data.train, inputs, settings.batch_size, settings.flips, seed, storage)
    pictures = Prepared.of(data.train, inputs, "training pictures", masks, storage)
    light = settings.augmentation == "light"
    loader = Batches(pictures, settings.batch_size, light, settings.flips, seed)
    if isinstance(settings.augmentation, list):
        loader.transforms = build_transforms(settings.augmentation, settings.size)
    return loader


class Learner(FitModule):
    """A detector that learns; after each epoch it is measured on the validation pictures."""

    model: Detector
    average: Detector

    def __init__(self, settings: Settings, data: ImageData) -> None:
        detector = build(
            settings.architecture,
            len(data.classes),
            *settings.size,
            settings.weights,
            settings.arguments,
            settings.proposals,
        )
        stages, detector.frozen_statistics = settings.frozen
        if stages:
            freeze(detector, stages)
        self.postprocess = detector.limit(settings.nms_threshold, settings.detections_per_image)
        super().__init__(detector, settings)
        self.inputs, self.truth = settings.image_input(), data.validation
        self.validation = Prepared.of(
            data.validation, self.inputs, "validation pictures", storage=settings.storage()
        )
        self.score_threshold = settings.score_threshold
        self.in_bfloat16 = uses_bfloat16(settings.precision)
        self.model.train()

    def training_step(self, batch: tuple[torch.Tensor, Targets]) -> torch.Tensor:
        """One step on pictures of 0..255."""
        loss = torch.stack(list(self.model.loss(*batch, bfloat16=self.in_bfloat16).values())).sum()
        self.losses.append(float(loss.detach()))
        return loss

    def found(self, detector: Detector, pictures: Prepared, masks: bool = False) -> list[Found]:
        """What `detector` finds in `pictures`, down to the least scores that count for average precision."""
        return detect(
            detector,
            pictures.pixels,
            pictures.sizes,
            self.inputs,
            {**self.postprocess, "score_threshold": LEAST},
            masks,
        )

    def threshold_of(self, detector: Detector) -> float:
        """The lowest score that is served: as the settings say, else the best on the validation pictures."""
        if self.score_threshold is not None:
            return self.score_threshold
        return best_threshold(self.found(detector, self.validation), self.truth)

    def evaluate(self) -> dict[str, float]:
        """Average precision on the validation pictures."""
        self.model.eval()
        summary = average_precision(self.found(self.average, self.validation), self.truth).summary
        self.model.train()
        return {"loss": float(np.mean(self.losses)), **summary}

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """AP50, ties by the mean over overlaps."""
        return row["ap50"], row["map"]

    def plateau_loss(self, row: dict[str, float]) -> float:
        """What AP50 lacks."""
        return 1 - row["ap50"]

    def summary(self, row: dict[str, float]) -> str:
        """Loss and AP50."""
        return f"loss {row['loss']:.2f}, validation AP50 {row['ap50']:.3f}"
