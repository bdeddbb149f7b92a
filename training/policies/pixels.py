"""Observations that are pictures: what a network makes of them, and of stacks of them.

Pictures are uint8: [H, W], [H, W, C], or stacks of those, [frames, H, W] and [frames, H, W, C].
"""

from typing import Any

import torch
from torch import nn

LEAST_SIDE_OF_NATURE = 36  # below, its last layer has nothing left


def is_picture(observation: dict[str, Any]) -> bool:
    """Whether the configuration of an observation is that of a picture."""
    return str(observation["dtype"]) == "uint8"


class Picture(nn.Module):
    """uint8 [B, *shape] to float32 [B, C, H, W] in 0..1, the colours of a stack's frames one after the other."""

    def __init__(self, observation: dict[str, Any]) -> None:
        super().__init__()
        shape, stacked = list(observation["shape"]), bool(observation.get("wrappers", {}).get("frame_stack"))
        self.frames = int(shape.pop(0)) if stacked else 1
        self.height, self.width, self.colours = (*map(int, shape), 1)[:3]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the first convolution takes."""
        pixels = pictures.reshape(-1, self.frames, self.height, self.width, self.colours).permute(0, 1, 4, 2, 3)
        return pixels.reshape(-1, self.frames * self.colours, self.height, self.width).float() / 255


class Convolutions(nn.Module):
    """Pictures to float32 [B, width]: the encoder of Mnih et al. 2015 (extended data table 1).

    Pictures with a side below 36 pixels have no room for it; they get one layer of 16 channels, as Young and Tian 2019,
    "MinAtar", section 3, have it for theirs.
    """

    def __init__(self, observation: dict[str, Any]) -> None:
        super().__init__()
        picture = Picture(observation)
        channels = picture.frames * picture.colours
        if min(picture.height, picture.width) < LEAST_SIDE_OF_NATURE:
            layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3), nn.ReLU()]
        else:
            layers = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU()]
        self.layers = nn.Sequential(picture, *layers, nn.Flatten())
        with torch.no_grad():
            self.width = self.layers(torch.zeros(1, *observation["shape"], dtype=torch.uint8)).shape[1]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features."""
        features: torch.Tensor = self.layers(pictures)
        return features
