"""How a classifier of sounds learns: windows of about one length, varied at every step, cross-entropy, the
best epoch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from handlers.kinds.audio_classifier import filled
from training.data.sounds import Sound
from training.runs.batches import LengthBatches
from training.runs.class_learning import BalancedClassModule, logits_by_length
from training.sounds.augmentation import hidden, stretched, varied
from training.sounds.networks import SoundNetwork, masked
from training.sounds.settings import Settings

EVALUATION_BATCH = 32
FRAMES = 200_000  # that the statistics of the features are of
LEAST_DEVIATION = 1e-3

SoundBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class SoundSplit:
    """The windows of a split's sounds: to learn from side by side, to measure as they are served."""

    def __init__(self, sounds: Sequence[Sound], *, is_learned: bool) -> None:
        self.sounds = sounds
        self.windows: list[tuple[int, int, int]] = []  # sound, first sample, samples
        for number, one in enumerate(sounds):
            size = one.config.window
            starts = (
                range(0, max(1, one.samples - one.config.minimum), size)
                if is_learned
                else (one.config.starts(one.samples))
            )
            self.windows += [(number, start, min(size, one.samples - start)) for start in starts]
        self.lengths = np.array([count for _, _, count in self.windows])
        self.of_sound = torch.tensor([number for number, _, _ in self.windows])
        self.labels = torch.tensor([one.label for one in sounds])
        self.window_labels = self.labels[self.of_sound]

    def __len__(self) -> int:
        return len(self.windows)

    def waveform(self, row: int) -> np.ndarray:
        """A window float32 [T]."""
        number, start, count = self.windows[row]
        return self.sounds[number].part(start, count)

    def batch(self, rows: Sequence[int]) -> SoundBatch:
        """Windows float32 [B, T], their samples and labels int64 [B]."""
        waveforms, samples = filled([self.waveform(row) for row in rows])
        labels = self.window_labels[torch.as_tensor(rows)]
        return torch.from_numpy(waveforms), torch.from_numpy(samples), labels


class SoundBatches(LengthBatches[SoundBatch]):
    """Batches of a training epoch: drawn, each of windows of about one length, and varied."""

    def __init__(self, split: SoundSplit, settings: Settings, rate: int, seed: int) -> None:
        super().__init__(split, split.lengths * 10 // rate, settings.batch_size, seed)
        self.windows, self.settings, self.rate = split, settings, rate

    def batch(self, read: Any) -> SoundBatch:
        """Varied windows, their samples and labels."""
        seed = int(torch.randint(1 << 62, (), generator=self.generator))
        rng = np.random.default_rng(seed)
        longest = self.windows.sounds[0].config.window
        waveforms, samples = filled(
            [varied(self.windows.waveform(row), self.settings, self.rate, longest, rng) for row in read]
        )
        labels = self.windows.window_labels[torch.as_tensor(read)]
        return torch.from_numpy(waveforms), torch.from_numpy(samples), labels


class SoundModule(BalancedClassModule):
    """A network that learns from sounds."""

    settings: Settings
    model: SoundNetwork

    def training_step(self, batch: SoundBatch) -> torch.Tensor:
        """One step, with features at another tempo and behind stripes."""
        waveforms, samples, labels = batch
        settings, model = self.settings, self.model
        with torch.no_grad():
            features, frames = model.features(waveforms, samples)
            if settings.stretch:
                features, frames = stretched(features, frames, settings.stretch)
            pictures = masked(model.scaled(features), frames)
            pictures = hidden(pictures, frames, settings.frequency_masks, settings.time_masks)
        return self.learn_from(model.classify(pictures, frames), labels)

    def validated(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all validation sounds."""
        return logits_of(self.average, self.validation, device), self.validation.labels


def logits_of(model: nn.Module, split: SoundSplit, device: torch.device | str = "cpu") -> torch.Tensor:
    """Of each sound, as it is served: the mean over its windows, float32 [N, classes] on the CPU."""
    by_window = logits_by_length(model, split, EVALUATION_BATCH, device)
    total = torch.zeros(len(split.sounds), by_window.shape[1]).index_add(0, split.of_sound, by_window)
    return total / torch.bincount(split.of_sound, minlength=len(split.sounds))[:, None]


def set_statistics(model: SoundNetwork, split: SoundSplit) -> None:
    """Mean and deviation of each row of the features over the training windows, or over some of many."""
    generator = np.random.default_rng(0)
    rows = generator.permutation(len(split))
    count, total, squares = 0, torch.zeros(model.rows).double(), torch.zeros(model.rows).double()
    for start in range(0, len(rows), EVALUATION_BATCH):
        waveforms, samples, _ = split.batch(rows[start : start + EVALUATION_BATCH].tolist())
        with torch.no_grad():
            features, frames = model.features(waveforms, samples)
        count += int(frames.sum())
        total += features.double().sum((0, 2))
        squares += features.double().square().sum((0, 2))
        if count > FRAMES:
            break
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=LEAST_DEVIATION)
    model.set_statistics(mean.float(), deviation.float())
