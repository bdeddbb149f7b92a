"""Brings an image classifier that learned elsewhere, and measures it if there are pictures with their truth.

Nothing is learnt: the network is put behind the serving transform, its preprocessing taken from torchvision's
or timm's own records, or from the settings. A file .pt2 brings its preprocessing along if it takes uint8; if
it takes floats, ours goes in front.

Not covered: several labels per picture, networks with more than one input, and two classes behind one
sigmoid.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torchvision
from pydantic import Field
from torch import nn
from torchvision.models import list_models

from handlers.inputs.images import ImageInput, open_image, prepare
from marina.core.errors import CallError
from training.data import ImageData, held_out_images
from training.export.trained import HELD_OUT, Sample, Trained
from training.findings import Findings
from training.imports.class_names import names_from_weights, read_class_names
from training.imports.files import existing, read_program
from training.imports.logits import Logarithm, count_classes, with_logits
from training.imports.name_order import check_order, names_of_folders
from training.imports.pictures import make_pictures
from training.imports.sources import Source, build, fingerprints, origin
from training.runs.run import Run
from training.vision.classification.evaluation import (
    draw_mistakes,
    logits_of,
    margins,
    pixels_of,
    right_answers,
    truth_of,
)
from training.vision.classification.networks import Classifier, Preset, preset_of

PLAIN_SIZE = 224
PLAIN_RANGE = "are not given: pixels go into the network as 0 to 1"
IS_IMPORT = True
METRICS = ("accuracy",)


class Settings(Source):
    """What a spec may say under `training`."""

    image_size: int | None = Field(
        default=None, ge=8, le=2048, description="side of the input, pixels; default: the source's, or 224"
    )
    resize_size: int | None = Field(
        default=None, ge=8, le=4096, description="shorter side before the center crop; default: the source's"
    )
    resize: Literal["stretch", "crop", "letterbox", "ink"] | None = Field(
        default=None, description="how a picture gets there; default: crop"
    )
    mode: Literal["RGB", "L"] | None = Field(
        default=None, description="colour or grey; default: by the channels of the first layer"
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        default=None, description="default: the source's, or bilinear"
    )
    mean: tuple[float, ...] | None = Field(
        default=None, description="per channel, of pixels in 0..1; default: the source's, or 0"
    )
    std: tuple[float, ...] | None = Field(
        default=None, description="per channel, of pixels in 0..1; default: the source's, or 1"
    )
    outputs: Literal["logits", "probabilities"] = Field(
        default="logits", description="what the network gives; the graph gives logits"
    )
    output_key: int | str | None = Field(
        default=None,
        description=(
            "the logits' key, attribute or position, for a network that gives several outputs; default: the "
            "only one that fits, or logits"
        ),
    )

    renamed: ClassVar[dict[str, str]] = {"fit": "resize"}


@dataclass(frozen=True)
class ImportedGraph:
    """The graph, uint8 [B, C, H, W] -> logits [B, classes], what comes before it, and how many classes
    there are.
    """

    graph: nn.Module
    inputs: ImageInput
    classes: int


def train(settings: Settings, run: Run) -> Trained:
    """Bring the model and measure it: accuracy, where there is data.

    Raises CallError, with what to give instead, for what can't be had, doesn't fit or isn't trusted.
    """
    started = time.monotonic()
    torch.manual_seed(run.seed)
    imported, like_learnt = (
        _imported_graph(settings, run.findings),
        settings.calibration_pictures(run.findings),
    )
    data = held_out_images(settings.data, run.findings, settings.limits) if settings.data else None
    logits = logits_of(imported.graph, imported.inputs, data.test) if data else torch.empty(0)
    names = _names(settings, imported.classes, data, logits, run.findings)
    if data:
        truth = truth_of(data, names)
        check_order(names, logits.argmax(1).numpy(), truth.numpy(), run.findings)
        metrics = {"accuracy": float((logits.argmax(1) == truth).double().mean())}
        samples = right_answers(data.test, logits, truth, names)
        draw_mistakes(imported.inputs, data.test, logits, truth, names, run.report)
    else:
        metrics, samples = {}, _as_found(imported, names)
    return Trained(
        kind="classifier",
        module=imported.graph,
        example=(_noise(imported.inputs),),
        validation=(pixels_of(imported.inputs, data.test[:HELD_OUT]),) if data else (),
        calibration=lambda: (pixels_of(imported.inputs, like_learnt),) if like_learnt else (),
        metrics=metrics,
        preprocess=imported.inputs.as_config(),
        postprocess={"type": "classification", "top_k": min(5, len(names))},
        samples=samples,
        data=settings.about(data),
        classes=names,
        training={"files": fingerprints(settings), "seconds": round(time.monotonic() - started, 1)},
    )


def _imported_graph(settings: Settings, findings: Findings) -> ImportedGraph:
    kind, name = origin(settings.source)
    if kind == "program":
        graph, inputs = _from_program(existing(name, "source"), settings, findings)
    elif kind == "torchvision" and name in set(list_models()) - set(list_models(module=torchvision.models)):
        raise CallError(
            f"{name} is no image classifier; detectors come with --kind detector, other models of "
            "torchvision not at all"
        )
    else:
        network = build(settings, findings)
        preset = _overruled(_preset(network, settings, findings), settings)
        channels = next((layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)), 3)
        mode = settings.mode or ("L" if channels == 1 else "RGB")
        inputs = _inputs(settings, preset, mode, (preset.crop, preset.crop))
        graph = Classifier(network, network, preset, repeat=mode == "L" and channels == 3)
    graph = with_logits(graph, _noise(inputs), settings.source, settings.output_key)
    if settings.outputs == "probabilities":
        graph = Logarithm(graph)
    classes = count_classes(graph, _noise(inputs), settings.source, settings.outputs)
    return ImportedGraph(graph, inputs, classes)


def _preset(network: nn.Module, settings: Settings, findings: Findings) -> Preset:
    """The preprocessing that the source itself says, or plain 0..1, which is a finding."""
    kind, name = origin(settings.source)
    if kind == "torchvision":
        return preset_of(name, settings.weights or "DEFAULT", settings.image_size)
    if kind == "timm":
        return _timms_preset(network, settings)
    if settings.mean is None:
        findings.add("mean and std", PLAIN_RANGE, [settings.source])
    if settings.image_size is None and kind != "program":
        happened = f"is not given: pictures go into the network as {PLAIN_SIZE} x {PLAIN_SIZE}"
        findings.add("image_size", happened, [settings.source])
    size = settings.image_size or PLAIN_SIZE
    return Preset(size, size, (0.0,), (1.0,))


def _timms_preset(network: nn.Module, settings: Settings) -> Preset:
    import timm

    resolve_config: Any = timm.data.resolve_model_data_config  # type: ignore[attr-defined]
    config: dict[str, Any] = resolve_config(network)
    crop = settings.image_size or config["input_size"][-1]
    if config["crop_mode"] != "center" and settings.resize is None:
        raise CallError(
            f"{settings.source} was evaluated with crop_mode {config['crop_mode']}; choose a fit: stretch, "
            "crop or letterbox"
        )
    known: Literal["bilinear", "bicubic"] = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    return Preset(crop, int(crop / config["crop_pct"]), tuple(config["mean"]), tuple(config["std"]), known)


def _overruled(preset: Preset, settings: Settings) -> Preset:
    """`preset` with what the settings say otherwise."""
    mean, std = settings.mean or preset.mean, settings.std or preset.std
    if len(mean) not in (1, 3) or len(std) not in (1, 3) or not all(value > 0 for value in std):
        raise CallError(
            f"mean {mean} and std {std}: give one number for each, or one per channel, and std above 0"
        )
    if max(map(abs, mean)) > 1 or max(std) > 1:
        parts = [[round(value / 255, 4) for value in values] for values in (mean, std)]
        raise CallError(
            f"mean {[*mean]} and std {[*std]} are of pixels in 0..255, not 0..1 as here; divide "
            f"both by 255: mean {parts[0]} and std {parts[1]}"
        )
    return Preset(
        preset.crop,
        settings.resize_size or preset.resize,
        mean,
        std,
        settings.interpolation or preset.interpolation,
    )


def _inputs(
    settings: Settings, preset: Preset, mode: Literal["RGB", "L"], size: tuple[int, int]
) -> ImageInput:
    fit = settings.resize or "crop"
    resize = max(preset.resize, *size) if fit == "crop" else 0
    return settings.limit(ImageInput(*size, mode, fit, resize, preset.interpolation))


def _from_program(path: Path, settings: Settings, findings: Findings) -> tuple[nn.Module, ImageInput]:
    """The graph of a .pt2 and what comes before it. Raises CallError for a program with other inputs or a
    fixed batch.
    """
    program = read_program(path, settings.trust_pickle)
    taken = [
        node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    ]
    wanted = f"{path} must take one batch of pictures [B, 3 or 1, height, width], uint8 or float32"
    if (
        len(taken) != 1
        or not isinstance(taken[0], torch.Tensor)
        or taken[0].ndim != 4
        or taken[0].shape[1] not in (1, 3)
    ):
        raise CallError(
            f"{wanted}; it takes "
            f"{', '.join(str(tuple(getattr(one, 'shape', [one]))) for one in taken) or 'nothing'}"
        )
    images = taken[0]
    if images.dtype not in (torch.uint8, torch.float32):
        raise CallError(f"{wanted}; it takes {images.dtype}")
    if isinstance(images.shape[0], int):
        raise CallError(
            f"{path} takes batches of {images.shape[0]} only, and a server batches as requests come; "
            "export it with dynamic_shapes="
            '({0: torch.export.Dim("batch", min=1, max=64)},) and an example of two pictures'
        )
    height, width = (
        side if isinstance(side, int) else settings.image_size or PLAIN_SIZE for side in images.shape[2:]
    )
    network = program.module(check_guards=False)
    preset = _overruled(Preset(min(height, width), min(height, width), (0.0,), (1.0,)), settings)
    mode: Literal["RGB", "L"] = settings.mode or ("L" if images.shape[1] == 1 else "RGB")
    inputs = _inputs(settings, preset, mode, (height, width))
    if images.dtype == torch.float32:
        if settings.mean is None:
            findings.add("mean and std", PLAIN_RANGE, [path])
        return Classifier(network, network, preset, repeat=mode == "L" and images.shape[1] == 3), inputs
    if settings.mean or settings.std or (mode == "RGB") != (images.shape[1] == 3):
        raise CallError(
            f"{path} takes uint8 with {images.shape[1]} channel(s) and normalises by itself; leave mean, "
            "std and mode out"
        )
    return network, inputs


def _noise(inputs: ImageInput) -> torch.Tensor:
    """Four pictures of noise as the graph takes them."""
    shape = (4, 1 if inputs.mode == "L" else 3, inputs.height, inputs.width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _names(
    settings: Settings, many: int, data: ImageData | None, logits: torch.Tensor, findings: Findings
) -> list[str]:
    """The classes by index: as asked for, else as the weights know them, else as the data's folders are
    called, in the order that fits the `logits` of its pictures better, else numbers.
    """
    asked = read_class_names(settings.classes)
    if asked:
        if len(asked) != many:
            raise CallError(
                f"classes {settings.classes} has {len(asked)} names, the model gives {many} classes"
            )
        return asked
    if names := names_from_weights(settings, many):
        return names
    if data and len(data.classes) == many:
        return names_of_folders(data, logits.argmax(1).numpy(), findings)
    numbers = [str(index) for index in range(many)]
    findings.add("classes", "have no names: answers number them; give a file as classes", numbers, many)
    return numbers


def _as_found(imported: ImportedGraph, names: list[str]) -> list[Sample]:
    """Made pictures with what the model says, the steadiest first: they prove that a server answers as it
    does, no more.
    """
    files = make_pictures(plain=imported.inputs.fit == "ink")
    with torch.inference_mode():
        pixels = np.stack(
            [prepare(open_image(file, imported.inputs.mode), imported.inputs) for file in files]
        )
        logits = imported.graph(torch.from_numpy(pixels))
    order = margins(logits).argsort(descending=True).tolist()
    return [
        Sample(f"made-{row}-as-found", files[row], "image/png", {"class": names[int(logits[row].argmax())]})
        for row in order
    ]
