"""Observations as a network in training takes them: one-hot, or normalised by statistics that grow with the experience.

`graphs.Features` does the same inside the graph that is served.
"""

from typing import Any

import numpy as np

from marina.errors import CallError
from training.policies.graphs import ObservationStatistics
from training.policies.pixels import is_picture

CLIP = 10.0
EPSILON = 1e-8


class RunningStatistics:
    """Mean and variance, float64 [n], of all rows so far, batch by batch (Chan, Golub and LeVeque 1979, equations 2.1)."""

    def __init__(self, width: int) -> None:
        self.mean, self.var, self.count = np.zeros(width), np.ones(width), 0

    def update(self, rows: np.ndarray) -> None:
        """Take in `rows` [m, n]; none is no change."""
        if not len(rows):
            return
        mean, var, total = rows.mean(0, np.float64), rows.var(0, np.float64), self.count + len(rows)
        apart, share = mean - self.mean, len(rows) / total
        self.var = self.var * (1 - share) + var * share + apart**2 * share * (1 - share)
        self.mean, self.count = self.mean + apart * share, total


class ObservationEncoder:
    """Observations [B, ...] of an environment to float32 [B, width]. Raises CallError for pictures."""

    def __init__(self, observation: dict[str, Any], normalise: bool) -> None:
        if is_picture(observation):
            raise CallError(f"{observation['environment']} observes pictures; this recipe takes numbers and states; dqn takes pictures")
        self.states = observation["high"] + 1 if observation["dtype"] == "int64" else 0
        self.shape = tuple(observation["shape"])
        self.width = self.states or int(np.prod(self.shape))
        self.running = RunningStatistics(self.width) if normalise and not self.states else None
        self._identity = np.eye(self.states, dtype=np.float32)

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """What the first layer takes."""
        if self.states:
            encoded: np.ndarray = self._identity[observations]
            return encoded
        rows = observations.reshape(len(observations), -1)
        if self.running is not None and self.running.count:
            rows = ((rows - self.running.mean) / np.sqrt(self.running.var + EPSILON)).clip(-CLIP, CLIP)
        return rows.astype(np.float32, copy=False)

    def update(self, observations: np.ndarray) -> None:
        """Let the statistics grow."""
        if self.running is not None:
            self.running.update(observations.reshape(len(observations), -1))

    def statistics(self) -> ObservationStatistics | None:
        """What normalises now, None for nothing."""
        if self.running is None or not self.running.count:
            return None
        return ObservationStatistics(self.running.mean.reshape(self.shape), self.running.var.reshape(self.shape), EPSILON, CLIP)
