"""The random numbers of a training."""

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, in this process alone.

    Lightning's function of this name also writes the seed into the environment, from where a training with
    several processes takes it again and learns in another order than a single process.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
