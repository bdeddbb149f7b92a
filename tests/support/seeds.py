"""Trainings of equal and of different seeds."""

from pathlib import Path
from typing import Any

import torch

from training.runs.run import Run


def check_seed_decides(recipe: Any, settings: Any, folder: Path) -> None:
    """The same seed gives the same weights and data; another seed gives others."""
    first, again, other = (recipe.train(settings, Run(folder, seed=seed)) for seed in (3, 3, 4))

    weights = [
        torch.cat([tensor.flatten() for tensor in trained.module.parameters()])
        for trained in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.data["fingerprint"] == again.data["fingerprint"] != other.data["fingerprint"]
