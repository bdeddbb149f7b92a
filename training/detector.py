"""Learns to find things in pictures: boxes with a class and a score. Lightning carries the loop, torchvision the losses.

A detector begins anew or with what other pictures taught it (`detection.weights`). The epoch that does best on the validation
pictures is handed over; with `averaging`, of the moving average of the weights.
"""

import base64
import copy
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from pydantic import Field, model_validator

from marina import spec
from marina.errors import CallError
from training import datasets
from training.datasets import Example, ImageData
from training.detection import drawing
from training.detection.architectures import Detector, Targets
from training.detection.evaluation import (
    LEAST,
    Found,
    at_threshold,
    average_precision,
    best_threshold,
    detect,
    judge,
    mask_precision,
    precision_of_answers,
)
from training.detection.pixels import Batches, Prepared
from training.detection.views import Views
from training.detection.weights import build, freeze, is_factory
from training.fitting import fit, follow, one_cycle, reduced
from training.running.checkpoints import Remembering
from training.trained import HELD_OUT, Sample, Trained, spread

from bundle_images import ImageInput
from bundle_instances import MAX_PIXELS

SAMPLES = 64
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


class Settings(spec.Section):
    """The settings of this recipe."""

    data: str = Field(description="'scenes', or a folder of one's own (Pascal VOC or COCO)")
    architecture: Architecture | None = Field(default=None, description="the detector; default: fcos_small, or what the weights are of")
    weights: str = Field(default="none", description="none, imagenet, coco, a file, or file.py:function that gives the whole detector")
    arguments: dict[str, Any] = Field(default={}, description="keyword arguments of that function")
    height: int | None = Field(default=None, ge=64, le=2048, description="of the graph's input, pixels; default: 320, of ssd300 300")
    width: int | None = Field(default=None, ge=64, le=2048, description="of the graph's input, pixels")
    decode: Literal["fast", "exact"] = Field(
        default="fast", description="whether large JPEG files may be decoded at a fraction of their size"
    )
    fit: Literal["stretch", "letterbox"] = Field(default="letterbox", description="how a picture is brought to that size")
    epochs: int = Field(default=30, ge=1, le=10_000, description="times that all training pictures are seen")
    batch_size: int = Field(default=16, ge=2, le=512, description="pictures per step")
    learning_rate: float = Field(default=2e-3, gt=0, description="peak of the one-cycle schedule (AdamW)")
    weight_decay: float = Field(default=1e-2, ge=0, description="of AdamW")
    augmentation: Literal["none", "light", "ssd"] = Field(
        default="light", description="light: other scales, places, brightness and tints; ssd: crops and zooms too, picture by picture"
    )
    flip: bool | Literal["both"] = Field(
        default=False, description="mirror half of the pictures, or half in each direction; not for things that read one way"
    )
    frozen_stages: int | None = Field(
        default=None, ge=0, le=5, description="halvings of the picture's size that stay as the weights have them; default: 2, none without"
    )
    frozen_statistics: bool | None = Field(
        default=None, description="keep the weights' batch normalisation; default: for whole detectors in batches below 16"
    )
    averaging: float = Field(default=0.0, ge=0, lt=1, description="decay of a moving average of the weights per step; 0 for none")
    precision: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="of the convolutions while training")
    score_threshold: float | None = Field(default=None, ge=0, lt=1, description="least score served; default: the best on validation")
    nms_threshold: float = Field(default=0.5, gt=0, le=1, description="boxes of one class that overlap more are one thing")
    detections_per_image: int = Field(default=100, ge=1, le=1000, description="most things found in one picture")
    proposals: int | None = Field(
        default=None, ge=10, le=5000, description="places that R-CNN looks at closely; default: the architecture's own, up to 2000"
    )

    @model_validator(mode="after")
    def _size(self) -> "Settings":
        if self.arguments and not is_factory(self.weights):
            raise ValueError("arguments are for weights of the form file.py:function; leave them out")
        if self.architecture is not None or not is_factory(self.weights):
            wrong = [side for side in (self.height, self.width) if side and side % 32 and self.architecture != "ssd300_vgg16"]
            if wrong:
                raise ValueError(f"height and width must be multiples of 32, not {wrong[0]}")
        return self

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
        return stages, self.frozen_statistics if self.frozen_statistics is not None else whole and self.batch_size < 16


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn, choose the best epoch and the threshold on validation, measure on test, draw the report."""
    started, computed = time.monotonic(), time.process_time()
    data = datasets.load(settings.data, "detector", seed)
    lightning.seed_everything(seed, verbose=False)
    inputs = ImageInput(*settings.size, fit=settings.fit, decode=settings.decode)
    learner = Learner(settings, data, inputs)
    masks = learner.detector.has_masks
    if masks:
        inputs = replace(inputs, max_pixels=MAX_PIXELS)
    pictures = batches(settings, data, inputs, seed, masks)
    about = data.about()
    fit(learner, pictures, settings.epochs, lambda row: f"AP50 {row['ap50']:.3f}", about["fingerprint"])
    detector = learner.average.cpu().eval()
    detector.load_state_dict(learner.best)

    threshold = settings.score_threshold
    if threshold is None:
        threshold = best_threshold(learner.found(detector, learner.validation), data.validation)
    test = Prepared.of(data.test, inputs, "test pictures")
    found = learner.found(detector, test, masks)
    served = [one.above(threshold) for one in found]
    measured = average_precision(found, data.test)
    by_masks = mask_precision(found, data.test) if masks else {}
    chosen = samples(found, data, threshold)
    drawing.curves(learner.history, report / "curves.png")
    drawing.precision_recall(measured.curves, data.classes, report / "precision_recall.png")
    drawing.examples(served, data.test, data.classes, report / "examples.png")
    drawing.worst(served, data.test, data.classes, report / "worst.png")
    return Trained(
        kind="detector",
        module=detector,
        example=detector.inputs(test.pixels[:2] if len(test.pixels) > 1 else test.pixels[:1].repeat(2, 1, 1, 1), threshold),
        validation=detector.inputs(learner.validation.pixels[:HELD_OUT], threshold),
        sure=threshold,
        quality=lambda answers: precision_of_answers(answers, data.validation, inputs, data.classes),
        calibration=lambda: detector.inputs(Prepared.of(spread(data.train), inputs, "calibration pictures").pixels, threshold),
        metrics={**measured.summary, **by_masks, **at_threshold(served, data.test)},
        preprocess=inputs.as_config(),
        postprocess={"type": "detection", "score_threshold": threshold, **learner.postprocess},
        samples=[asking_for_masks(sample) for sample in chosen] if masks else chosen,
        data=about,
        classes=list(data.classes),
        training={
            "epochs": settings.epochs,
            "best_epoch": learner.best_epoch + 1,
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(time.process_time() - computed, 1),
            "validation": learner.history[learner.best_epoch],
            "by_class": {data.classes[label]: value for label, value in measured.by_class.items()},
        },
    )


def batches(settings: Settings, data: ImageData, inputs: ImageInput, seed: int, masks: bool = False) -> Batches | Views:
    """The training pictures, augmented as the settings say, with masks if asked for. Raises CallError where that can't be."""
    if settings.augmentation == "ssd":
        if masks:
            raise CallError("augmentation 'ssd' doesn't move masks; use light or none with Mask R-CNN")
        flips = ("horizontal", "vertical") if settings.flip == "both" else ("horizontal",) if settings.flip else ()
        return Views(data.train, inputs, settings.batch_size, flips, seed)
    pictures = Prepared.of(data.train, inputs, "training pictures", masks)
    return Batches(pictures, settings.batch_size, settings.augmentation == "light", settings.flip, seed)


class Learner(Remembering):
    """The detector with its optimiser; after each epoch it measures itself on the validation pictures and keeps the best."""

    remembered = ("losses", "history", "best", "best_epoch")

    def __init__(self, settings: Settings, data: ImageData, inputs: ImageInput) -> None:
        super().__init__()
        self.settings, self.inputs, self.truth = settings, inputs, data.validation
        chosen = (settings.architecture, len(data.classes), *settings.size, settings.weights, settings.arguments, settings.proposals)
        self.detector = build(*chosen)
        stages, self.detector.frozen_statistics = settings.frozen
        if stages:
            freeze(self.detector, stages)
        self.validation = Prepared.of(data.validation, inputs, "validation pictures")
        self.postprocess = self.detector.limit(settings.nms_threshold, settings.detections_per_image)
        self.reduced = reduced(settings.precision)
        self.losses: list[float] = []
        self.history: list[dict[str, float]] = []
        self.average = copy.deepcopy(self.detector).eval() if settings.averaging else self.detector
        self.best: dict[str, torch.Tensor] = {}  # weights of the average
        self.best_epoch = -1
        self.detector.train()

    def training_step(self, batch: tuple[torch.Tensor, Targets]) -> torch.Tensor:
        """One step on pictures of 0..255."""
        loss = torch.stack(list(self.detector.loss(*batch, bfloat16=self.reduced).values())).sum()
        self.losses.append(float(loss.detach()))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Let the average follow."""
        if self.average is not self.detector:
            follow(self.average, self.detector, self.settings.averaging, self.global_step)

    def found(self, detector: Detector, pictures: Prepared, masks: bool = False) -> list[Found]:
        """What `detector` finds in `pictures`, down to the least scores that count for average precision."""
        return detect(detector, pictures.pixels, pictures.sizes, self.inputs, {**self.postprocess, "score_threshold": LEAST}, masks)

    def measure(self) -> dict[str, float]:
        """Measure the epoch that has ended on the validation pictures, and keep the detector if no epoch did better."""
        self.detector.eval()
        summary = average_precision(self.found(self.average, self.validation), self.truth).summary
        self.detector.train()
        self.history.append({"loss": float(np.mean(self.losses)), **summary})
        self.losses.clear()
        if self.best_epoch < 0 or _rank(summary) > _rank(self.history[self.best_epoch]):
            self.best, self.best_epoch = copy.deepcopy(self.average.state_dict()), len(self.history) - 1
        return self.history[-1]

    def configure_optimizers(self) -> Any:
        """What is not frozen, under a one-cycle learning rate."""
        learnt = [one for one in self.detector.parameters() if one.requires_grad]
        return one_cycle(self, learnt, self.settings.learning_rate, self.settings.weight_decay)


def _rank(summary: dict[str, float]) -> tuple[float, float]:
    return summary["ap50"], summary["map"]


def samples(found: Sequence[Found], data: ImageData, threshold: float) -> list[Sample]:
    """Test pictures that are answered wholly rightly, and not by a hair; those with the classes seldom shown so far come first.

    Crowded pictures may never be wholly right. Where none is, those that come nearest stand with what was found in them, under
    the name "…-as-found": they prove that a server answers as the model does, not that it is right.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", data.name.lower()).strip("-")[:40] or "picture"
    sure = [k for k, (one, example) in enumerate(zip(found, data.test, strict=True)) if _sure(one, example, threshold)]
    if not sure:
        nearest = sorted(range(len(found)), key=lambda k: -_f1(found[k].above(threshold), data.test[k]))
        steady = [
            k for k in nearest if not ((found[k].scores - threshold).abs() < 0.002).any() and _f1(found[k].above(threshold), data.test[k])
        ]
        own = {k: found[k].above(threshold) for k in steady[:SAMPLES]}
        return [_sample(f"{stem}-{k}-as-found", data, k, one.boxes.numpy(), one.labels.numpy()) for k, one in own.items()]
    shown = np.zeros(len(data.classes))
    chosen: list[Sample] = []
    while sure and len(chosen) < SAMPLES:
        k = min(sure, key=lambda row: float(shown[data.test[row].labels].mean()))
        sure.remove(k)
        np.add.at(shown, data.test[k].labels, 1)
        chosen.append(_sample(f"{stem}-{k}", data, k, data.test[k].boxes, data.test[k].labels))
    return chosen


def _sample(name: str, data: ImageData, row: int, boxes: np.ndarray, labels: np.ndarray) -> Sample:
    expect = [
        {"class": data.classes[label], "bbox": [round(value, 2) for value in box]}
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)
    ]
    return Sample(name, *data.test[row].encoded(), {"detections": expect})


def asking_for_masks(sample: Sample) -> Sample:
    """The same request, so that its golden answer has the masks too."""
    is_json = sample.content_type == "application/json"
    content = json.loads(sample.body) if is_json else {"image": base64.b64encode(sample.body).decode()}
    return replace(sample, body=json.dumps({**content, "masks": "compressed_rle"}).encode(), content_type="application/json")


def _f1(found: Found, example: Example) -> float:
    right, taken = judge(found, example)
    return 2 * float(right.sum()) / max(1, len(right) + len(taken))


def _sure(found: Found, example: Example, threshold: float) -> bool:
    """All objects found and nothing else, at a threshold a little lower and a little higher too."""
    for least in (threshold - 0.03, threshold + 0.03):
        right, taken = judge(found.above(least), example, overlap=0.55)
        if not (len(taken) and taken.all() and right.all()):
            return False
    return True
