"""Sounds that are made, a network for them that learned nothing, its predictor, and folders of files."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from handlers.inputs.sounds import SoundInput
from handlers.kinds.audio_classifier import AudioClassifierPredictor, filled
from tests.support.answered import serve_toy
from training.export.trained import Dimension, Sample, Trained

RATE = 8_000
CLASSES = ["high", "low"]
INPUT = SoundInput(RATE, window=4_000, hop=2_000, minimum=200)
POSTPROCESS: dict[str, Any] = {"type": "classification", "top_k": 2}
PITCHES = {"low": 300.0, "high": 1_800.0}


class Pitch(torch.nn.Module):
    """Waveforms [B, T] and samples [B] -> logits [B, 2]: by how much neighbors differ."""

    def forward(self, waveforms: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """One batch."""
        mask = torch.arange(waveforms.shape[1])[None, 1:] < samples[:, None]
        changes = ((waveforms[:, 1:] - waveforms[:, :-1]).square() * mask).sum(1)
        ratio = changes / (waveforms.square().sum(1) + 1e-6)
        return torch.stack([ratio - 0.5, 0.5 - ratio], 1) * 4


def tone(name: str, seconds: float = 0.4, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A tone with its octave, which rises and fades: float32 [T]."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    pitch = PITCHES[name] * rng.uniform(0.8, 1.25)
    sound = np.sin(2 * np.pi * pitch * times) + 0.3 * np.sin(4 * np.pi * pitch * times + rng.uniform(0, 6))
    envelope = np.minimum(1, np.minimum(times, times[::-1]) / 0.03)
    return (0.4 * envelope * sound + rng.normal(0, 0.01, len(times))).astype(np.float32)


def file_of(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    """The file of samples float32 [T] or [T, channels]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def serve(folder: Path, sounds: SoundInput = INPUT) -> AudioClassifierPredictor:
    """A predictor of the toy; its files go to the empty `folder`."""
    found: AudioClassifierPredictor = serve_toy(
        folder, "audio_classifier", sounds.as_config(), Pitch(), CLASSES
    )
    return found


def trained() -> Trained:
    """As a recipe would give it."""
    waveforms, samples = filled([tone("high"), tone("low")])
    return Trained(
        kind="audio_classifier",
        module=Pitch().eval(),
        example=(torch.from_numpy(waveforms), torch.from_numpy(samples)),
        dimensions=({1: Dimension("samples", INPUT.minimum, INPUT.window)}, {}),
        metrics={"accuracy": 1.0},
        preprocess=INPUT.as_config(),
        postprocess=POSTPROCESS,
        samples=[
            Sample(f"{name}-tone", file_of(tone(name)), "audio/wav", {"class": name}) for name in CLASSES
        ],
        data={"name": "drawn"},
        classes=CLASSES,
    )


def write_folder(folder: Path, count: int = 48, rate: int = RATE) -> Path:
    """A folder of WAV that are called low_ann_3.wav: of two classes and four speakers in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name, speaker = CLASSES[number % 2], ("ann", "bob", "cem", "dia")[number // 2 % 4]
        samples = tone(name, 0.2 + 0.02 * (number % 5), rate, number)
        soundfile.write(folder / f"{name}_{speaker}_{number}.wav", samples, rate)
    return folder


def write_classes(folder: Path, sounds: Mapping[str, list[np.ndarray]], rate: int = RATE) -> Path:
    """A folder of WAV for each class."""
    for name, listed in sounds.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, samples in enumerate(listed):
            soundfile.write(folder / name / f"{number}.wav", samples, rate)
    return folder
