"""Supervised image classification: a small CNN or any of torchvision's, from scratch, fine-tuned, or with a
new head alone.

Learns (`classification.learner`) from pictures or from a frozen body's features (`inputs`), puts the
temperature into the graph and the decision beside it (`calibration`), measures on the test split and draws
(`drawing`).

A picture may also have several labels, or none (`several_labels`): then each label has a threshold of its own
(`classification.several`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from handlers.inputs.images import ImageInput
from handlers.inputs.ink import CELLS
from handlers.kinds.decision import Decision
from marina.core.errors import CallError
from training.data import ImageData, load_images, load_labels
from training.data.limits import PictureLimits
from training.export.trained import HELD_OUT, Trained
from training.runs.class_learning import OperatingPoint
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.runs.threads import torch_threads
from training.vision.classification import calibration, inputs, networks, several
from training.vision.classification.assessment import (
    CLASSIFIER_METRICS,
    assess,
    make_trained,
    training_facts,
    write_report,
)
from training.vision.classification.augmentation import mix
from training.vision.classification.label_scores import LABEL_METRICS
from training.vision.classification.learner import Learner, fit, learner_of
from training.vision.classification.samples import samples_of
from training.vision.classification.settings import ClassifierSettings
from training.vision.classification.shown import augmented_by
from training.vision.records import Rows
from training.vision.self_supervision.pretraining import pretrain

MULTI_DEVICE = True
METRICS = (*CLASSIFIER_METRICS, *LABEL_METRICS)


class Settings(ClassifierSettings, PictureLimits):
    """What a spec may say under `training`."""

    data: str = Field(
        default="digits",
        description=(
            "the built-in set 'digits', a folder, a table or shards of pictures, a .npz file of MedMNIST's "
            "layout, or torchvision:NAME"
        ),
    )
    image_size: int | None = Field(
        default=None, ge=8, le=1024, description="side of the input, pixels; default: the architecture's"
    )
    resize: Literal["stretch", "crop", "letterbox", "ink"] | None = Field(
        default=None,
        description="how a picture is brought to that size; default: ink for 'digits', else crop",
    )
    decode: Literal["fast", "exact"] = Field(
        default="fast", description="whether large JPEG files may be decoded at a fraction of their size"
    )
    mode: Literal["RGB", "L"] | None = Field(
        default=None,
        description="colour or grey; default: grey for resize ink and where the data is, else colour",
    )
    operating_point: OperatingPoint = None
    several_labels: bool = Field(
        default=False,
        description=(
            "a picture may have several labels, or none: columns of 0 and 1, labels.json with lists, or the "
            "classes of the objects in COCO, VOC or YOLO"
        ),
    )
    label_separator: str | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="between the labels in one cell of a table, as in cat;dog; means several_labels",
    )

    renamed: ClassVar[dict[str, str]] = {"decision": "operating_point"}

    @property
    def has_several(self) -> bool:
        """Whether a picture may have several labels."""
        return self.several_labels or self.label_separator is not None

    @model_validator(mode="after")
    def _one_or_several(self) -> "Settings":
        told = {
            "operating_point": self.operating_point is not None,
            "label_smoothing": "label_smoothing" in self.model_fields_set and self.label_smoothing > 0,
            "mixup": self.mixup,
            "cutmix": self.cutmix,
            "class_balance: sampling": self.class_balance == "sampling",
        }
        if self.has_several and any(told.values()):
            names = ", ".join(name for name, is_told in told.items() if is_told)
            raise ValueError(f"{names} is for one label per picture; leave it out, or several_labels")
        return self


@dataclass(frozen=True)
class _Material:
    """What the learner sees of the three splits, and what it trains on them."""

    model: torch.nn.Module  # the whole network, or its head alone
    train: Rows
    validation: Rows
    test: Rows


def load_data(settings: Settings, run: Run) -> ImageData:
    """The data that the settings name. Raises CallError."""
    if settings.has_several:
        return load_labels(settings.data, run.seed, run.findings, settings.limits, settings.label_separator)
    return load_images(settings.data, run.seed, run.findings, settings.limits)


def train(settings: Settings, run: Run) -> Trained:
    """Learn, keep the epoch of highest validation accuracy (ties: lower loss), calibrate on validation,
    measure on the test split.

    Metrics: accuracy and macro_f1 of the answers, ece and ece_uncalibrated, auroc (macro, one class against
    the rest) where every class is in the test split; recall_NAME and precision_NAME of both classes where
    there are two, else of the decision's. Of several labels micro_f1 and macro_f1, exact_match and
    mean_average_precision. Raises CallError for settings or data that can't be used.
    """
    seed_everything(run.seed)
    data = load_data(settings, run)
    classes = list(data.classes)
    model, config = _network(settings, data)
    before: dict[str, Any] = {}
    if settings.pretraining:
        with torch_threads(1 if settings.architecture == networks.SMALL_CNN else 0):
            before = pretrain(model, data.train, config, settings, run)
    material = _material(settings, model, config, data, run)
    prepared = time.monotonic()
    labels, count = material.train.tensors[1], len(classes)
    learner = learner_of(settings, model, material.model, config, labels, mix(settings, count), count)
    tiny = settings.head_alone or settings.architecture == networks.SMALL_CNN
    parts = material.train, material.validation
    about = data.about(settings.full_fingerprint)
    fit(learner, *parts, run, threads=1 if tiny else 0, fingerprint=about["fingerprint"])

    learned = _Learned(model, config, data, about, material, learner, before)
    if settings.has_several:
        return _finish_several(learned, run, prepared)
    return _finish(settings, learned, run, prepared)


@dataclass(frozen=True)
class _Learned:
    """A network that has learned, with all that it is assessed and exported by."""

    model: networks.Classifier
    config: ImageInput
    data: ImageData
    about: dict[str, Any]
    material: "_Material"
    learner: Learner
    before: dict[str, Any]  # what pretraining says of itself

    def picture(self, row: int) -> torch.Tensor:
        """Of the test, as the graph takes it."""
        return inputs.picture(self.data.test[row], self.config)

    def held_out(self) -> dict[str, Any]:
        """The pictures that an export needs."""
        data, config = self.data, self.config
        return {
            "example": (inputs.stack_pictures([*data.validation, *data.test][:8], config),),
            "validation": (inputs.stack_pictures(data.validation[:HELD_OUT], config),),
        }


def _finish(settings: Settings, learned: _Learned, run: Run, prepared: float) -> Trained:
    """Of one label per picture."""
    model, data, material = learned.model, learned.data, learned.material
    classes = list(data.classes)
    choose = partial(_decision, settings, classes)
    assessment = assess(material.model, material.validation, material.test, classes, choose)
    model.temperature = assessment.temperature
    write_report(assessment, learned.learner, classes, learned.picture, run.report)
    facts = training_facts(assessment, learned.learner, run, prepared)
    return make_trained(
        "classifier",
        model,
        learned.config,
        data,
        learned.about,
        assessment,
        samples=samples_of(data, assessment),
        training=learned.before | facts,
        **learned.held_out(),
    )


def _finish_several(learned: _Learned, run: Run, prepared: float) -> Trained:
    """Of several labels per picture."""
    material, classes = learned.material, list(learned.data.classes)
    assessment = several.assess(material.model, material.validation, material.test)
    several.write_report(assessment, learned.learner, classes, learned.picture, run.report)
    facts = training_facts(assessment, learned.learner, run, prepared)
    return make_trained(
        "classifier",
        learned.model,
        learned.config,
        learned.data,
        learned.about,
        assessment,
        samples=several.samples(learned.data, assessment),
        training=learned.before | facts,
        **learned.held_out(),
    )


def _network(settings: Settings, data: ImageData) -> tuple[networks.Classifier, ImageInput]:
    """The network, not trained yet, and what its graph takes."""
    fit_ = settings.resize or ("ink" if settings.data == "digits" else "crop")
    if fit_ == "ink" and settings.augmentation not in ("none", "light"):
        raise CallError(
            f"augmentation {settings.augmentation} is for photos; figures of resize ink are varied as "
            "strokes: say light, or none"
        )
    if fit_ == "ink" and settings.flip_tta:
        raise CallError(
            "flip_tta is for photos; a mirrored figure of resize ink is another one; leave it out"
        )
    grey = fit_ == "ink" or all(
        isinstance(example.image, np.ndarray) and example.image.ndim == 2 for example in data.train
    )
    mode = settings.mode or ("L" if grey else "RGB")
    size = settings.image_size or (2 * CELLS if fit_ == "ink" else None)
    preset = networks.preset_of(settings.architecture, settings.weights, size)
    model = networks.build(
        settings.architecture, settings.weights, len(data.classes), 1 if mode == "L" else 3, preset
    )
    model.both_ways = settings.flip_tta
    resize = preset.resize if fit_ == "crop" else 0
    config = ImageInput(
        preset.crop,
        preset.crop,
        mode=mode,
        fit=fit_,
        resize=resize,
        interpolation=preset.interpolation,
        decode=settings.decode,
    )
    return model, settings.limit(config)


augmented = augmented_by(_network)


def _material(
    settings: Settings, model: networks.Classifier, config: ImageInput, data: ImageData, run: Run
) -> _Material:
    splits = ((data.train, run.findings), (data.validation, None), (data.test, None))
    labels = len(data.classes) if settings.has_several else 0
    if not settings.head_alone:
        parts = [
            inputs.pixels(part, config, settings.storage(findings), part is not data.train, labels)
            for part, findings in splits
        ]
        return _Material(model, *parts)
    views = settings.cached_views if settings.augmentation != "none" or settings.fourier_noise else 1
    parts = [
        inputs.features(model, part, config, settings, count, run.seed, findings, labels)
        for (part, findings), count in zip(splits, (views, 1, 1), strict=True)
    ]
    return _Material(networks.Head(model.heads[0]), *parts)


def _decision(
    settings: Settings, classes: Sequence[str], probabilities: torch.Tensor, labels: torch.Tensor
) -> Decision | None:
    """The decision that the settings ask for, fitted on validation. Raises CallError for a class that
    isn't there.
    """
    if settings.operating_point is None:
        return None
    name = str(settings.operating_point["class"])
    if name not in classes:
        raise CallError(f"operating_point: no class {name!r}; the data has {', '.join(classes)}")
    index = list(classes).index(name)
    if not bool((labels == index).any()):
        raise CallError(
            f"operating_point: validation has no pictures of {name!r}, so that no threshold can be chosen; "
            "add some"
        )
    return calibration.fit_decision(probabilities, labels, index, float(settings.operating_point["recall"]))
