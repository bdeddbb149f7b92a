"""Supervised classification of clips: a small 3D network or torchvision's of 18 layers, from scratch,
fine-tuned, or with a new head alone.

Goes the way of the recipe `classifier` with the same parts: the learner, the temperature in the graph, the
report. Of every clip the graph sees a fixed number of frames (`inputs.clips`), which augmentation varies
alike.

Not covered: sound, several labels for one clip, and a decision for a wanted recall.
"""

import time
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torchvision import tv_tensors

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from training.data import ImageData, load_clips
from training.data.clip_folder import ClipLimits, limited
from training.export.trained import Trained
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.vision.classification import inputs, networks, video_networks
from training.vision.classification.assessment import (
    CLASSIFIER_METRICS,
    assess,
    make_trained,
    training_facts,
    write_report,
)
from training.vision.classification.augmentation import Mix, mix
from training.vision.classification.evaluation import right_answers
from training.vision.classification.learner import fit, learner_of
from training.vision.classification.settings import ClassifierSettings
from training.vision.classification.shown import augmented_by
from training.vision.records import Rows

SHOWN = 4  # frames of a clip in the report
METRICS = CLASSIFIER_METRICS


class Settings(ClassifierSettings, ClipLimits):
    """What a spec may say under `training`."""

    data: str = Field(
        default="motions",
        description="the built-in set 'motions', or a folder with a folder of clips per class",
    )
    architecture: Literal["small_3d", "r3d_18", "mc3_18", "r2plus1d_18"] = Field(
        default="small_3d", description="the network"
    )
    weights: str = Field(
        default="none",
        description="none, kinetics (torchvision's, for Kinetics-400), or a file .pth or .safetensors",
    )
    frames: int | None = Field(
        default=None, ge=2, le=128, description="of a clip, that the graph sees; default: 16, small_3d 8"
    )
    sampling: Literal["even", "stride"] = Field(
        default="even", description="frames over the whole clip, or every stride-th of its middle"
    )
    stride: int = Field(
        default=1, ge=1, le=100, description="with sampling stride: of so many frames one is taken"
    )
    image_size: int | None = Field(
        default=None, ge=16, le=512, description="side of a frame, pixels; default: the architecture's"
    )
    resize: Literal["stretch", "crop", "letterbox"] = Field(
        default="crop", description="how a frame is brought to that size"
    )
    mode: Literal["RGB", "L"] | None = Field(
        default=None, description="colour or grey; default: grey where the data is, else colour"
    )

    @field_validator("pretraining", "fourier_noise")
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


def load_data(settings: Settings, run: Run) -> ImageData:
    """The data that the settings name. Raises CallError."""
    return load_clips(settings.data, run.seed, run.findings, settings.limits)


def train(settings: Settings, run: Run) -> Trained:
    """Learn, calibrate and measure as the recipe `classifier` does, with the metrics that it has without a
    decision. Raises CallError for settings or data that can't be used.
    """
    seed_everything(run.seed)
    data = load_data(settings, run)
    classes = list(data.classes)
    model, config = _network(settings, data)
    (train_set, validation, test), material = _material(settings, model, config, data, run)
    prepared = time.monotonic()
    count, labels = len(classes), train_set.tensors[1]
    learner = learner_of(settings, model, material, config, labels, _mix_of_clips(settings, count), count)
    threads = 1 if settings.head_alone else 0
    about = data.about(settings.full_fingerprint)
    fit(learner, train_set, validation, run, threads=threads, fingerprint=about["fingerprint"])

    assessment = assess(material, validation, test, classes)
    model.temperature = assessment.temperature
    write_report(
        assessment,
        learner,
        classes,
        lambda row: _strip(inputs.picture(data.test[row], config)),
        run.report,
        wide=SHOWN,
    )
    calibrated = assessment.logits / assessment.temperature
    facts = training_facts(assessment, learner, run, prepared)
    return make_trained(
        "video_classifier",
        model,
        config,
        data,
        about,
        assessment,
        example=(inputs.stack_pictures([*data.validation, *data.test][:4], config),),
        samples=right_answers(data.test, calibrated, assessment.labels, classes),
        training=facts | {"frames": config.frames},
    )


def _network(settings: Settings, data: ImageData) -> tuple[video_networks.VideoClassifier, ClipInput]:
    """The network, not trained yet, and what its graph takes."""
    if (
        data.name == "motions"
        and settings.horizontal_flip
        and (settings.augmentation != "none" or settings.flip_tta)
    ):
        raise CallError("horizontal_flip: true makes left of right in 'motions'; say horizontal_flip: false")
    grey = all(
        isinstance(example.image, np.ndarray) and example.image.shape[-1] == 1 for example in data.train
    )
    mode = settings.mode or ("L" if grey else "RGB")
    preset = video_networks.preset_of(settings.architecture, settings.image_size)
    model = video_networks.build(
        settings.architecture, settings.weights, len(data.classes), 1 if mode == "L" else 3, preset
    )
    model.both_ways = settings.flip_tta
    resize = preset.resize if settings.resize == "crop" else 0
    image = ImageInput(preset.crop, preset.crop, mode=mode, fit=settings.resize, resize=resize)
    frames = settings.frames or (8 if settings.architecture == video_networks.SMALL_3D else 16)
    config = ClipInput(frames, image, settings.sampling, settings.stride)
    return model, limited(config, settings.limits)


augmented = augmented_by(_network)


def _material(
    settings: Settings,
    model: video_networks.VideoClassifier,
    config: ClipInput,
    data: ImageData,
    run: Run,
) -> tuple[list[Rows], torch.nn.Module]:
    """Training, validation and test as what learns sees them; and what learns: the whole network, or its
    head alone.
    """
    splits = ((data.train, run.findings), (data.validation, None), (data.test, None))
    if not settings.head_alone:
        parts = [
            inputs.pixels(part, config, settings.storage(findings), later=part is not data.train)
            for part, findings in splits
        ]
        return parts, model
    views = settings.cached_views if settings.augmentation != "none" else 1
    parts = [
        inputs.features(model, part, config, settings, count, run.seed, findings)
        for (part, findings), count in zip(splits, (views, 1, 1), strict=True)
    ]
    return parts, networks.Head(model.heads[0])


def _mix_of_clips(settings: Settings, classes: int) -> Mix | None:
    """The mix of pictures, told that a batch holds clips: all frames are blended or pasted alike."""
    chosen = mix(settings, classes)
    return chosen and (lambda clips, labels: chosen(tv_tensors.Video(clips), labels))


def _strip(clip: torch.Tensor) -> torch.Tensor:
    """SHOWN frames of a clip, uint8 [T, C, H, W], side by side: [C, H, SHOWN * W]."""
    return torch.cat(
        [clip[index] for index in np.linspace(0, len(clip) - 1, SHOWN).round().astype(int).tolist()], 2
    )
