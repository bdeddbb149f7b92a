"""What is served: waveforms -> features -> convolutions over frequency and time -> logits."""

import torch
import torch.nn.functional as F
from torch import nn

from training.sounds.features import FrontEnd
from training.sounds.settings import Settings

STRIDE = 8  # frames, and rows, of which one is left behind all layers


class Convolution(nn.Module):
    """3 x 3 (or 3 over time alone), normalized, without what is behind a sound's end, halved by `pool`."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, pool: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.pool, self.stride = pool, stride

    def forward(self, pictures: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, C, rows, T] and the frames int64 [B] that count -> the same, halved."""
        frames = (frames + self.stride - 1) // self.stride
        outputs = masked(F.relu(self.norm(self.convolution(pictures))), frames)
        if self.pool > 1:
            outputs = F.max_pool2d(outputs, self.pool)
            frames = (frames + self.pool - 1) // self.pool
        return outputs, frames


class SoundNetwork(nn.Module):
    """Waveforms float32 [B, T], zero behind their ends, and their samples int64 [B] -> logits [B, classes],
    divided by `temperature`, which is 1 until the model is calibrated.

    How loud a sound is changes nothing: the mean of its log features is taken off. Rows are standardized by
    the training sounds' `mean` and `deviation`, set by `set_statistics`.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    is_loud: torch.Tensor

    def __init__(self, settings: Settings, rate: int, classes: int) -> None:
        super().__init__()
        frame, hop = settings.frame_samples(rate), settings.hop_samples(rate)
        self.front = FrontEnd(settings.features, rate, frame, hop, settings.mels)
        sizes = self.front.sizes
        self.rows = sum(sizes.values())
        self.register_buffer("mean", torch.zeros(self.rows, 1))
        self.register_buffer("deviation", torch.ones(self.rows, 1))
        self.register_buffer("is_loud", torch.tensor(_levels(sizes))[:, None], persistent=False)
        width = settings.hidden
        self.layers = nn.ModuleList(
            [
                Convolution(1, width, stride=2),
                Convolution(width, 2 * width, pool=2),
                *(Convolution(2 * width, 2 * width) for _ in range(settings.layers - 3)),
                Convolution(2 * width, 4 * width, pool=2),
            ]
        )
        left = -(-self.rows // STRIDE)
        self.mixing = nn.Conv1d(4 * width * left, 4 * width, 1, bias=False)
        self.mixing_norm = nn.BatchNorm1d(4 * width)
        self.head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(8 * width, classes))
        self.temperature = 1.0

    def set_statistics(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Of each row over the training sounds: float32 [rows]."""
        self.mean.copy_(mean[:, None])
        self.deviation.copy_(deviation[:, None])

    def forward(self, waveforms: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """One batch."""
        features, frames = self.features(waveforms, samples)
        logits = self.classify(masked(self.scaled(features), frames), frames)
        return logits if self.temperature == 1 else logits / self.temperature

    def features(self, waveforms: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each sound, without its level: float32 [B, rows, T'], and how many frames count: int64 [B]."""
        features = self.front(waveforms)
        frames = 1 + samples // self.front.hop
        mask = frame_mask(features.shape[2], frames)[:, None]
        loud = self.is_loud * mask
        level = (features * loud).sum((1, 2), keepdim=True) / loud.sum((1, 2), keepdim=True).clamp(min=1)
        return (features - level * self.is_loud) * mask, frames

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """Features as `features` gives them, standardized: float32 [B, 1, rows, T']."""
        return ((features - self.mean) / self.deviation)[:, None]

    def classify(self, scaled: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Standardized features, zero behind the `frames` that count, -> logits."""
        # the last rows and frames are halved, too, not left out; two are left at least, since torch.export
        # takes a size of one for fixed
        pictures = F.pad(scaled, (0, 2 * STRIDE - 1, 0, -self.rows % STRIDE))
        for layer in self.layers:
            pictures, frames = layer(pictures, frames)
        steps = F.relu(self.mixing_norm(self.mixing(pictures.flatten(1, 2))))
        mask = frame_mask(steps.shape[2], frames)[:, None]
        mean = (steps * mask).sum(2) / frames[:, None]
        highest = (steps * mask).amax(2)  # of numbers that are not negative
        logits: torch.Tensor = self.head(torch.cat([mean, highest], 1))
        return logits


def frame_mask(count: int, frames: torch.Tensor) -> torch.Tensor:
    """1 for the frames that count, else 0: float32 [B, count]."""
    return (torch.arange(count, device=frames.device)[None] < frames[:, None]).float()


def masked(pictures: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """[B, C, rows, T] with zeros behind each sound's end."""
    return pictures * frame_mask(pictures.shape[3], frames)[:, None, None]


def _levels(sizes: dict[str, int]) -> list[float]:
    """1 for rows that rise with the level of a sound, which is taken off, 0 for the others."""
    rising = {"log_mel": sizes.get("log_mel", 0), "rms": 1, "mfcc": 1}
    return [float(row < rising.get(name, 0)) for name, size in sizes.items() for row in range(size)]
