"""Where an imported picture model comes from: its architecture and weights, and no code but what was asked
for.

A source is one of
    torchvision:NAME or NAME      an architecture of torchvision, with its own weights by name or a state dict
    timm:NAME                     the same of timm
    package.module:function       a function of one's own that gives an nn.Module; also
                                  path/to/file.py:function
    FILE.pt2                      a program of torch.export
    FILE.pth, FILE.pt             a whole model that torch.save pickled; read only when it is trusted
"""

import difflib
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torchvision
from pydantic import Field
from torch import nn
from torchvision.models import detection

from marina.core import paths
from marina.core.errors import CallError
from marina.core.spec import Section
from training.data import Example, ImageData, labeled_files
from training.data.limits import PictureLimits
from training.export.trained import spread
from training.findings import Findings
from training.imports.fetching import download_limits, fetched, offline
from training.imports.files import (
    State,
    aligned,
    existing,
    first_line,
    load_weights,
    read_module,
    read_state,
    tensors_alone,
)
from training.imports.user_code import called, folder_of, importable, load_function

Kind = Literal["torchvision", "timm", "program", "onnx", "pickle", "factory"]
FORMS = (
    "torchvision:NAME, timm:NAME, package.module:function, file.py:function, or a file .pt2, .onnx, .pth "
    "or .pt"
)
# other inputs, or another epsilon, beside it
MORE_THAN_THE_FILE = ("googlenet", "inception_v3", "retinanet_resnet50_fpn")


class ModuleSource(Section):
    """What is brought, and from where it comes."""

    source: str = Field(description=FORMS)
    weights: str | None = Field(
        default=None,
        description=(
            "a file .safetensors or .pth, torchvision's name of them, or none; default: what the source "
            "brings"
        ),
    )
    arguments: dict[str, Any] = Field(
        default={}, description="keyword arguments of the function or architecture"
    )
    licence: str = Field(default="the owner's", description="of the weights")
    trust_pickle: bool = Field(
        default=False, description="read a pickle, which runs whatever code is in it, once"
    )


class Source(ModuleSource, PictureLimits):
    """The settings that imported classifiers and detectors share."""

    classes: str | None = Field(
        default=None,
        description=(
            "a file of names, one per line or JSON; imagenet or coco; default: the weights' own, else numbers"
        ),
    )
    data: str | None = Field(
        default=None,
        description="a folder of pictures with their truth to measure on; nothing is learnt from it",
    )
    calibration: str | None = Field(
        default=None,
        description=(
            "a folder of pictures like those that it learned from, to measure the ranges of eight bits on"
        ),
    )

    def calibration_pictures(self, findings: Findings) -> list[Example]:
        """Some of them, evenly from all; none where the spec names no folder. Raises CallError for one
        without pictures.
        """
        hint = "like those that the model learned from"
        pictures = labeled_files.unlabelled_of("calibration", self.calibration, findings, self.limits, hint)
        examples: list[Example] = spread(pictures)
        return examples

    def about(self, measured_on: ImageData | None) -> dict[str, Any]:
        """What the export's metadata says of the data: nobody knows it, but for what it was measured on."""
        return {
            "name": "not known",
            "source": f"imported: {self.source}",
            "licence": self.licence,
            "measured_on": measured_on.about() if measured_on else None,
        }


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
    if source.endswith(".onnx"):
        return Origin("onnx", source)
    if source.endswith((".pth", ".pt", ".ckpt", ".bin", ".pkl")):
        return Origin("pickle", source)
    if name.isidentifier():
        return Origin("factory", source)
    if source in torchvision.models.list_models():
        return Origin("torchvision", source)
    close = difflib.get_close_matches(source, torchvision.models.list_models(), n=3, cutoff=0.6)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise CallError(f"source {source!r} is none of {FORMS}{hint}")


def build(
    settings: ModuleSource, findings: Findings | None = None, *, keep_dtypes: bool = False
) -> nn.Module:
    """The module of a source that is no .pt2, with its weights: float32 unless it is to `keep_dtypes`, on the
    CPU, in eval mode.

    Tensors that belong to no module of it are added to `findings`.

    Raises CallError, with what to give instead, for what can't be had, doesn't fit, or is a pickle that isn't
    trusted.
    """
    kind, name = origin(settings.source)
    if kind == "onnx":
        raise CallError(
            f"{name} is an ONNX graph, whose tensors are served by name: import it with --kind tensor"
        )
    if kind == "torchvision":
        module = _torchvision(name, settings, findings)
    elif kind == "timm":
        module = _timm(name, settings, findings)
    elif kind == "pickle":
        module = read_module(existing(name, "source"), settings.trust_pickle)
    else:
        module = _made_by_factory(name, settings.arguments)
    if kind in ("pickle", "factory") and settings.weights and settings.weights != "none":
        state = read_state(existing(settings.weights, "weights"), settings.trust_pickle)
        load_weights(module, state, settings.weights, findings)
    module = module.cpu().eval().requires_grad_(False)
    return module if keep_dtypes else module.float()


def _torchvision(architecture: str, settings: ModuleSource, findings: Findings | None) -> nn.Module:
    is_detector = architecture in torchvision.models.list_models(module=detection)
    choices, weights = torchvision_weights(architecture), settings.weights or "DEFAULT"
    fixed = (
        {"weights_backbone": None}
        if is_detector
        else {"init_weights": False}
        if architecture in ("googlenet", "inception_v3")
        else {}
    )

    def plain(**more: Any) -> nn.Module:
        module: nn.Module = torchvision.models.get_model(
            architecture, weights=None, **{**fixed, **settings.arguments, **more}
        )
        return module

    if weights == "none":
        return called(plain, settings.source)  # type: ignore[no-any-return]
    if weights in choices.__members__:
        return called(  # type: ignore[no-any-return]
            lambda: _with_torchvisions_weights(architecture, choices[weights], settings.arguments),
            settings.source,
        )
    if not Path(weights).suffix:
        known = ", ".join(choices.__members__)
        raise CallError(
            f"unknown weights {weights!r} of {architecture}; known: {known}, none, or a file .pth or "
            ".safetensors"
        )
    path = existing(weights, "weights")
    own = next((choice for choice in choices if choice.url.endswith("/" + path.name)), None)
    if own and architecture in MORE_THAN_THE_FILE:
        raise CallError(
            f"{path.name} is torchvision's own, and more belongs to it than the file says; "
            f"{offline(own)}, give {own.name}"
        )
    state = read_state(path, settings.trust_pickle)
    return _filled(plain, state, settings, 91 if is_detector else 1000, findings)


def torchvision_weights(architecture: str) -> Any:
    """The enumeration of torchvision's weights for `architecture`. Raises CallError, with names that are
    close, for an unknown one.
    """
    names = torchvision.models.list_models()
    if architecture not in names:
        close = difflib.get_close_matches(architecture, names, n=4, cutoff=0.5) or ["resnet18"]
        raise CallError(f"torchvision has no architecture {architecture!r}; did you mean {', '.join(close)}?")
    return torchvision.models.get_model_weights(architecture)


def _with_torchvisions_weights(architecture: str, weights: Any, arguments: dict[str, Any]) -> nn.Module:
    return fetched(
        lambda: torchvision.models.get_model(architecture, weights=weights, **arguments),
        weights,
        architecture,
    )


def _timm(name: str, settings: ModuleSource, findings: Findings | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise CallError("timm is not installed; run: pip install 'marina[timm]'") from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=4, cutoff=0.5) or [
            "resnet18"
        ]
        raise CallError(f"timm has no model {name!r}; did you mean {', '.join(close)}?")

    def plain(**more: Any) -> nn.Module:
        module: nn.Module = timm.create_model(name, pretrained=False, **{**settings.arguments, **more})
        return module

    if settings.weights == "none":
        return called(plain, settings.source)  # type: ignore[no-any-return]
    if settings.weights not in (None, "pretrained"):
        state = read_state(existing(settings.weights, "weights"), settings.trust_pickle)
        many = timm.get_pretrained_cfg_value(name, "num_classes") or 1000
        return _filled(plain, state, settings, many, findings)
    way = "Offline, give the path of its .safetensors file as weights, or none"
    try:
        with tensors_alone(), download_limits(f"weights of {name}", way):
            module: nn.Module = timm.create_model(name, pretrained=True, **settings.arguments)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CallError(f"weights of {name} can't be had: {first_line(error)}. {way}") from error
    return module


def _filled(
    build_one: Callable[..., nn.Module],
    state: State,
    settings: ModuleSource,
    many: int,
    findings: Findings | None,
) -> nn.Module:
    """An architecture with the weights of `state` and as many classes as those have; `many` is what it has
    by itself.
    """
    module: nn.Module = called(build_one, settings.source)
    own = module.state_dict()
    state = aligned(state, own, str(settings.weights))
    other = next((key for key in own if key in state and own[key].shape != state[key].shape), None)
    if other and "num_classes" not in settings.arguments and own[other].shape[1:] == state[other].shape[1:]:
        classes = round(len(state[other]) * many / len(own[other]))  # anchors and grid cells stay as they are
        module = called(lambda: build_one(num_classes=classes), settings.source)
    load_weights(module, state, str(settings.weights), findings)
    return module


def _made_by_factory(name: str, arguments: dict[str, Any]) -> nn.Module:
    function = load_function(name, "source")
    with importable(folder_of(name.rpartition(":")[0])):
        made = called(lambda: function(**arguments), name)
    if not isinstance(made, nn.Module):
        raise CallError(f"{name} gave a {type(made).__name__}, not an nn.Module")
    return made


def fingerprints(settings: ModuleSource) -> dict[str, str]:
    """File name -> SHA-256, of the files that the source and the weights are."""
    kind, name = origin(settings.source)
    files = [
        paths.expanded(name.rpartition(":")[0] if kind == "factory" else name),
        paths.expanded(settings.weights or "none"),
    ]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}
