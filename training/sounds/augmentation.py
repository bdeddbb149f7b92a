"""How a training sound is varied: as a waveform in pitch, level, place and noise, as features in tempo and by
hidden stripes.
"""

import numpy as np
import torch

from training.sounds.settings import Settings

STRIPE = 0.2  # of the rows or frames, at most (SpecAugment: Park et al. 2019, section 2)


def varied(
    waveform: np.ndarray, settings: Settings, rate: int, longest: int, rng: np.random.Generator
) -> np.ndarray:
    """A waveform float32 [T] at another pitch (and so tempo), level and place, with noise: float32 [at most
    `longest`].
    """
    import soxr

    if settings.pitch:
        factor = 2 ** (rng.uniform(-settings.pitch, settings.pitch) / 12)
        waveform = soxr.resample(waveform, rate * factor, rate, quality="LQ")
    if settings.shift:
        before = int(rng.uniform(0, settings.shift) * rate)
        waveform = np.concatenate([np.zeros(before, np.float32), waveform])
    waveform = waveform[:longest]
    if settings.noise is not None and rng.random() < 0.5:
        waveform = waveform + _noise(waveform, settings.noise, rng)
    if settings.volume:
        waveform = waveform * np.float32(10 ** (rng.uniform(-settings.volume, settings.volume) / 20))
    return waveform.astype(np.float32, copy=False)


def _noise(waveform: np.ndarray, least: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls by 0 (white) to 2 (brown) with the frequency, from `least` decibels below the
    waveform to 30 less.
    """
    power = float(np.mean(np.square(waveform))) * 10 ** (-rng.uniform(least, least + 30) / 10)
    spectrum = np.fft.rfft(rng.standard_normal(len(waveform)))
    frequencies = np.arange(1, len(spectrum) + 1)
    spectrum *= frequencies ** (-rng.uniform(0, 2) / 2)
    noise = np.fft.irfft(spectrum, len(waveform))
    scale = np.sqrt(power / max(float(np.mean(np.square(noise))), 1e-20))
    scaled: np.ndarray = (noise * scale).astype(np.float32)
    return scaled


def stretched(
    features: torch.Tensor, frames: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [B, rows, T] whose frames follow each other up to `share` slower or faster, between neighbors
    by a line, and how many count then.
    """
    pace = 1 + (2 * torch.rand(len(frames), device=features.device) - 1) * share
    count = (frames / pace).ceil().long().clamp(min=1)
    places = torch.arange(int(count.max()), device=features.device) * pace[:, None]
    places = places.minimum((frames - 1)[:, None].float())
    left = places.floor().long()
    right = (left + 1).minimum((frames - 1)[:, None])
    part = (places - left)[:, None]
    rows = features.shape[1]

    def at(index: torch.Tensor) -> torch.Tensor:
        return features.gather(2, index[:, None].expand(-1, rows, -1))

    return at(left) * (1 - part) + at(right) * part, count


def hidden(features: torch.Tensor, frames: torch.Tensor, of_rows: int, of_frames: int) -> torch.Tensor:
    """Standardized features [B, 1, rows, T] with drawn stripes of zeros, their mean."""
    batch, _, rows, steps = features.shape
    device = features.device
    keep = torch.ones(batch, rows, steps, dtype=torch.bool, device=device)
    for _ in range(of_rows):
        keep &= ~_stripes(rows, torch.full((batch,), float(rows), device=device))[:, :, None]
    for _ in range(of_frames):
        keep &= ~_stripes(steps, frames.float())[:, None]
    return features * keep[:, None]


def _stripes(count: int, sizes: torch.Tensor) -> torch.Tensor:
    """A drawn stripe of up to STRIPE of `sizes` [B] places each: bool [B, count]."""
    width = torch.rand(len(sizes), device=sizes.device) * STRIPE * sizes
    start = torch.rand(len(sizes), device=sizes.device) * (sizes - width)
    places = torch.arange(count, device=sizes.device)[None]
    return (places >= start[:, None]) & (places < (start + width)[:, None])
