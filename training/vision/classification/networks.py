"""Networks for the classifiers: a small CNN of our own and every classification model of torchvision, with
their weights.

Not covered: models of other libraries, and detectors.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import nn

from marina.core import paths
from marina.core.errors import CallError
from training.imports.fetching import fetched
from training.imports.files import aligned, load_weights, read_state
from training.imports.user_code import called, folder_of, importable, load_function

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL_CNN = "small_cnn"
# torchvision's names of lists of parts
LISTS = {"features", "encoder", "layers", "blocks", "trunk_output", "classifier", "heads"}


@dataclass(frozen=True)
class Preset:
    """What a network was evaluated with: middle `crop` pixels of a picture whose shorter side is `resize`,
    and how.
    """

    crop: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


class SmallCNN(nn.Sequential):
    """float32 [B, C, H, W] -> logits [B, classes]: three stages of two 3x3 convolutions, each halving the
    picture, a mean, a head.

    240 thousand weights with `width` 32. The stages follow VGG (Simonyan and Zisserman 2015) with batch
    normalisation (Ioffe and Szegedy 2015).
    """

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        stages: list[nn.Module] = []
        for out in (width, 2 * width, 4 * width):
            for last in (False, True):
                stages += [
                    nn.Conv2d(channels, out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out),
                    nn.ReLU(inplace=True),
                ]
                channels = out
                if last:
                    stages.append(nn.MaxPool2d(2))
        super().__init__(
            *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels, classes)
        )


class Classifier(nn.Module):
    """What is served: uint8 [B, C, H, W] -> logits float32 [B, classes], normalisation inside the graph.

    A grey picture is repeated for a network that takes three channels. `head` is the layer that was put in
    for the classes. The logits are divided by `temperature`, which is 1 until the model is calibrated. With
    `both_ways` they are, outside of training, the mean of those of the picture and of its mirror image.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, head: nn.Module, preset: Preset, repeat: bool) -> None:
        super().__init__()
        self.network, self.repeat = network, repeat
        self.register_buffer("mean", torch.tensor(preset.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preset.std).view(1, -1, 1, 1), persistent=False)
        self.temperature, self.both_ways = 1.0, False
        self.heads = [head]  # in a list, so that it isn't registered twice

    @property
    def normalization(self) -> dict[str, list[float]]:
        """Mean and standard deviation that pixels of 0..1 are normalized by, per channel."""
        return {name: getattr(self, name).flatten().tolist() for name in ("mean", "std")}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        pixels = images.float() / 255
        if self.repeat:
            pixels = pixels.expand(*(-1,) * (pixels.ndim - 3), 3, -1, -1)
        pixels = (pixels - self.mean) / self.std
        both = self._goes_both_ways()
        logits = self.logits(torch.cat([pixels, pixels.flip(-1)]) if both else pixels)
        logits = logits.reshape(2, -1, logits.shape[1]).mean(0) if both else logits
        return logits if self.temperature == 1 else logits / self.temperature

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of normalised pictures, float32 [B, C, H, W]."""
        return self.network(pixels)  # type: ignore[no-any-return]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What reaches the head: float32 [B, features], or [B, channels, h, w] where the head is a
        convolution.

        With `both_ways` the mean of both, of which a linear head makes the mean of the logits. Raises
        CallError for another head.
        """
        if self._goes_both_ways() and not isinstance(self.heads[0], nn.Linear):
            raise CallError(
                "flip_tta needs a network that ends in a linear layer; leave it out, or say "
                "unfrozen_stages: 1"
            )
        caught: list[torch.Tensor] = []
        hook = self.heads[0].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].clone()))
        try:
            self(images)
        finally:
            hook.remove()
        return caught[0].reshape(2, -1, caught[0].shape[1]).mean(0) if self._goes_both_ways() else caught[0]

    def _goes_both_ways(self) -> bool:
        return self.both_ways and not self.training

    def stages(self) -> list["Stage"]:
        """The body without the head, in the order from the picture to the head: blocks where the network
        has them, else layers.
        """
        units = [unit for unit in _units(self.network) if unit is not self.heads[0]]
        groups: list[list[nn.Module]] = []
        for unit in units:
            alone = any(parameter.ndim > 1 for parameter in unit.parameters())
            if alone or not groups:
                groups.append([unit])
            else:
                groups[-1].append(unit)  # a norm goes with the layer before it
        placed = {id(parameter) for unit in [*units, self.heads[0]] for parameter in unit.parameters()}
        # ViT's tokens and places
        loose = [parameter for parameter in self.network.parameters() if id(parameter) not in placed]
        found = [
            Stage(group, [parameter for unit in group for parameter in unit.parameters()]) for group in groups
        ]
        if found:
            found[0].parameters.extend(loose)
        return found


@dataclass(frozen=True)
class Stage:
    """Layers that are frozen and thawed together."""

    modules: list[nn.Module]
    parameters: list[nn.Parameter]


class Head(nn.Module):
    """The head of a `Classifier` alone: its `features` -> logits float32 [B, classes], as the whole
    network gives them in eval mode.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of a batch; after a convolution the mean over places of what is positive, as SqueezeNet
        has it.
        """
        logits: torch.Tensor = self.layer(features)
        return logits if logits.ndim == 2 else logits.relu().mean((2, 3))


def _units(network: nn.Module) -> list[nn.Module]:
    """The parts that have weights, in order; what is a mere list of parts is opened."""
    found = []
    for name, child in network.named_children():
        if name in LISTS and any(True for _ in child.children()):
            found += _units(child)
        elif any(True for _ in child.parameters()):
            found.append(child)
    return found


def preset_of(architecture: str, weights: str, image_size: int | None) -> Preset:
    """The evaluation transform of `weights` (of the architecture's own default ones for "none" and for
    files).

    `image_size` scales it. Raises CallError for an unknown architecture or unknown weights.
    """
    if architecture == SMALL_CNN or ":" in architecture:
        size = image_size or 64
        return Preset(size, size, (0.5,), (0.5,))
    known = _known_weights(architecture, weights)
    transform = (
        known.transforms()
        if known
        else torchvision.models.get_model_weights(architecture)["DEFAULT"].transforms()
    )
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    if image_size:
        crop, resize = image_size, max(image_size, round(resize * image_size / crop))
    return Preset(crop, resize, tuple(transform.mean), tuple(transform.std), transform.interpolation.value)


def build(architecture: str, weights: str, classes: int, channels: int, preset: Preset) -> Classifier:
    """The network with a new head for `classes`; `weights` is "none", a name of torchvision or a file .pth or
    .safetensors.

    Raises CallError for what is unknown, can't be had offline or doesn't fit.
    """
    if ":" in architecture:
        return _own(architecture, weights, classes, channels, preset)
    if architecture == SMALL_CNN:
        network: nn.Module = SmallCNN(channels, classes)
        if weights != "none":
            _load(network, _file(architecture, weights), f"{len(network) - 1}")  # type: ignore[arg-type]
        return Classifier(network, network[-1], preset, repeat=False)  # type: ignore[index]
    network = _torchvision(architecture, weights)
    name, head = _replaced_head(network, classes)
    if weights != "none" and _known_weights(architecture, weights) is None:
        _load(network, _file(architecture, weights), name)
    return Classifier(network, head, preset, repeat=channels == 1)


def _own(architecture: str, weights: str, classes: int, channels: int, preset: Preset) -> Classifier:
    """What `file.py:function` gives for `classes` and `channels`; its head is its last linear layer."""
    function, place = load_function(architecture, "architecture"), architecture.rpartition(":")[0]
    with importable(folder_of(place)):
        network = called(lambda: function(classes=classes, channels=channels), architecture)
    if not isinstance(network, nn.Module):
        raise CallError(f"{architecture} gave a {type(network).__name__}, not an nn.Module")
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1][1].out_features != classes:
        raise CallError(f"{architecture} must end in an nn.Linear with {classes} outputs, one for each class")
    name, head = layers[-1]
    if weights != "none":
        _load(network, _file(architecture, weights), name)
    return Classifier(network, head, preset, repeat=False)


def _torchvision(architecture: str, weights: str) -> nn.Module:
    known = _known_weights(architecture, weights)
    auxiliary = architecture in ("googlenet", "inception_v3")
    extra: dict[str, Any] = {"init_weights": False} if auxiliary and known is None else {}
    network = fetched(
        lambda: torchvision.models.get_model(architecture, weights=known, **extra), known, architecture
    )
    if auxiliary:  # side heads for training that answer a tuple
        network.aux_logits = False  # type: ignore[assignment]
        for branch in {"aux1", "aux2", "AuxLogits"} & dict(network.named_children()).keys():
            setattr(network, branch, None)
    return network


def _known_weights(architecture: str, weights: str) -> Any:
    """The weights by name; None for "none" and for files."""
    names = torchvision.models.list_models(module=torchvision.models)
    if architecture not in names:
        close = difflib.get_close_matches(architecture, [SMALL_CNN, *names], n=4, cutoff=0.5) or [
            SMALL_CNN,
            "resnet18",
        ]
        hint = f"did you mean {', '.join(close)}? Any classification model of torchvision goes"
        raise CallError(f"unknown architecture {architecture!r}; {hint}")
    if weights == "none" or Path(weights).suffix:
        return None
    choices = torchvision.models.get_model_weights(architecture).__members__
    if weights not in choices:
        raise CallError(
            f"unknown weights {weights!r} for {architecture}; known: none, {', '.join(choices)}, or the "
            "path of a .pth or .safetensors file"
        )
    return choices[weights]


def _file(architecture: str, weights: str) -> Path:
    path = paths.expanded(weights)
    if not path.is_file():
        raise CallError(
            f"weights {weights!r} of {architecture}: no such file; give a .pth or .safetensors file, or "
            "'none'"
        )
    return path


def _replaced_head(network: nn.Module, classes: int) -> tuple[str, nn.Module]:
    """Put a new last layer in: the last Linear, or the last Conv2d where there is no Linear (SqueezeNet).
    (name, layer).
    """
    layers = list(network.named_modules())
    of_kind = [[pair for pair in layers if isinstance(pair[1], kind)] for kind in (nn.Linear, nn.Conv2d)]
    name, old = (of_kind[0] or of_kind[1])[-1]
    new: nn.Module = (
        nn.Linear(old.in_features, classes) if of_kind[0] else nn.Conv2d(old.in_channels, classes, 1)
    )  # type: ignore[arg-type]
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, new)
    return name, new


def _load(network: nn.Module, path: Path, head: str) -> None:
    """Load all but a head for other classes; everything else must fit by name and shape."""
    own = network.state_dict()
    given = aligned(read_state(path), own, str(path))
    of_head = (key for key in own if key.rpartition(".")[0] == head)
    other = {key: own[key] for key in of_head if key not in given or own[key].shape != given[key].shape}
    load_weights(network, {**given, **other}, str(path))
