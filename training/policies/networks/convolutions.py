"""The encoder of observations that are images, or stacks of them.

Images are uint8: [H, W], [H, W, C], or stacks of those, [frames, H, W] and [frames, H, W, C].
"""

import torch
from torch import nn

from training.policies.spaces import ObservationSpec

MIN_SIDE_OF_NATURE_CNN = 36  # below, its last layer has nothing left


class ToPixels(nn.Module):
    """uint8 [B, *shape] to float32 [B, C, H, W] in 0..1, the channels of stacked frames one after another."""

    def __init__(self, spec: ObservationSpec) -> None:
        super().__init__()
        shape = list(spec.shape)
        self.frames = shape.pop(0) if spec.frame_stack else 1
        self.height, self.width, self.channels = (*shape, 1)[:3]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the first convolution takes."""
        pixels = images.reshape(-1, self.frames, self.height, self.width, self.channels)
        pixels = pixels.permute(0, 1, 4, 2, 3)
        return pixels.reshape(-1, self.frames * self.channels, self.height, self.width).float() / 255


class NatureCNN(nn.Module):
    """Images to float32 [B, width]: the encoder of Mnih et al. 2015 (extended data table 1).

    Images with a side below 36 pixels are too small for it; they get one layer of 16 channels (Young and Tian
    2019, "MinAtar", section 3).
    """

    def __init__(self, spec: ObservationSpec) -> None:
        super().__init__()
        to_pixels = ToPixels(spec)
        channels = to_pixels.frames * to_pixels.channels
        if min(to_pixels.height, to_pixels.width) < MIN_SIDE_OF_NATURE_CNN:
            layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3), nn.ReLU()]
        else:
            layers = [
                nn.Conv2d(channels, 32, 8, 4),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, 2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, 1),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(to_pixels, *layers, nn.Flatten())
        with torch.no_grad():
            self.width = self.layers(torch.zeros(1, *spec.shape, dtype=torch.uint8)).shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features."""
        features: torch.Tensor = self.layers(images)
        return features
