"""Supervised classification of clips: a small 3D network or torchvision's of 18 layers, from scratch, fine-tuned, or with a new head alone.

Goes the way of the recipe `classifier` with the same parts: the learner, the temperature in the graph, the report. Of every clip the
graph sees a fixed number of frames (`bundle_clips`), which augmentation varies alike.

Not covered: sound, several labels for one clip, a decision for a wanted recall, and data sets whose chosen frames don't fit into
memory, unless the body stays frozen.
"""

import json
import time
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch.utils.data import TensorDataset
from torchvision import tv_tensors

from marina.errors import CallError
from training import datasets
from training.classification import calibration, drawing, inputs, networks, video_networks
from training.classification.augmentation import Mix, augmentation, mix
from training.classification.evaluation import right_answers
from training.classification.learner import Learner, balanced_weights, fit, logits_of
from training.classification.settings import Learning
from training.trained import Trained, spread

from bundle_clips import ClipInput
from bundle_images import ImageInput

SHOWN = 4  # frames of a clip in the report


class Settings(Learning):
    """What a spec may say under `training`."""

    data: str = Field(default="motions", description="the built-in set 'motions', or a folder with a folder of clips per class")
    architecture: Literal["small_3d", "r3d_18", "mc3_18", "r2plus1d_18"] = Field(default="small_3d", description="the network")
    weights: str = Field(default="none", description="none, kinetics (torchvision's, for Kinetics-400), or a file .pth or .safetensors")
    frames: int | None = Field(default=None, ge=2, le=128, description="of a clip, that the graph sees; default: 16, small_3d 8")
    sampling: Literal["even", "stride"] = Field(default="even", description="frames over the whole clip, or every stride-th of its middle")
    stride: int = Field(default=1, ge=1, le=100, description="with sampling stride: of so many frames one is taken")
    image_size: int | None = Field(default=None, ge=16, le=512, description="side of a frame, pixels; default: the architecture's")
    fit: Literal["stretch", "crop", "letterbox"] = Field(default="crop", description="how a frame is brought to that size")
    mode: Literal["RGB", "L"] | None = Field(default=None, description="colour or grey; default: grey where the data is, else colour")
    max_pixels: int = Field(default=100_000_000, ge=100_000, le=5_000_000_000, description="of all frames of a clip that is sent, together")

    @field_validator("pretraining", "spectrum_noise")
    @classmethod
    def _for_pictures(cls, said: Any) -> Any:
        if said:
            raise ValueError("is for single pictures; leave it out")
        return said

    @model_validator(mode="after")
    def _stride_counts(self) -> "Settings":
        if "stride" in self.model_fields_set and self.sampling != "stride":
            raise ValueError("stride is part of sampling: stride; say that, or leave it out")
        return self


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn, keep the epoch of highest validation accuracy (ties: lower loss), calibrate on validation, measure on the test split.

    Metrics: accuracy, macro_f1, ece and ece_uncalibrated, auroc (macro, one class against the rest) where every class is in the
    test split; recall_NAME and precision_NAME of both classes where there are two. Raises CallError for settings or data that
    can't be used.
    """
    started = time.monotonic()
    lightning.seed_everything(seed, verbose=False)
    data = datasets.load(settings.data, "video_classifier", seed)
    classes = list(data.classes)
    model, config = _network(settings, data)
    report.mkdir(parents=True, exist_ok=True)
    parts, material = _material(settings, model, config, data, seed)
    prepared = time.monotonic()
    learner = Learner(
        material,
        [] if settings.head_alone else model.stages(),
        settings,
        None if settings.head_alone else augmentation(settings, config),
        _mix_of_clips(settings, len(classes)),
        balanced_weights(parts[0].tensors[1], len(classes)) if settings.balance == "weights" else None,
    )
    fit(learner, parts[0], parts[1], threads=1 if settings.head_alone else 0)

    validation, logits = (logits_of(material, part) for part in parts[1:])
    labels = parts[2].tensors[1]
    temperature = calibration.fitted_temperature(validation, parts[1].tensors[1])
    model.temperature = temperature
    probabilities = (logits / temperature).softmax(1)
    answers = probabilities.argmax(1)
    metrics = calibration.measured(probabilities, labels, answers, classes, [0, 1] if len(classes) == 2 else [])
    metrics["ece_uncalibrated"] = calibration.calibration_error(logits.softmax(1), labels)

    drawing.draw_curves(learner.history, learner.best_epoch, report / "curves.png")
    drawing.draw_confusion(labels, answers, classes, report / "confusion.png")
    drawing.draw_reliability(logits.softmax(1), probabilities, labels, temperature, report / "reliability.png")
    strip = lambda row: _strip(inputs.picture(data.test[row], config))  # noqa: E731
    drawing.draw_mistakes(strip, labels, probabilities, answers, classes, report / "mistakes.png", wide=SHOWN)
    rows = calibration.by_class(probabilities, labels, answers, classes)
    (report / "classes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return Trained(
        kind="video_classifier",
        module=model.eval().requires_grad_(False),
        example=(torch.stack([inputs.picture(example, config) for example in data.train[:4]]),),
        calibration=lambda: (torch.stack([inputs.picture(example, config) for example in spread(data.train)]),),
        metrics=metrics,
        preprocess=config.as_config(),
        postprocess={"type": "classification", "top_k": min(5, len(classes))},
        samples=right_answers(data.test, logits / temperature, labels, classes),
        data=data.about(),
        classes=classes,
        training={
            "epochs": settings.epochs,
            "frames": config.frames,
            "best_epoch": learner.best_epoch,
            "validation_accuracy": learner.history[learner.best_epoch - 1]["validation_accuracy"],
            "temperature": temperature,
            "seconds": round(time.monotonic() - started, 1),
            "seconds_of_preparation": round(prepared - started, 1),
        },
    )


def _network(settings: Settings, data: datasets.ImageData) -> tuple[video_networks.VideoClassifier, ClipInput]:
    """The network, not trained yet, and what its graph takes."""
    if data.name == "motions" and settings.mirror and (settings.augmentation != "none" or settings.average_mirrored):
        raise CallError("mirror: true makes left of right in 'motions'; say mirror: false")
    grey = all(isinstance(example.image, np.ndarray) and example.image.shape[-1] == 1 for example in data.train)
    mode = settings.mode or ("L" if grey else "RGB")
    preset = video_networks.preset_of(settings.architecture, settings.image_size)
    model = video_networks.build(settings.architecture, settings.weights, len(data.classes), 1 if mode == "L" else 3, preset)
    model.both_ways = settings.average_mirrored
    resize = preset.resize if settings.fit == "crop" else 0
    image = ImageInput(preset.crop, preset.crop, mode=mode, fit=settings.fit, resize=resize)
    frames = settings.frames or (8 if settings.architecture == video_networks.SMALL_3D else 16)
    return model, ClipInput(frames, image, settings.sampling, settings.stride, max_pixels=settings.max_pixels)


def _material(
    settings: Settings, model: video_networks.VideoClassifier, config: ClipInput, data: datasets.ImageData, seed: int
) -> tuple[list[TensorDataset], torch.nn.Module]:
    """Training, validation and test as what learns sees them; and what learns: the whole network, or its head alone."""
    splits = (data.train, data.validation, data.test)
    if not settings.head_alone:
        return [inputs.pixels(part, config) for part in splits], model
    views = (settings.views if settings.augmentation != "none" else 1, 1, 1)
    parts = [inputs.features(model, part, config, settings, count, seed) for part, count in zip(splits, views, strict=True)]
    return parts, networks.Head(model.heads[0])


def _mix_of_clips(settings: Settings, classes: int) -> Mix | None:
    """The mix of pictures, told that a batch holds clips: all frames are blended or pasted alike."""
    chosen = mix(settings, classes)
    return chosen and (lambda clips, labels: chosen(tv_tensors.Video(clips), labels))


def _strip(clip: torch.Tensor) -> torch.Tensor:
    """SHOWN frames of a clip, uint8 [T, C, H, W], side by side: [C, H, SHOWN * W]."""
    return torch.cat([clip[index] for index in np.linspace(0, len(clip) - 1, SHOWN).round().astype(int).tolist()], 2)
