"""Networks for video classifiers: a small 3D CNN, and torchvision's 18-layer networks with their weights for
Kinetics-400.
"""

import torch
import torchvision
from torch import nn

from marina.core.errors import CallError
from training.imports.fetching import fetched
from training.imports.files import aligned, existing, load_weights, read_state
from training.vision.classification.networks import Classifier, Preset

SMALL_3D, SMALL_3D_HEAD = "small_3d", "15"
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


class VideoClassifier(Classifier):
    """A `Classifier` of clips: uint8 [B, T, C, H, W] -> logits float32 [B, classes]."""

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of normalized clips, float32 [B, T, C, H, W]."""
        return self.network(pixels.transpose(1, 2))  # type: ignore[no-any-return]


class Small3D(nn.Sequential):
    """float32 [B, C, T, H, W] -> logits [B, classes]: four 3D convolutions, then global average pooling and a
    linear head.

    260 thousand weights with `width` 16. Kernels are 3x3x3 with stride 2, as Tran et al. 2015 ("Learning
    spatiotemporal features with 3D convolutional networks") found best; the first is 3x5x5 and keeps the
    number of frames.
    """

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        layers: list[nn.Module] = []
        for depth in range(4):
            out, first = width * 2**depth, depth == 0
            kernel, stride, padding = (
                ((3, 5, 5), (1, 2, 2), (1, 2, 2)) if first else ((3, 3, 3), (2, 2, 2), (1, 1, 1))
            )
            layers += [
                nn.Conv3d(channels, out, kernel, stride, padding, bias=False),
                nn.BatchNorm3d(out),
                nn.ReLU(inplace=True),
            ]
            channels = out
        super().__init__(
            *layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, classes)
        )


def preset_of(architecture: str, image_size: int | None) -> Preset:
    """The evaluation transform of torchvision's weights; `image_size` scales it."""
    if architecture == SMALL_3D:
        size = image_size or 40
        return Preset(size, size, (0.5,), (0.5,))
    size = image_size or 112
    return Preset(size, round(128 * size / 112), KINETICS_MEAN, KINETICS_STD)


def build(architecture: str, weights: str, classes: int, channels: int, preset: Preset) -> VideoClassifier:
    """The network with a new head for `classes`; `weights` is "none", "kinetics" or a file .pth or
    .safetensors.

    Raises CallError for weights that can't be fetched or don't fit.
    """
    name, known = ("fc", "none, kinetics") if architecture != SMALL_3D else (SMALL_3D_HEAD, "none")
    choice = (
        torchvision.models.get_model_weights(architecture)["KINETICS400_V1"]
        if weights == "kinetics" and name == "fc"
        else None
    )
    if architecture == SMALL_3D:
        network: nn.Module = Small3D(channels, classes)
    else:
        network = fetched(
            lambda: torchvision.models.get_model(architecture, weights=choice), choice, architecture
        )
        network.fc = nn.Linear(network.fc.in_features, classes)  # type: ignore[arg-type, union-attr]
    if weights != "none" and choice is None:
        if "." not in weights:
            raise CallError(
                f"weights {weights!r}: {architecture} takes {known}, or a file .pth or .safetensors"
            )
        own = network.state_dict()
        given = aligned(read_state(existing(weights, "weights")), own, weights)
        other = {
            key: own[key]
            for key in (f"{name}.weight", f"{name}.bias")
            if key in given and own[key].shape != given[key].shape
        }
        load_weights(network, {**given, **other}, weights)  # all but a head for other classes
    return VideoClassifier(
        network, network.get_submodule(name), preset, repeat=architecture != SMALL_3D and channels == 1
    )
