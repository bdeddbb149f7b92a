"""Supervised image classification: a small CNN or any of torchvision's, from scratch, fine-tuned, or with a new head alone.

Learns (`classification.learner`) from pictures or from a frozen body's features (`inputs`), puts the temperature into
the graph and the decision beside it (`calibration`), measures on the test split and draws (`drawing`).

Not covered: several labels for one picture, and data sets whose pictures don't fit into memory, unless the body stays frozen.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from pydantic import Field, field_validator
from torch.utils.data import TensorDataset

from marina.errors import CallError
from training import datasets
from training.classification import calibration, drawing, inputs, networks
from training.classification.augmentation import augmentation, mix
from training.classification.learner import Learner, balanced_weights, fit, logits_of, torch_threads
from training.classification.settings import Learning
from training.self_supervision.pretraining import pretrain
from training.trained import HELD_OUT, Sample, Trained

from bundle_decision import Decision, ranked
from bundle_images import ImageInput
from bundle_ink import CELLS

UNSURE = 0.02  # a probability that is nearer to the decision's threshold proves nothing as a sample


class Settings(Learning):
    """What a spec may say under `training`."""

    data: str = Field(default="digits", description="the built-in set 'digits', a folder of pictures, or a .npz file of MedMNIST's layout")
    image_size: int | None = Field(
        default=None, ge=8, le=1024, description="side of the graph's input, pixels; default: the architecture's"
    )
    fit: Literal["stretch", "crop", "letterbox", "ink"] | None = Field(
        default=None, description="how a picture is brought to that size; default: ink for 'digits', else crop"
    )
    decode: Literal["fast", "exact"] = Field(
        default="fast", description="whether large JPEG files may be decoded at a fraction of their size"
    )
    mode: Literal["RGB", "L"] | None = Field(
        default=None, description="colour or grey; default: grey for fit ink and where the data is, else colour"
    )
    decision: dict[Literal["class", "recall"], str | float] | None = Field(
        default=None, description="{class: NAME, recall: 0.97}: answer NAME from that probability on which finds this share on validation"
    )

    @field_validator("decision")
    @classmethod
    def _whole(cls, said: dict[str, Any] | None) -> dict[str, Any] | None:
        if said is not None:
            recall = said.get("recall")
            if not isinstance(said.get("class"), str) or not isinstance(recall, float | int) or not 0 < recall <= 1:
                raise ValueError("write the class and the share of it that is to be found, like {class: pneumonia, recall: 0.97}")
        return said


@dataclass(frozen=True)
class _Material:
    """What the learner sees of the three splits, and what it trains on them."""

    model: torch.nn.Module  # the whole network, or its head alone
    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn, keep the epoch of highest validation accuracy (ties: lower loss), calibrate on validation, measure on the test split.

    Metrics: accuracy and macro_f1 of the answers, ece and ece_uncalibrated, auroc (macro, one class against the rest) where every
    class is in the test split; recall_NAME and precision_NAME of both classes where there are two, else of the decision's.
    Raises CallError for settings or data that can't be used.
    """
    started = time.monotonic()
    lightning.seed_everything(seed, verbose=False)
    data = datasets.load(settings.data, "classifier", seed)
    classes = list(data.classes)
    model, config = _network(settings, data)
    report.mkdir(parents=True, exist_ok=True)
    before: dict[str, Any] = {}
    if settings.pretraining:
        with torch_threads(1 if settings.architecture == networks.SMALL_CNN else 0):
            before = pretrain(model, data.train, config, settings.pretraining, settings.mirror, report)
    material = _material(settings, model, config, data, seed)
    prepared = time.monotonic()
    learner = Learner(
        material.model,
        [] if settings.head_alone else model.stages(),
        settings,
        None if settings.head_alone else augmentation(settings, config),
        mix(settings, len(classes)),
        balanced_weights(material.train.tensors[1], len(classes)) if settings.balance == "weights" else None,
    )
    tiny = settings.head_alone or settings.architecture == networks.SMALL_CNN
    about = data.about()
    fit(learner, material.train, material.validation, threads=1 if tiny else 0, fingerprint=about["fingerprint"])

    validation, logits = (logits_of(material.model, part) for part in (material.validation, material.test))
    expected, labels = material.validation.tensors[1], material.test.tensors[1]
    temperature = calibration.fitted_temperature(validation, expected)
    model.temperature = temperature
    decision = _decision(settings, classes, (validation / temperature).softmax(1), expected)
    probabilities = (logits / temperature).softmax(1)
    answers = torch.from_numpy(ranked(probabilities.numpy(), decision)[:, 0].copy())
    told = [0, 1] if len(classes) == 2 else [decision.class_index] if decision else []
    metrics = calibration.measured(probabilities, labels, answers, classes, told)
    metrics["ece_uncalibrated"] = calibration.calibration_error(logits.softmax(1), labels)

    drawing.draw_curves(learner.history, learner.best_epoch, report / "curves.png")
    drawing.draw_confusion(labels, answers, classes, report / "confusion.png")
    drawing.draw_reliability(logits.softmax(1), probabilities, labels, temperature, report / "reliability.png")
    if len(classes) == 2:
        shown = decision or Decision(1, 0.5)
        drawing.draw_trade_off(probabilities, labels, shown, classes, report / "trade_off.png")
    drawing.draw_mistakes(
        lambda row: inputs.picture(data.test[row], config), labels, probabilities, answers, classes, report / "mistakes.png"
    )
    rows = calibration.by_class(probabilities, labels, answers, classes)
    (report / "classes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return Trained(
        kind="classifier",
        module=model.eval().requires_grad_(False),
        example=(torch.stack([inputs.picture(example, config) for example in data.train[:8]]),),
        validation=(torch.stack([inputs.picture(example, config) for example in data.validation[:HELD_OUT]]),),
        metrics=metrics,
        preprocess=config.as_config(),
        postprocess={
            "type": "classification",
            "top_k": min(5, len(classes)),
            **({"decision": {"class_index": decision.class_index, "threshold": decision.threshold}} if decision else {}),
        },
        samples=_samples(data, probabilities, answers, labels, decision),
        data=about,
        classes=classes,
        training={
            "epochs": settings.epochs,
            "best_epoch": learner.best_epoch,
            "validation_accuracy": learner.history[learner.best_epoch - 1]["validation_accuracy"],
            "temperature": temperature,
            **before,
            "seconds": round(time.monotonic() - started, 1),
            "seconds_of_preparation": round(prepared - started, 1),
        },
    )


def _network(settings: Settings, data: datasets.ImageData) -> tuple[networks.Classifier, ImageInput]:
    """The network, not trained yet, and what its graph takes."""
    fit_ = settings.fit or ("ink" if settings.data == "digits" else "crop")
    if fit_ == "ink" and settings.augmentation not in ("none", "light"):
        raise CallError(f"augmentation {settings.augmentation} is for photos; figures of fit ink are varied as strokes: say light, or none")
    if fit_ == "ink" and settings.average_mirrored:
        raise CallError("average_mirrored is for photos; a mirrored figure of fit ink is another one; leave it out")
    grey = fit_ == "ink" or all(not isinstance(example.image, Path) and example.image.ndim == 2 for example in data.train)
    mode = settings.mode or ("L" if grey else "RGB")
    size = settings.image_size or (2 * CELLS if fit_ == "ink" else None)
    preset = networks.preset_of(settings.architecture, settings.weights, size)
    model = networks.build(settings.architecture, settings.weights, len(data.classes), 1 if mode == "L" else 3, preset)
    model.both_ways = settings.average_mirrored
    resize = preset.resize if fit_ == "crop" else 0
    config = ImageInput(
        preset.crop, preset.crop, mode=mode, fit=fit_, resize=resize, interpolation=preset.interpolation, decode=settings.decode
    )
    return model, config


def _material(settings: Settings, model: networks.Classifier, config: ImageInput, data: datasets.ImageData, seed: int) -> _Material:
    if not settings.head_alone:
        splits = [inputs.pixels(part, config) for part in (data.train, data.validation, data.test)]
        return _Material(model, *splits)
    views = settings.views if settings.augmentation != "none" or settings.spectrum_noise else 1
    splits = [
        inputs.features(model, part, config, settings, count, seed)
        for part, count in ((data.train, views), (data.validation, 1), (data.test, 1))
    ]
    return _Material(networks.Head(model.heads[0]), *splits)


def _decision(settings: Settings, classes: Sequence[str], probabilities: torch.Tensor, labels: torch.Tensor) -> Decision | None:
    """The decision that the settings ask for, fitted on validation. Raises CallError for a class that isn't there."""
    if settings.decision is None:
        return None
    name = str(settings.decision["class"])
    if name not in classes:
        raise CallError(f"decision: no class {name!r}; the data has {', '.join(classes)}")
    index = list(classes).index(name)
    if not bool((labels == index).any()):
        raise CallError(f"decision: validation has no pictures of {name!r}, so that no threshold can be chosen; add some")
    return calibration.fitted_decision(probabilities, labels, index, float(settings.decision["recall"]))


def _samples(
    data: datasets.ImageData,
    probabilities: torch.Tensor,
    answers: torch.Tensor,
    labels: torch.Tensor,
    decision: Decision | None,
    most: int = 64,
) -> list[Sample]:
    """Pictures of the test split that are answered rightly, sure answers first, taken from each class in turn."""
    sure = probabilities.max(1).values
    order = sorted(range(len(labels)), key=lambda row: (bool(sure[row] < 0.9), row))
    if decision:
        order = [row for row in order if abs(float(probabilities[row, decision.class_index]) - decision.threshold) > UNSURE]
    right = [row for row in order if answers[row] == labels[row]]
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


def _sample_name(data: datasets.ImageData, label: int, taken: dict[str, Sample]) -> str:
    """digit-7, digit-7-2 …; pizza-1, pizza-2 …"""
    slug = re.sub(r"[^a-z0-9]+", "-", data.classes[label].lower()).strip("-")[:50] or f"class-{label}"
    slug = f"digit-{slug}" if data.name == "digits" else slug
    number = 1
    while (name := slug if number == 1 and slug[-1].isdigit() else f"{slug}-{number}") in taken:
        number += 1
    return name
