"""A model of every built-in kind that needs no training: light or dark, by the mean brightness."""

import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from handlers.inputs.tokenization import FILE
from tests.support import generators, series_models, signal_models, sound_models, table_models, tagged_data
from tests.support.tensor_modules import PLANT_DIMENSIONS, PLANT_INPUTS, plant
from tests.support.text_models import EMBEDDING, PREPROCESS, TEXTS, WORDS, Brightness, Direction
from tests.support.toy_policies import balance
from training.export.trained import Dimension, Sample, Trained
from training.tensors.evaluation import outputs_of, samples_of
from training.tensors.signatures import declared_inputs, example_of, with_outputs
from training.text.tokenizers import word_file

SIDE, FRAMES = 32, 4
CLASSES = ["dark", "light"]
INPUT = ImageInput(SIDE, SIDE)
SHADES = {"dark": (20, 20, 20), "light": (230, 230, 230)}


def picture(name: str) -> bytes:
    """A PNG of one shade."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), SHADES[name]).save(buffer, "PNG")
    return buffer.getvalue()


def clip(name: str) -> bytes:
    """An animated GIF whose frames have about one shade."""
    frames = [
        Image.new("RGB", (SIDE, SIDE), tuple(value + 3 * i for value in SHADES[name])) for i in range(FRAMES)
    ]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


class Shade(torch.nn.Module):
    """uint8 [B, ...] -> logits [B, 2] by the mean of everything behind the batch."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The lighter, the more the second class leads."""
        light = pixels.float().flatten(1).mean(1) / 255
        return torch.stack([0.5 - light, light - 0.5], 1) * 20


class Box(torch.nn.Module):
    """uint8 [B, 3, H, W] -> one candidate: a box in the middle, with a score for each class."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes [B, 1, 4], scores [B, 1, 2]."""
        light = pixels.float().flatten(1).mean(1) / 255
        boxes = torch.tensor([[[4.0, 4.0, 28.0, 28.0]]]).repeat(pixels.shape[0], 1, 1)
        return boxes, torch.stack([1 - light, light], 1)[:, None]


class Halves(torch.nn.Module):
    """uint8 [B, 3, H, W] -> logits [B, 2, H, W] by each pixel's brightness."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The lighter a pixel, the more the second class leads there."""
        light = pixels.float().mean(1) / 255
        return torch.stack([0.5 - light, light - 0.5], 1) * 20


def _toy(
    kind: str, module: torch.nn.Module, body: Callable[[str], bytes], expect: dict[str, Any], **more: Any
) -> Trained:
    content_type = "image/gif" if body is clip else "image/png"
    shape = (FRAMES, 3, SIDE, SIDE) if body is clip else (3, SIDE, SIDE)
    return Trained(
        kind=kind,
        module=module.eval(),
        example=(torch.zeros(2, *shape, dtype=torch.uint8),),
        metrics={"accuracy": 1.0},
        samples=[Sample(f"{name}-picture", body(name), content_type, expect[name]) for name in CLASSES],
        data={"name": "shades"},
        classes=CLASSES,
        **more,
    )


def classifier() -> Trained:
    """Light or dark."""
    expect = {name: {"class": name} for name in CLASSES}
    postprocess = {"type": "classification", "top_k": 2}
    return _toy("classifier", Shade(), picture, expect, preprocess=INPUT.as_config(), postprocess=postprocess)


def video_classifier() -> Trained:
    """The same of a clip."""
    expect = {name: {"class": name} for name in CLASSES}
    config = ClipInput(FRAMES, INPUT).as_config()
    postprocess = {"type": "classification", "top_k": 2}
    return _toy("video_classifier", Shade(), clip, expect, preprocess=config, postprocess=postprocess)


def detector() -> Trained:
    """A light or dark object in the middle."""
    expect = {name: {"detections": [{"class": name, "bbox": [4, 4, 28, 28]}]} for name in CLASSES}
    limits = {"score_threshold": 0.6, "nms_threshold": 0.5, "candidates": 100, "detections_per_image": 20}
    postprocess = {"type": "detection", **limits}
    return _toy("detector", Box(), picture, expect, preprocess=INPUT.as_config(), postprocess=postprocess)


def segmenter() -> Trained:
    """Light and dark areas."""
    expect = {name: {"areas": {name: 1.0}} for name in CLASSES}
    postprocess = {"type": "segmentation"}
    return _toy("segmenter", Halves(), picture, expect, preprocess=INPUT.as_config(), postprocess=postprocess)


def policy() -> Trained:
    """Pushes to where the pole falls."""
    trained = balance()
    return dataclasses.replace(trained, metrics={"accuracy": 1.0})


def tensor() -> Trained:
    """Forces on a plant, from series of any length."""
    inputs, sizes = declared_inputs(PLANT_INPUTS, PLANT_DIMENSIONS)
    module, signature = with_outputs(plant(), inputs, sizes, {})
    rows = example_of(inputs, sizes)
    return Trained(
        kind="tensor",
        module=module.eval(),
        example=rows,
        dimensions=signature.dimensions(),
        metrics={"accuracy": 1.0},
        preprocess=signature.preprocess(),
        postprocess=signature.postprocess(),
        samples=samples_of(rows, outputs_of(module, rows), signature, "drawn"),
        data={"name": "drawn"},
    )


def text_classifier() -> Trained:
    """Light or dark, by the words that say so."""
    samples = [
        Sample(f"{name}-text", json.dumps({"text": text}).encode(), "application/json", {"class": name})
        for name, text in TEXTS.items()
    ]
    return Trained(
        kind="text_classifier",
        module=Brightness().eval(),
        example=(torch.tensor([[6, 2, 3, 7], [4, 6, 5, 0]]),),
        dimensions=({1: Dimension("length", 1, PREPROCESS["max_tokens"])},),
        metrics={"accuracy": 1.0},
        preprocess=PREPROCESS,
        postprocess={"type": "classification", "top_k": 2},
        files={FILE: word_file(WORDS, True)},
        samples=samples,
        data={"name": "shades"},
        classes=CLASSES,
    )


def embedder() -> Trained:
    """The direction of light and dark words."""
    samples = [
        Sample(f"{name}-text", json.dumps({"text": text}).encode(), "application/json", {"dimension": 3})
        for name, text in TEXTS.items()
    ]
    return dataclasses.replace(
        text_classifier(),
        kind="embedder",
        module=Direction().eval(),
        postprocess=EMBEDDING,
        samples=samples,
        classes=None,
    )


def regressor() -> Trained:
    """A number from a row."""
    return table_models.trained("regressor")


def tabular_classifier() -> Trained:
    """A class from a row."""
    return table_models.trained("tabular_classifier")


OF_PICTURES = (classifier, detector, segmenter, video_classifier)


def forecaster() -> Trained:
    """The next values of a series."""
    return series_models.trained()


def sequence_classifier() -> Trained:
    """Whether a signal rises."""
    return signal_models.trained()


def audio_classifier() -> Trained:
    """Whether a tone is high or low."""
    return sound_models.trained()


def tagger() -> Trained:
    """Names of people and places."""
    return tagged_data.trained()


def generator() -> Trained:
    """The letters of a text."""
    return generators.trained()


OTHERS = (
    *(sequence_classifier, forecaster, policy, regressor, tabular_classifier, tensor),
    *(audio_classifier, embedder, generator, tagger, text_classifier),
)
TOYS = {toy.__name__: toy for toy in (*OF_PICTURES, *OTHERS)}
