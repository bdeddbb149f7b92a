"""Learns to add up: least squares on noisy sums."""

import json

import numpy as np
import torch
from pydantic import Field

from marina.core.spec import Section
from training.export.trained import Sample, Trained
from training.runs.run import Run


class Settings(Section):
    """The settings of this recipe."""

    rows: int = Field(default=200, ge=10, description="rows to learn from")


def train(settings: Settings, run: Run) -> Trained:
    """Fit one weight per number."""
    random = np.random.default_rng(run.seed)
    numbers = random.normal(size=(settings.rows, 4))
    sums = numbers.sum(1) + random.normal(scale=0.01, size=settings.rows)
    weights, *_ = np.linalg.lstsq(numbers, sums, rcond=None)
    layer = torch.nn.Linear(4, 1, bias=False)
    layer.weight.data[:] = torch.from_numpy(weights)[None]
    held_out = random.normal(size=(50, 4))
    accuracy = 1 - float(np.abs(held_out @ weights - held_out.sum(1)).mean())
    samples = [
        Sample(
            f"row-{index}",
            json.dumps({"numbers": row.tolist()}).encode(),
            "application/json",
            {"sum": float(np.float32(row) @ np.float32(weights))},
        )
        for index, row in enumerate(held_out[:4])
    ]
    return Trained(
        kind="counter",
        module=layer.eval(),
        example=(torch.from_numpy(held_out[:2]).float(),),
        metrics={"accuracy": accuracy},
        preprocess={"count": 4},
        postprocess={"type": "sum"},
        samples=samples,
        data={"name": "noisy sums", "source": "made here", "train": settings.rows},
    )
