"""Networks that take signals float32 [B, T, C], filled up with zeros, and their steps int64 [B], and give
logits float32 [B, classes]. What lies behind a signal's end changes no answer.
"""

import numpy as np
import torch
from torch import nn

from training.series.networks import Attention, Recurrent, encoder_of
from training.series.settings import RECURRENT
from training.signals.settings import FIXED, Settings


class BothDirections(nn.Module):
    """Steps [B, T, C] -> [B, T, size]: stacked recurrent cells in both directions; the backward ones begin at
    each signal's last step, whatever it is filled up with (Schuster and Paliwal 1997).
    """

    def __init__(self, settings: Settings, channels: int) -> None:
        super().__init__()
        one = settings.model_copy(update={"bidirectional": False, "layers": 1})
        self.size = 2 * settings.hidden
        widths = [channels, *[self.size] * (settings.layers - 1)]
        self.forward_cells = nn.ModuleList(Recurrent(one, width) for width in widths)
        self.backward_cells = nn.ModuleList(Recurrent(one, width) for width in widths)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, steps: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """One batch."""
        places = torch.arange(steps.shape[1], device=steps.device)
        mirrored = counts[:, None] - 1 - places[None]
        mirrored = torch.where(mirrored >= 0, mirrored, places[None])  # its own inverse
        for place, (onward, backward) in enumerate(zip(self.forward_cells, self.backward_cells, strict=True)):
            inner = self.dropout(steps) if place else steps
            steps = torch.cat([onward(inner), _taken(backward(_taken(inner, mirrored)), mirrored)], 2)
        return steps


class SignalNetwork(nn.Module):
    """What is served: signals and their steps -> logits, divided by `temperature`, which is 1 until the model
    is calibrated. Channels are standardized by the mean and standard deviation of the training signals.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self, settings: Settings, mean: np.ndarray, deviation: np.ndarray, steps: int, classes: int
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("deviation", torch.from_numpy(deviation).float())
        channels = len(mean)
        self.is_both = settings.network in RECURRENT and settings.bidirectional
        self.encoder: nn.Module
        if self.is_both:
            self.encoder = BothDirections(settings, channels)
        else:
            self.encoder = encoder_of(settings, channels, steps)
        self.pools = settings.network != "linear"
        self.steps = steps if settings.network in FIXED else 0
        size = int(self.encoder.size) * (2 if self.pools else 1)  # type: ignore[arg-type]
        self.head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(size, classes))
        self.temperature = 1.0

    def forward(self, signals: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """One batch."""
        places = torch.arange(signals.shape[1], device=signals.device)
        counts = steps.clamp(max=signals.shape[1])
        mask = places[None] < counts[:, None]
        scaled = (signals - self.mean) / self.deviation * mask[:, :, None]
        logits: torch.Tensor = self.head(self._encoded(scaled, counts, mask))
        return logits if self.temperature == 1 else logits / self.temperature

    def _encoded(self, scaled: torch.Tensor, counts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean and the maximum of what the encoder gives, over each signal's own steps: [B, size]."""
        if not self.pools:
            flat: torch.Tensor = self.encoder(scaled)[:, 0]
            return flat
        if isinstance(self.encoder, BothDirections):
            outputs = self.encoder(scaled, counts)
        elif isinstance(self.encoder, Attention):
            outputs = self.encoder(scaled, ~mask)
        else:
            outputs = self.encoder(scaled)
        there = mask[:, :, None]
        mean = torch.where(there, outputs, 0).sum(1) / counts[:, None].clamp(min=1)
        highest = outputs.masked_fill(~there, torch.finfo(outputs.dtype).min).amax(1)
        return torch.cat([mean, highest], 1)


def _taken(steps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[B, T, C] in the order of `places` [B, T]."""
    return steps.gather(1, places[:, :, None].expand(-1, -1, steps.shape[2]))
