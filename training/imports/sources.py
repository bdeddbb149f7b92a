"""Where an imported picture model comes from: its architecture, weights and class names, and no code but what was asked for.

A source is one of
    torchvision:NAME or NAME      an architecture of torchvision, with its own weights by name or a state dict
    timm:NAME                     the same of timm
    package.module:function       a function of one's own that gives an nn.Module; also path/to/file.py:function
    FILE.pt2                      a program of torch.export
    FILE.pth, FILE.pt             a whole model that torch.save pickled; read only when it is trusted
"""

import difflib
import hashlib
import importlib
import importlib.util
import io
import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image, ImageDraw
from pydantic import Field
from torch import nn
from torchvision.models import detection

from marina.errors import CallError
from marina.spec import Section
from training.datasets import Example, image_folder
from training.imports.files import (
    State,
    aligned,
    called,
    existing,
    first_line,
    importable,
    load_weights,
    read_module,
    read_state,
    tensors_alone,
)
from training.trained import spread

Kind = Literal["torchvision", "timm", "program", "pickle", "factory"]
FORMS = "torchvision:NAME, timm:NAME, package.module:function, file.py:function, or a file .pt2, .pth or .pt"
CATEGORIES = {"imagenet": "mobilenet_v2", "coco": "ssdlite320_mobilenet_v3_large"}  # and whose weights know the names
MORE_THAN_THE_FILE = ("googlenet", "inception_v3", "retinanet_resnet50_fpn")  # other inputs, or another epsilon, beside it
MADE = 8  # pictures that an import makes itself


class Source(Section):
    """What is brought, and from where it comes; the settings that classifiers and detectors share."""

    source: str = Field(description=FORMS)
    weights: str | None = Field(
        default=None, description="a file .safetensors or .pth, torchvision's name of them, or none; default: what the source brings"
    )
    arguments: dict[str, Any] = Field(default={}, description="keyword arguments of the function or architecture")
    classes: str | None = Field(
        default=None, description="a file of names, one per line or JSON; imagenet or coco; default: the weights' own, else numbers"
    )
    data: str | None = Field(default=None, description="a folder of pictures with their truth to measure on; nothing is learnt from it")
    calibration: str | None = Field(
        default=None, description="a folder of pictures like those that it learned from, to measure the ranges of eight bits on"
    )
    licence: str = Field(default="the owner's", description="of the weights")
    trust_pickle: bool = Field(default=False, description="read a pickle, which runs whatever code is in it, once")

    def calibration_pictures(self) -> list[Example]:
        """Some of them, evenly from all; none where the spec names no folder. Raises CallError for one without pictures."""
        if self.calibration is None:
            return []
        folder = Path(self.calibration).expanduser()
        if not folder.is_dir():
            raise CallError(f"calibration: no folder {folder}; give one with pictures like those that the model learned from")
        examples: list[Example] = spread(image_folder.unlabelled(folder))
        return examples


class Origin(NamedTuple):
    """A source, read: its kind, and the name or path that it is about."""

    kind: Kind
    name: str


def origin(source: str) -> Origin:
    """Which kind of source `source` is. Raises CallError where it is none."""
    library, _, name = source.partition(":")
    if library in ("torchvision", "timm") and name:
        return Origin(library, name)  # type: ignore[arg-type]
    if source.endswith(".pt2"):
        return Origin("program", source)
    if source.endswith((".pth", ".pt", ".ckpt", ".bin", ".pkl")):
        return Origin("pickle", source)
    if name.isidentifier():
        return Origin("factory", source)
    if source in torchvision.models.list_models():
        return Origin("torchvision", source)
    close = difflib.get_close_matches(source, torchvision.models.list_models(), n=3, cutoff=0.6)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise CallError(f"source {source!r} is none of {FORMS}{hint}")


def build(settings: Source) -> nn.Module:
    """The module of a source that is no .pt2, with its weights: float32, on the CPU, in eval mode.

    Raises CallError, with what to give instead, for what can't be had, doesn't fit, or is a pickle that isn't trusted.
    """
    kind, name = origin(settings.source)
    if kind == "torchvision":
        module = _torchvision(name, settings)
    elif kind == "timm":
        module = _timm(name, settings)
    elif kind == "pickle":
        module = read_module(existing(name, "source"), settings.trust_pickle)
    else:
        module = _made_by_factory(name, settings.arguments)
    if kind in ("pickle", "factory") and settings.weights and settings.weights != "none":
        load_weights(module, read_state(existing(settings.weights, "weights"), settings.trust_pickle), settings.weights)
    return module.cpu().float().eval().requires_grad_(False)


def _torchvision(architecture: str, settings: Source) -> nn.Module:
    is_detector = architecture in torchvision.models.list_models(module=detection)
    choices, weights = torchvision_weights(architecture), settings.weights or "DEFAULT"
    fixed = {"weights_backbone": None} if is_detector else {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}

    def plain(**more: Any) -> nn.Module:
        module: nn.Module = torchvision.models.get_model(architecture, weights=None, **{**fixed, **settings.arguments, **more})
        return module

    if weights == "none":
        return called(plain, settings.source)  # type: ignore[no-any-return]
    if weights in choices.__members__:
        return called(lambda: _with_torchvisions_weights(architecture, choices[weights], settings.arguments), settings.source)  # type: ignore[no-any-return]
    if not Path(weights).suffix:
        known = ", ".join(choices.__members__)
        raise CallError(f"unknown weights {weights!r} of {architecture}; known: {known}, none, or a file .pth or .safetensors")
    path = existing(weights, "weights")
    own = next((choice for choice in choices if choice.url.endswith("/" + path.name)), None)
    if own and architecture in MORE_THAN_THE_FILE:
        raise CallError(f"{path.name} is torchvision's own, and more belongs to it than the file says; {_offline(own)}, give {own.name}")
    return _filled(plain, read_state(path, settings.trust_pickle), settings, 91 if is_detector else 1000)


def torchvision_weights(architecture: str) -> Any:
    """The enumeration of torchvision's weights for `architecture`. Raises CallError, with names that are close, for an unknown one."""
    names = torchvision.models.list_models()
    if architecture not in names:
        close = difflib.get_close_matches(architecture, names, n=4, cutoff=0.5) or ["resnet18"]
        raise CallError(f"torchvision has no architecture {architecture!r}; did you mean {', '.join(close)}?")
    return torchvision.models.get_model_weights(architecture)


def _with_torchvisions_weights(architecture: str, weights: Any, arguments: dict[str, Any]) -> nn.Module:
    return fetched(lambda: torchvision.models.get_model(architecture, weights=weights, **arguments), weights, architecture)


def fetched(build_one: Callable[[], nn.Module], weights: Any, architecture: str) -> nn.Module:
    """What `build_one` gives, which fetches torchvision's `weights`. Raises CallError, with what to do offline, where it can't."""
    try:
        with tensors_alone():
            return build_one()
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # no way to the network, half a file, another file
        reason = f"weights {weights.name} of {architecture} can't be had: {first_line(error)}"
        raise CallError(f"{reason}. {_offline(weights)}, or give the path of a state dict") from error


def _offline(weights: Any) -> str:
    place = Path(torch.hub.get_dir()) / "checkpoints"
    return f"Offline, put the file {weights.url.rsplit('/', 1)[-1]} into {place} (TORCH_HOME moves that folder)"


def _timm(name: str, settings: Source) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise CallError("timm is not installed; run: pip install 'marina[timm]'") from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=4, cutoff=0.5) or ["resnet18"]
        raise CallError(f"timm has no model {name!r}; did you mean {', '.join(close)}?")

    def plain(**more: Any) -> nn.Module:
        module: nn.Module = timm.create_model(name, pretrained=False, **{**settings.arguments, **more})
        return module

    if settings.weights == "none":
        return called(plain, settings.source)  # type: ignore[no-any-return]
    if settings.weights not in (None, "pretrained"):
        state = read_state(existing(settings.weights, "weights"), settings.trust_pickle)
        return _filled(plain, state, settings, timm.get_pretrained_cfg_value(name, "num_classes") or 1000)
    try:
        with tensors_alone():
            module: nn.Module = timm.create_model(name, pretrained=True, **settings.arguments)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        reason = f"weights of {name} can't be had: {first_line(error)}"
        raise CallError(f"{reason}. Offline, give the path of its .safetensors file as weights, or none") from error
    return module


def _filled(build_one: Callable[..., nn.Module], state: State, settings: Source, many: int) -> nn.Module:
    """An architecture with the weights of `state` and as many classes as those have; `many` is what it has by itself."""
    module: nn.Module = called(build_one, settings.source)
    own = module.state_dict()
    state = aligned(state, own)
    other = next((key for key in own if key in state and own[key].shape != state[key].shape), None)
    if other and "num_classes" not in settings.arguments and own[other].shape[1:] == state[other].shape[1:]:
        classes = round(len(state[other]) * many / len(own[other]))  # anchors and grid cells stay as they are
        module = called(lambda: build_one(num_classes=classes), settings.source)
    load_weights(module, state, str(settings.weights))
    return module


def _made_by_factory(name: str, arguments: dict[str, Any]) -> nn.Module:
    place, _, function = name.rpartition(":")
    with importable(Path(place).expanduser().resolve().parent if place.endswith(".py") else None):
        module = called(lambda: _module_of(place), place)
        if not callable(getattr(module, function, None)):
            offered = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            raise CallError(f"{place} has no function {function!r}; it has {offered or 'none'}")
        made = called(lambda: getattr(module, function)(**arguments), name)
    if not isinstance(made, nn.Module):
        raise CallError(f"{name} gave a {type(made).__name__}, not an nn.Module")
    return made


def _module_of(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = existing(place, "source")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def class_names(classes: str | None) -> list[str] | None:
    """The names that `classes` asks for, each once: a namesake gets its index. None for None. Raises CallError."""
    if classes is None:
        return None
    if classes in CATEGORIES:
        return list(torchvision.models.get_model_weights(CATEGORIES[classes])["DEFAULT"].meta["categories"])
    text = existing(classes, "classes").read_text(encoding="utf-8")
    try:
        content = json.loads(text) if classes.endswith(".json") else [line.strip() for line in text.splitlines() if line.strip()]
        if isinstance(content, dict):
            content = [content[str(index)] for index in range(len(content))]
        names = [name if isinstance(name, str) else name[1] for name in content]  # ImageNet's own file has [synset, name]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CallError(f"{classes} is no list of names: one per line, or JSON [name, …] or {{index: name}} from 0 on") from error
    return unique(names)


def unique(names: list[str]) -> list[str]:
    """`names` with the index behind every one that occurs twice (ImageNet's two cranes), so that answers can be told apart."""
    times = Counter(names)
    return [name if times[name] == 1 or name == "N/A" else f"{name} ({index})" for index, name in enumerate(names)]


def own_names(settings: Source, many: int) -> list[str] | None:
    """The names of `many` classes, if the source's weights know so many by name; else None."""
    kind, name = origin(settings.source)
    if kind == "timm":
        return class_names("imagenet") if many == 1000 else None
    if kind != "torchvision":
        return None
    weights = torchvision_weights(name)
    names = list(weights[settings.weights if settings.weights in weights.__members__ else "DEFAULT"].meta["categories"])
    return unique(names) if len(names) == many else None


def made_pictures(plain: bool = False) -> list[bytes]:
    """MADE pictures as PNG files of 256 x 192, the same ones always: shapes on blotches of many colours, or a figure on white.

    They show nothing. What a model answers proves that a server answers likewise, not that it is right.
    """
    files = []
    for seed in range(MADE):
        rng = np.random.default_rng(seed)
        blotches = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((256, 192), Image.Resampling.BICUBIC)
        picture = Image.new("RGB", (256, 192), "white") if plain else blotches
        draw = ImageDraw.Draw(picture)
        for _ in range(3):
            corners = rng.integers(30, (226, 162), (3, 2)).ravel().tolist()
            colour = tuple(rng.integers(0, 60 if plain else 256, 3).tolist())
            draw.line(corners, colour, 10) if plain else draw.polygon(corners, colour)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def fingerprints(settings: Source) -> dict[str, str]:
    """File name -> SHA-256, of the files that the source and the weights are."""
    kind, name = origin(settings.source)
    paths = [Path(name.rpartition(":")[0] if kind == "factory" else name).expanduser(), Path(settings.weights or "none").expanduser()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}
