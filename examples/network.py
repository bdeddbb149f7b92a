"""A network: two residual blocks, for the built-in recipe `classifier`."""

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return (maps + self.layers(maps)).relu()


def build(classes: int, channels: int) -> nn.Module:
    """Float images [B, channels, H, W], normalized, to logits [B, classes]; the last layer is the head."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 24, 3, stride=2, padding=1), nn.ReLU(), Residual(24), Residual(24)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 24, classes)),
    )
