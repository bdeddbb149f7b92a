"""Brings an image classifier that learned elsewhere, and measures it if there are pictures with their truth.

Nothing is learnt: the network is put behind the serving transform, its preprocessing taken from torchvision's or timm's own
records, or from the settings. A file .pt2 brings its preprocessing along if it takes uint8; if it takes floats, ours goes in front.

Not covered: several labels per picture, networks with more than one input, and two classes behind one sigmoid.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from pydantic import Field
from torch import nn
from torchvision.models import list_models

from marina.errors import CallError
from training import datasets
from training.classification.evaluation import draw_mistakes, logits_of, pixels_of, right_answers, steadiness, truth_of
from training.classification.networks import Classifier, Preset, preset_of
from training.imports.files import called, existing, read_program
from training.imports.sources import Source, build, class_names, fingerprints, made_pictures, origin, own_names
from training.trained import HELD_OUT, Sample, Trained

from bundle_images import ImageInput, open_image, prepare

LOG = logging.getLogger("marina")
PLAIN_SIZE = 224


class Settings(Source):
    """What a spec may say under `training`."""

    image_size: int | None = Field(
        default=None, ge=8, le=2048, description="side of the graph's input, pixels; default: the source's, or 224"
    )
    resize: int | None = Field(default=None, ge=8, le=4096, description="shorter side before the middle is cut out; default: the source's")
    fit: Literal["stretch", "crop", "letterbox", "ink"] | None = Field(default=None, description="how a picture gets there; default: crop")
    mode: Literal["RGB", "L"] | None = Field(default=None, description="colour or grey; default: by the channels of the first layer")
    interpolation: Literal["bilinear", "bicubic"] | None = Field(default=None, description="default: the source's, or bilinear")
    mean: tuple[float, ...] | None = Field(default=None, description="per channel, of pixels in 0..1; default: the source's, or 0")
    std: tuple[float, ...] | None = Field(default=None, description="per channel, of pixels in 0..1; default: the source's, or 1")
    outputs: Literal["logits", "probabilities"] = Field(default="logits", description="what the network gives; the graph gives logits")


@dataclass(frozen=True)
class Brought:
    """The graph, uint8 [B, C, H, W] -> logits [B, classes], what comes before it, and how many classes there are."""

    graph: nn.Module
    inputs: ImageInput
    classes: int


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Bring the model and measure it: accuracy, where there is data.

    Raises CallError, with what to give instead, for what can't be had, doesn't fit or isn't trusted.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    brought = _brought(settings)
    data = datasets.held_out(settings.data, "classifier") if settings.data else None
    names = _names(settings, brought.classes, data)
    if data:
        truth = truth_of(data, names)
        logits = logits_of(brought.graph, brought.inputs, data.test)
        metrics = {"accuracy": float((logits.argmax(1) == truth).double().mean())}
        samples = right_answers(data.test, logits, truth, names)
        draw_mistakes(brought.inputs, data.test, logits, truth, names, report)
    else:
        metrics, samples = {}, _as_found(brought, names)
    return Trained(
        kind="classifier",
        module=brought.graph,
        example=(_noise(brought.inputs),),
        validation=(pixels_of(brought.inputs, data.test[:HELD_OUT]),) if data else (),
        metrics=metrics,
        preprocess=brought.inputs.as_config(),
        postprocess={"type": "classification", "top_k": min(5, len(names))},
        samples=samples,
        data={
            "name": "not known",
            "source": f"imported: {settings.source}",
            "licence": settings.licence,
            "measured_on": data.about() if data else None,
        },
        classes=names,
        training={"files": fingerprints(settings), "seconds": round(time.monotonic() - started, 1)},
    )


def _brought(settings: Settings) -> Brought:
    kind, name = origin(settings.source)
    if kind == "program":
        graph, inputs = _from_program(existing(name, "source"), settings)
    elif kind == "torchvision" and name in set(list_models()) - set(list_models(module=torchvision.models)):
        raise CallError(f"{name} is no image classifier; detectors come with --kind detector, other models of torchvision not at all")
    else:
        network = build(settings)
        preset = _overruled(_preset(network, settings), settings)
        channels = next((layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)), 3)
        mode = settings.mode or ("L" if channels == 1 else "RGB")
        inputs = _inputs(settings, preset, mode, (preset.crop, preset.crop))
        graph = Classifier(network, network, preset, repeat=mode == "L" and channels == 3)
    if settings.outputs == "probabilities":
        graph = Logarithm(graph)
    return Brought(graph, inputs, _classes(graph, inputs, settings))


class Logarithm(nn.Module):
    """Probabilities become the logits that softmax turns into them again."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        probabilities: torch.Tensor = self.graph(images)
        return probabilities.clamp(min=1e-12).log()


def _preset(network: nn.Module, settings: Settings) -> Preset:
    """The preprocessing that the source itself says, or plain 0..1 with a warning."""
    kind, name = origin(settings.source)
    if kind == "torchvision":
        return preset_of(name, settings.weights or "DEFAULT", settings.image_size)
    if kind == "timm":
        return _timms_preset(network, settings)
    if settings.mean is None:
        LOG.warning("no mean and std are given: pixels go into %s as 0 to 1", settings.source)
    if settings.image_size is None and kind != "program":
        LOG.warning("no image_size is given: pictures go into %s as %d x %d", settings.source, PLAIN_SIZE, PLAIN_SIZE)
    size = settings.image_size or PLAIN_SIZE
    return Preset(size, size, (0.0,), (1.0,))


def _timms_preset(network: nn.Module, settings: Settings) -> Preset:
    import timm

    config: dict[str, Any] = timm.data.resolve_model_data_config(network)  # type: ignore[attr-defined, no-untyped-call]
    crop = settings.image_size or config["input_size"][-1]
    if config["crop_mode"] != "center" and settings.fit is None:
        raise CallError(f"{settings.source} was evaluated with crop_mode {config['crop_mode']}; choose a fit: stretch, crop or letterbox")
    known: Literal["bilinear", "bicubic"] = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    return Preset(crop, int(crop / config["crop_pct"]), tuple(config["mean"]), tuple(config["std"]), known)


def _overruled(preset: Preset, settings: Settings) -> Preset:
    """`preset` with what the settings say otherwise."""
    mean, std = settings.mean or preset.mean, settings.std or preset.std
    if len(mean) not in (1, 3) or len(std) not in (1, 3) or not all(value > 0 for value in std):
        raise CallError(f"mean {mean} and std {std}: give one number for each, or one per channel, and std above 0")
    return Preset(preset.crop, settings.resize or preset.resize, mean, std, settings.interpolation or preset.interpolation)


def _inputs(settings: Settings, preset: Preset, mode: Literal["RGB", "L"], size: tuple[int, int]) -> ImageInput:
    fit = settings.fit or "crop"
    resize = max(preset.resize, *size) if fit == "crop" else 0
    return ImageInput(*size, mode=mode, fit=fit, resize=resize, interpolation=preset.interpolation)


def _from_program(path: Path, settings: Settings) -> tuple[nn.Module, ImageInput]:
    """The graph of a .pt2 and what comes before it. Raises CallError for a program with other inputs or a fixed batch."""
    program = read_program(path, settings.trust_pickle)
    taken = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    wanted = f"{path} must take one batch of pictures [B, 3 or 1, height, width], uint8 or float32"
    if len(taken) != 1 or not isinstance(taken[0], torch.Tensor) or taken[0].ndim != 4 or taken[0].shape[1] not in (1, 3):
        raise CallError(f"{wanted}; it takes {', '.join(str(tuple(getattr(one, 'shape', [one]))) for one in taken) or 'nothing'}")
    images = taken[0]
    if images.dtype not in (torch.uint8, torch.float32):
        raise CallError(f"{wanted}; it takes {images.dtype}")
    if isinstance(images.shape[0], int):
        raise CallError(
            f"{path} takes batches of {images.shape[0]} only, and a server batches as requests come; export it with dynamic_shapes="
            '({0: torch.export.Dim("batch", min=1, max=64)},) and an example of two pictures'
        )
    height, width = (side if isinstance(side, int) else settings.image_size or PLAIN_SIZE for side in images.shape[2:])
    network = program.module(check_guards=False)
    preset = _overruled(Preset(min(height, width), min(height, width), (0.0,), (1.0,)), settings)
    mode: Literal["RGB", "L"] = settings.mode or ("L" if images.shape[1] == 1 else "RGB")
    inputs = _inputs(settings, preset, mode, (height, width))
    if images.dtype == torch.float32:
        if settings.mean is None:
            LOG.warning("no mean and std are given: pixels go into %s as 0 to 1", path)
        return Classifier(network, network, preset, repeat=mode == "L" and images.shape[1] == 3), inputs
    if settings.mean or settings.std or (mode == "RGB") != (images.shape[1] == 3):
        raise CallError(f"{path} takes uint8 with {images.shape[1]} channel(s) and normalises by itself; leave mean, std and mode out")
    return network, inputs


def _noise(inputs: ImageInput) -> torch.Tensor:
    """Four pictures of noise as the graph takes them."""
    shape = (4, 1 if inputs.mode == "L" else 3, inputs.height, inputs.width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _classes(graph: nn.Module, inputs: ImageInput, settings: Settings) -> int:
    """How many classes the graph knows. Raises CallError unless it gives finite logits, alone as in company."""
    batch = _noise(inputs)
    with torch.inference_mode():
        together = called(lambda: graph(batch), f"{settings.source}, called with {tuple(batch.shape)},")
        alone = called(lambda: graph(batch[:1]), f"{settings.source}, called with {tuple(batch[:1].shape)},")
    if not isinstance(together, torch.Tensor) or together.ndim != 2 or len(together) != len(batch) or together.shape[1] < 2:
        shape = tuple(together.shape) if isinstance(together, torch.Tensor) else type(together).__name__
        raise CallError(f"{settings.source} gives {shape} for 4 pictures; logits [4, classes] of two classes or more are needed")
    if not torch.isfinite(together).all():
        raise CallError(f"{settings.source} gives values that are no finite numbers; look at its weights and its mean and std")
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-3):
        raise CallError(f"{settings.source} answers a picture otherwise in company than alone; it mixes the pictures of a batch")
    if settings.outputs == "logits" and (together >= 0).all() and ((together.sum(1) - 1).abs() < 1e-4).all():
        raise CallError(f"{settings.source} gives probabilities; take its softmax out, or say --set training.outputs=probabilities")
    return int(together.shape[1])


def _names(settings: Settings, many: int, data: datasets.ImageData | None) -> list[str]:
    """The classes by index: as asked for, else as the weights know them, else in the order of the data's folders, else numbers."""
    asked = class_names(settings.classes)
    if asked:
        if len(asked) != many:
            raise CallError(f"classes {settings.classes} has {len(asked)} names, the model gives {many} classes")
        return asked
    if names := own_names(settings, many):
        return names
    if data and len(data.classes) == many:
        return list(data.classes)
    LOG.warning("the %d classes of %s have no names: answers number them; give a file as 'classes'", many, settings.source)
    return [str(index) for index in range(many)]


def _as_found(brought: Brought, names: list[str]) -> list[Sample]:
    """Made pictures with what the model says, the steadiest first: they prove that a server answers as it does, no more."""
    files = made_pictures(plain=brought.inputs.fit == "ink")
    with torch.inference_mode():
        pixels = np.stack([prepare(open_image(file, brought.inputs.mode), brought.inputs) for file in files])
        logits = brought.graph(torch.from_numpy(pixels))
    order = steadiness(logits).argsort(descending=True).tolist()
    return [Sample(f"made-{row}-as-found", files[row], "image/png", {"class": names[int(logits[row].argmax())]}) for row in order]
