"""Networks that give every pixel a class: torchvision's by name, a small U-Net, and a U-Net on MobileNetV2;
each as one graph.

weights       what is kept
none          nothing: all is learnt anew
imagenet      the backbone, with torchvision's weights for ImageNet
coco          the whole network, with torchvision's weights for COCO, but for the last layer, which is made
              anew
FILE          the same of a state dict (.pth) or .safetensors
"""

from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional

from marina.core.errors import CallError
from training.imports.fetching import fetched
from training.imports.files import aligned, existing, load_weights, read_state

# of ImageNet's pixels, which torchvision's backbones learnt from
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKBONES = {  # of the architectures, and torchvision's name of their weights for ImageNet
    "unet_small": None,
    "unet_mobilenet_v2": ("mobilenet_v2", "IMAGENET1K_V1"),
    "lraspp_mobilenet_v3_large": ("mobilenet_v3_large", "IMAGENET1K_V1"),
    "deeplabv3_mobilenet_v3_large": ("mobilenet_v3_large", "IMAGENET1K_V1"),
    "deeplabv3_resnet50": ("resnet50", "IMAGENET1K_V1"),
    "fcn_resnet50": ("resnet50", "IMAGENET1K_V1"),
}
STAGES = ((0, 2), (2, 4), (4, 7), (7, 14), (14, 18))  # of MobileNetV2's features, by strides 2 to 32


class Pixels(nn.Module):
    """A network as one graph: uint8 [B, 3, H, W] -> logits float32 [B, classes, h, w] of the whole input,
    h <= H, w <= W.
    """

    mean: torch.Tensor  # [3, 1, 1], of 0..1, as deviation
    deviation: torch.Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures of 0..255, uint8 or float32."""
        found = self.network((pixels.float() / 255 - self.mean) / self.deviation)
        return (found["out"] if isinstance(found, dict) else found).float()  # type: ignore[no-any-return]


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015): coarse maps are enlarged step by step and joined with the finer ones
    on the way down.

    `stages` halve the size each and give maps of so many `channels`; the logits have half the size of the
    picture.
    """

    def __init__(self, stages: nn.ModuleList, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stages = stages
        widths = [min(max(16, width), 96) for width in channels]
        self.coarsest = _convolution(channels[-1], widths[-1], 1)
        pairs = list(pairwise(zip(channels, widths, strict=True)))
        self.joins = nn.ModuleList(
            nn.Sequential(_convolution(finer[0] + coarser[1], finer[1]), _convolution(finer[1], finer[1]))
            for finer, coarser in pairs
        )
        self.classifier = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised pictures [B, 3, H, W] -> [B, classes, H / 2, W / 2]."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x = self.coarsest(maps[-1])
        for finer, join in zip(maps[-2::-1], reversed(self.joins), strict=True):
            x = join(torch.cat([finer, functional.interpolate(x, finer.shape[-2:], mode="bilinear")], 1))
        return self.classifier(x)  # type: ignore[no-any-return]


def _convolution(channels: int, out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def _small_unet(classes: int) -> UNet:
    channels = (16, 32, 64, 96)
    stages = (
        nn.Sequential(_convolution(before, width, stride=2), _convolution(width, width))
        for before, width in pairwise((3, *channels))
    )
    return UNet(nn.ModuleList(stages), channels, classes)


def _mobile_unet(classes: int, weights: Any) -> UNet:
    features: Any = torchvision.models.mobilenet_v2(weights=weights).features
    stages = nn.ModuleList(features[first:last] for first, last in STAGES)
    return UNet(stages, tuple(features[last - 1].out_channels for _, last in STAGES), classes)


def build(architecture: str, classes: int, weights: str = "none") -> Pixels:
    """The network `architecture` (a key of BACKBONES) for so many classes.

    Raises CallError, with what to give instead, for weights that can't be had or are of another architecture.
    """
    backbone = BACKBONES[architecture]
    if backbone and weights == "imagenet":
        choice = torchvision.models.get_model_weights(backbone[0])[backbone[1]]
        return Pixels(fetched(lambda: _network(architecture, classes, choice), choice, backbone[0]))
    if weights == "coco" and not architecture.startswith("unet"):
        choice = torchvision.models.get_model_weights(architecture)["DEFAULT"]
        whole = fetched(
            lambda: torchvision.models.get_model(architecture, weights=choice), choice, architecture
        )
        network = _network(architecture, classes)
        _take(
            network,
            {
                name: value
                for name, value in whole.state_dict().items()
                if not name.startswith("aux_classifier.")
            },
            "coco",
        )
        return Pixels(network)
    network = _network(architecture, classes)
    if weights != "none":
        if "." not in weights:
            known = (
                "none, imagenet, coco"
                if not architecture.startswith("unet")
                else "none, imagenet"
                if backbone
                else "none"
            )
            raise CallError(
                f"weights {weights!r}: {architecture} takes {known}, or a file .pth or .safetensors"
            )
        _take(network, read_state(existing(weights, "weights")), weights)
    return Pixels(network)


def _network(architecture: str, classes: int, backbone: Any = None) -> nn.Module:
    if architecture == "unet_small":
        return _small_unet(classes)
    if architecture == "unet_mobilenet_v2":
        return _mobile_unet(classes, backbone)
    more = {} if architecture.startswith("lraspp") else {"aux_loss": False}
    return torchvision.models.get_model(  # type: ignore[no-any-return]
        architecture, weights=None, weights_backbone=backbone, num_classes=classes, **more
    )


def _take(network: nn.Module, state: dict[str, torch.Tensor], weights: str) -> None:
    """Put `state` into `network`, but for a last layer of other classes."""
    own = network.state_dict()
    state = aligned(state, own, weights)
    other = {
        name: own[name]
        for name in own.keys() & state.keys()
        if name.startswith("classifier")
        and own[name].shape[:1] != state[name].shape[:1]
        and own[name].shape[1:] == state[name].shape[1:]
    }
    load_weights(network, {**state, **other}, weights)
