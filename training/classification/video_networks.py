"""Networks for video classifiers: a small one of our own, and torchvision's of 18 layers with their weights for Kinetics-400."""

import torch
import torchvision
from torch import nn

from marina.errors import CallError
from training.classification.networks import Classifier, Preset
from training.imports.files import aligned, existing, load_weights, read_state
from training.imports.sources import fetched

SMALL_3D, SMALL_3D_HEAD = "small_3d", "15"
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


class VideoClassifier(Classifier):
    """A `Classifier` of clips: uint8 [B, T, C, H, W] -> logits float32 [B, classes]."""

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of normalised clips, float32 [B, T, C, H, W]."""
        return self.network(pixels.transpose(1, 2))  # type: ignore[no-any-return]


class Small3D(nn.Sequential):
    """float32 [B, C, T, H, W] -> logits [B, classes]: four 3D convolutions, each after the first halving time and place, a mean, a head.

    260 thousand weights with `width` 16. 3x3x3 kernels throughout, as Tran et al. 2015 ("Learning spatiotemporal features with 3D
    convolutional networks") found best, but for the first, which sees further and halves the place alone.
    """

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        layers: list[nn.Module] = []
        for depth in range(4):
            out, first = width * 2**depth, depth == 0
            kernel, stride, padding = ((3, 5, 5), (1, 2, 2), (1, 2, 2)) if first else ((3, 3, 3), (2, 2, 2), (1, 1, 1))
            layers += [nn.Conv3d(channels, out, kernel, stride, padding, bias=False), nn.BatchNorm3d(out), nn.ReLU(inplace=True)]
            channels = out
        super().__init__(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, classes))


def preset_of(architecture: str, image_size: int | None) -> Preset:
    """What the weights of torchvision were evaluated with; `image_size` scales it."""
    if architecture == SMALL_3D:
        size = image_size or 40
        return Preset(size, size, (0.5,), (0.5,))
    size = image_size or 112
    return Preset(size, round(128 * size / 112), KINETICS_MEAN, KINETICS_STD)


def build(architecture: str, weights: str, classes: int, channels: int, preset: Preset) -> VideoClassifier:
    """The network with a new head for `classes`; `weights` is "none", "kinetics" or a file .pth or .safetensors.

    Raises CallError for what can't be had or doesn't fit.
    """
    name, known = ("fc", "none, kinetics") if architecture != SMALL_3D else (SMALL_3D_HEAD, "none")
    choice = torchvision.models.get_model_weights(architecture)["KINETICS400_V1"] if weights == "kinetics" and name == "fc" else None
    if architecture == SMALL_3D:
        network: nn.Module = Small3D(channels, classes)
    else:
        network = fetched(lambda: torchvision.models.get_model(architecture, weights=choice), choice, architecture)
        network.fc = nn.Linear(network.fc.in_features, classes)  # type: ignore[arg-type, union-attr]
    if weights != "none" and choice is None:
        if "." not in weights:
            raise CallError(f"weights {weights!r}: {architecture} takes {known}, or a file .pth or .safetensors")
        own = network.state_dict()
        given = aligned(read_state(existing(weights, "weights")), own)
        other = {key: own[key] for key in (f"{name}.weight", f"{name}.bias") if key in given and own[key].shape != given[key].shape}
        load_weights(network, {**given, **other}, weights)  # all but a head for other classes
    return VideoClassifier(network, network.get_submodule(name), preset, repeat=architecture != SMALL_3D and channels == 1)
