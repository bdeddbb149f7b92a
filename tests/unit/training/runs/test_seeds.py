"""Seeds."""

import os
import random

import numpy as np
import torch

from training.runs.seeds import seed_everything


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_stays_in_its_process() -> None:
    """Children of this process, and later trainings, take no seed from the environment."""
    before = dict(os.environ)
    seed_everything(5)
    first = draw()
    seed_everything(5)

    assert draw() == first
    assert dict(os.environ) == before
