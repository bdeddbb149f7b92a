"""Supervised image classification: a small CNN or any of torchvision's, from scratch, fine-tuned, or with a
new head alone.

Learns (`classification.learner`) from pictures or from a frozen body's features (`inputs`), puts the
temperature into the graph and the decision beside it (`calibration`), measures on the test split and draws
(`drawing`).

Not covered: several labels for one picture.
"""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from handlers.inputs.images import ImageInput
from handlers.inputs.ink import CELLS
from handlers.kinds.decision import Decision
from marina.core.errors import CallError
from training.data import ImageData, load_images
from training.data.limits import PictureLimits
from training.export.trained import HELD_OUT, Sample, Trained
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.runs.threads import torch_threads
from training.vision.classification import calibration, inputs, networks
from training.vision.classification.assessment import (
    CLASSIFIER_METRICS,
    Assessment,
    assess,
    make_trained,
    training_facts,
    write_report,
)
from training.vision.classification.augmentation import mix
from training.vision.classification.learner import fit, learner_of
from training.vision.classification.settings import ClassifierSettings
from training.vision.classification.shown import augmented_by
from training.vision.records import Rows
from training.vision.self_supervision.pretraining import pretrain

UNSURE = 0.02  # a probability that is nearer to the decision's threshold proves nothing as a sample
MULTI_DEVICE = True
METRICS = CLASSIFIER_METRICS


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
    operating_point: dict[Literal["class", "recall"], str | float] | None = Field(
        default=None,
        description=(
            "{class: NAME, recall: 0.97}: answer NAME from that probability on which finds this share on "
            "validation"
        ),
    )

    renamed: ClassVar[dict[str, str]] = {"decision": "operating_point"}

    @field_validator("operating_point")
    @classmethod
    def _whole(cls, said: dict[str, Any] | None) -> dict[str, Any] | None:
        if said is not None:
            recall = said.get("recall")
            if (
                not isinstance(said.get("class"), str)
                or not isinstance(recall, float | int)
                or not 0 < recall <= 1
            ):
                raise ValueError(
                    "write the class and the share of it that is to be found, like {class: pneumonia, "
                    "recall: 0.97}"
                )
        return said


@dataclass(frozen=True)
class _Material:
    """What the learner sees of the three splits, and what it trains on them."""

    model: torch.nn.Module  # the whole network, or its head alone
    train: Rows
    validation: Rows
    test: Rows


def load_data(settings: Settings, run: Run) -> ImageData:
    """The data that the settings name. Raises CallError."""
    return load_images(settings.data, run.seed, run.findings, settings.limits)


def train(settings: Settings, run: Run) -> Trained:
    """Learn, keep the epoch of highest validation accuracy (ties: lower loss), calibrate on validation,
    measure on the test split.

    Metrics: accuracy and macro_f1 of the answers, ece and ece_uncalibrated, auroc (macro, one class against
    the rest) where every class is in the test split; recall_NAME and precision_NAME of both classes where
    there are two, else of the decision's. Raises CallError for settings or data that can't be used.
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

    choose = partial(_decision, settings, classes)
    assessment = assess(material.model, material.validation, material.test, classes, choose)
    model.temperature = assessment.temperature
    write_report(assessment, learner, classes, lambda row: inputs.picture(data.test[row], config), run.report)
    facts = training_facts(assessment, learner, run, prepared)
    return make_trained(
        "classifier",
        model,
        config,
        data,
        about,
        assessment,
        example=(inputs.stack_pictures([*data.validation, *data.test][:8], config),),
        validation=(inputs.stack_pictures(data.validation[:HELD_OUT], config),),
        samples=_samples(data, assessment),
        training=before | facts,
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
    if not settings.head_alone:
        parts = [
            inputs.pixels(part, config, settings.storage(findings), later=part is not data.train)
            for part, findings in splits
        ]
        return _Material(model, *parts)
    views = settings.cached_views if settings.augmentation != "none" or settings.fourier_noise else 1
    parts = [
        inputs.features(model, part, config, settings, count, run.seed, findings)
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


def _samples(data: ImageData, assessment: Assessment, most: int = 64) -> list[Sample]:
    """Pictures of the test split that are answered rightly, sure answers first, taken from each class in
    turn.
    """
    probabilities, labels, decision = assessment.probabilities, assessment.labels, assessment.decision
    sure = probabilities.max(1).values
    order = sorted(range(len(labels)), key=lambda row: (bool(sure[row] < 0.9), row))
    if decision:
        order = [
            row
            for row in order
            if abs(float(probabilities[row, decision.class_index]) - decision.threshold) > UNSURE
        ]
    right = [row for row in order if assessment.answers[row] == labels[row]]
    seen: Counter[int] = Counter()
    turns = []
    for row in right:
        turns.append((seen[int(labels[row])], row))
        seen[int(labels[row])] += 1
    turns.sort(key=lambda turn: turn[0])
    samples: dict[str, Sample] = {}
    for _, row in turns[:most]:
        name = _sample_name(data, int(labels[row]), samples)
        body, content_type = data.test[row].encoded()
        samples[name] = Sample(name, body, content_type, {"class": data.classes[int(labels[row])]})
    return list(samples.values())


def _sample_name(data: ImageData, label: int, taken: dict[str, Sample]) -> str:
    """digit-7, digit-7-2 …; pizza-1, pizza-2 …"""
    slug = re.sub(r"[^a-z0-9]+", "-", data.classes[label].lower()).strip("-")[:50] or f"class-{label}"
    slug = f"digit-{slug}" if data.name == "digits" else slug
    number = 1
    while (name := slug if number == 1 and slug[-1].isdigit() else f"{slug}-{number}") in taken:
        number += 1
    return name
