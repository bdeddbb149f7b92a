"""Features of a sound as layers of the graph: waveforms -> rows of numbers per frame.

The discrete Fourier transform is a convolution with fixed kernels, which torch.export and OpenVINO both take
(`torch.stft` has no rule there), so that what was learned from is what is served. Frames are centered on
multiples of the hop, beyond its ends a sound is zero: n samples have 1 + n // hop frames.

What is not covered: phase, pitch tracking, and anything that looks at more than one frame at once; the
network's convolutions do.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Feature = Literal["log_mel", "mfcc", "chroma", "rms", "zero_crossings", "centroid", "rolloff"]
COEFFICIENTS = 20  # of mfcc
CLASSES_OF_PITCH = 12
LOWEST_PITCH = 32.7  # hertz, C1; lower bins have no pitch class
ROLLOFF = 0.85  # share of a frame's power below it
QUIET = 1e-6  # added to powers before their logarithm; full scale is about 1


class FrontEnd(nn.Module):
    """Waveforms float32 [B, T] -> features float32 [B, rows, 1 + T // hop].

    Parameters: samples per second, samples of a frame (even) and between two frames, bands of the mel scale.
    The rows of `features` follow each other in their order: log_mel has `mels`, mfcc 20 (or as many as there
    are bands), chroma 12, the others one.
    """

    kernels: torch.Tensor
    bands: torch.Tensor
    cosines: torch.Tensor
    pitches: torch.Tensor
    places: torch.Tensor
    up_to: torch.Tensor

    def __init__(self, features: Sequence[Feature], rate: int, frame: int, hop: int, mels: int) -> None:
        super().__init__()
        self.features, self.frame, self.hop, self.mels = tuple(features), frame, hop, mels
        self.bins = frame // 2 + 1
        frequencies = np.arange(self.bins) * rate / frame
        self.register_buffer("kernels", _kernels(frame), persistent=False)
        self._constant("bands", mel_bands(frequencies, rate, mels))
        self._constant("cosines", _cosines(min(COEFFICIENTS, mels), mels))
        self._constant("pitches", _pitch_classes(frequencies))
        self._constant("places", np.linspace(0, 1, self.bins))
        self._constant("up_to", np.tril(np.ones((self.bins, self.bins))))

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each feature, in their order."""
        known = {"log_mel": self.mels, "mfcc": min(COEFFICIENTS, self.mels), "chroma": CLASSES_OF_PITCH}
        return {name: known.get(name, 1) for name in self.features}

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """One batch."""
        framed = F.conv1d(waveforms[:, None], self.kernels, stride=self.hop, padding=self.frame // 2)
        power = framed[:, : self.bins].square() + framed[:, self.bins :].square()
        bands = torch.log(self.bands @ power + QUIET)
        parts = [self._feature(name, waveforms, power, bands) for name in self.features]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _feature(
        self, name: str, waveforms: torch.Tensor, power: torch.Tensor, bands: torch.Tensor
    ) -> torch.Tensor:
        if name in ("log_mel", "mfcc"):
            return bands if name == "log_mel" else self.cosines @ bands
        if name == "zero_crossings":
            return self._zero_crossings(waveforms)
        total = power.sum(1, keepdim=True) + QUIET
        if name == "rms":
            return torch.log(total)
        if name == "chroma":
            pitches = self.pitches @ power
            return pitches / (pitches.amax(1, keepdim=True) + QUIET)
        if name == "centroid":
            return (self.places[None, None] @ power) / total
        below = (self.up_to @ power) < ROLLOFF * total
        return below.to(power.dtype).mean(1, keepdim=True)

    def _zero_crossings(self, waveforms: torch.Tensor) -> torch.Tensor:
        """The share of a frame's samples at which the sign changes."""
        ended = F.pad(waveforms, (0, 1))  # so that it is the same whatever a sound is filled up with
        changes = ((ended[:, 1:] >= 0) != (ended[:, :-1] >= 0)).to(waveforms.dtype)
        return F.avg_pool1d(changes[:, None], self.frame, self.hop, self.frame // 2)

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)


def mel_bands(frequencies: np.ndarray, rate: int, count: int) -> np.ndarray:
    """Triangles of equal area over `frequencies` in hertz, evenly spaced on the mel scale from 0 to half of
    `rate`: float64 [count, bins]. The scale is 2595 log10(1 + f / 700) (O'Shaughnessy 1987).
    """
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, count + 2) / 2595) - 1)
    lower, middle, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - lower) / (middle - lower), (upper - frequencies) / (upper - middle)
    triangles = np.maximum(0, np.minimum(rising, falling))
    empty = triangles.sum(1) == 0  # narrower than a bin: the nearest one stands for it
    triangles[empty, np.abs(frequencies - middle[empty]).argmin(1)] = 1
    shares: np.ndarray = triangles / triangles.sum(1, keepdims=True)
    return shares


def _kernels(frame: int) -> torch.Tensor:
    """Cosines and sines of each bin under a Hann window, float32 [2 bins, 1, frame]; a sine of full scale
    has a power of 1 in its bin.
    """
    times = np.arange(frame)
    angles = 2 * np.pi * np.arange(frame // 2 + 1)[:, None] * times / frame
    window = 0.5 - 0.5 * np.cos(2 * np.pi * times / frame)
    window *= 2 / window.sum()
    both = np.concatenate([np.cos(angles) * window, -np.sin(angles) * window])
    return torch.from_numpy(both[:, None].astype(np.float32))


def _cosines(count: int, mels: int) -> np.ndarray:
    """The discrete cosine transform (type 2) of `mels` values, orthonormal but for the first coefficient,
    which is their mean and so rises with a sound's level as they do: [count, mels].
    """
    places = np.arange(mels) + 0.5
    matrix = np.cos(np.pi / mels * np.arange(count)[:, None] * places) * math.sqrt(2 / mels)
    matrix[0] = 1 / mels
    return matrix


def _pitch_classes(frequencies: np.ndarray) -> np.ndarray:
    """Which of the twelve pitch classes, from C on, each bin is nearest to: 0 or 1, [12, bins]."""
    audible = frequencies >= LOWEST_PITCH
    steps = np.round(12 * np.log2(np.maximum(frequencies, LOWEST_PITCH) / LOWEST_PITCH)).astype(int)
    matrix: np.ndarray = (steps % 12 == np.arange(12)[:, None]) & audible
    return matrix
