"""Signals of two channels, a network for them that learned nothing, its predictor, and made data."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.inputs.signals import Channel, SignalInput, padded
from handlers.kinds.sequence_classifier import SequenceClassifierPredictor
from tests.support.answered import serve_toy
from training.export.trained import Dimension, Sample, Trained

CLASSES = ["falling", "rising"]
INPUT = SignalInput(
    (Channel("height", 1.0, "m", -100.0, 100.0), Channel("wind")), 2, 9, series="flight", step="second"
)
PLAIN = SignalInput((Channel("height"),), 1, 9)
SIGNAL = [[0.0, 3.0], [1.0, 4.0], [2.5, 3.0]]
POSTPROCESS: dict[str, Any] = {"type": "classification", "top_k": 2}


class Rise(torch.nn.Module):
    """Signals [B, T, C] and steps [B] -> logits [B, 2]: by how much the first channel rises on the whole, and
    the mean of the others.
    """

    def forward(self, signals: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """One batch."""
        places = torch.arange(signals.shape[1])
        mask = places[None] < steps[:, None]
        last = (places[None] == steps[:, None] - 1) * signals[:, :, 0]
        others = (signals[:, :, 1:].sum(2) * mask).sum(1) / steps
        rise = last.sum(1) - signals[:, 0, 0] + 0.01 * others
        return torch.stack([-rise, rise], 1)


def serve(folder: Path, signals: SignalInput = INPUT) -> SequenceClassifierPredictor:
    """A predictor of the toy; its files go to the empty `folder`."""
    found: SequenceClassifierPredictor
    found = serve_toy(folder, "sequence_classifier", signals.as_config(), Rise(), CLASSES)
    return found


def trained() -> Trained:
    """As a recipe would give it."""
    signals = [np.array(SIGNAL, np.float32), np.array(SIGNAL[::-1], np.float32)[:2]]
    steps = torch.tensor([3, 2])
    samples = [
        Sample(
            f"signal-{name}",
            json.dumps({"signal": one.tolist()}).encode(),
            "application/json",
            {"class": name},
        )
        for name, one in zip(CLASSES[::-1], signals, strict=True)
    ]
    return Trained(
        kind="sequence_classifier",
        module=Rise().eval(),
        example=(torch.from_numpy(padded(signals)), steps),
        dimensions=({1: Dimension("steps", INPUT.minimum_steps, INPUT.maximum_steps)}, {}),
        metrics={"accuracy": 1.0},
        preprocess=INPUT.as_config(),
        postprocess=POSTPROCESS,
        samples=samples,
        data={"name": "drawn"},
        classes=CLASSES,
    )


def made_signals(count: int = 120, seed: int = 0) -> list[tuple[str, list[list[float]]]]:
    """(class, steps) in turn: slow and fast waves of 12 to 24 steps, in two channels."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        name, pace = (("slow", 0.4), ("fast", 1.4))[number % 2]
        times = np.arange(rng.integers(12, 25)) * pace + rng.uniform(0, 2 * math.pi)
        noise = rng.normal(0, 0.1, (len(times), 2))
        steps = np.stack([np.sin(times), 5 + np.cos(times)], 1) + noise
        found.append((name, steps.round(4).tolist()))
    return found


def write_csv(path: Path, count: int = 120, seed: int = 0) -> Path:
    """A table with a row per step of made signals."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "t", "x", "y", "label"])
        for number, (name, steps) in enumerate(made_signals(count, seed)):
            writer.writerows([f"s{number}", place, *step, name] for place, step in enumerate(steps))
    return path
