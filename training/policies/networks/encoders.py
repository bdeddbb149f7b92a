"""Observations as the first layer of a network in training takes them: one-hot, or normalized.

`graphs.features.ObservationFeatures` does the same inside the served graph.
"""

import numpy as np

from marina.core.errors import CallError
from training.policies.graphs.features import ObservationStatistics
from training.policies.spaces import ObservationSpec
from training.policies.state import Stateful

CLIP_OBS = 10.0
EPSILON = 1e-8


class RunningMeanStd(Stateful):
    """Mean and variance, float64 [n], of all rows so far (Chan, Golub and LeVeque 1979, equations 2.1)."""

    state_values = ("count",)
    state_arrays = ("mean", "var")

    def __init__(self, width: int) -> None:
        self.mean, self.var, self.count = np.zeros(width), np.ones(width), 0

    def update(self, batch: np.ndarray) -> None:
        """Take in `batch` [m, n]; an empty one changes nothing."""
        if not len(batch):
            return
        mean, var, total = batch.mean(0, np.float64), batch.var(0, np.float64), self.count + len(batch)
        delta, weight = mean - self.mean, len(batch) / total
        self.var = self.var * (1 - weight) + var * weight + delta**2 * weight * (1 - weight)
        self.mean, self.count = self.mean + delta * weight, total


class ObservationEncoder(Stateful):
    """Observations [B, ...] of an environment to float32 [B, width]. Raises CallError for images."""

    state_parts = ("running",)

    def __init__(self, spec: ObservationSpec, normalize: bool) -> None:
        if spec.is_image:
            raise CallError(
                f"{spec.environment} observes images; this recipe takes numbers and states; dqn takes images"
            )
        self.spec, self.width = spec, spec.width
        self.running = RunningMeanStd(self.width) if normalize and not spec.is_discrete else None
        self._one_hot = np.eye(self.width, dtype=np.float32) if spec.is_discrete else None

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """What the first layer takes."""
        if self._one_hot is not None:
            encoded: np.ndarray = self._one_hot[obs]
            return encoded
        x = obs.reshape(len(obs), -1)
        if self.running is not None and self.running.count:
            x = ((x - self.running.mean) / np.sqrt(self.running.var + EPSILON)).clip(-CLIP_OBS, CLIP_OBS)
        return x.astype(np.float32, copy=False)

    def update(self, obs: np.ndarray) -> None:
        """Add observations to the running statistics."""
        if self.running is not None:
            self.running.update(obs.reshape(len(obs), -1))

    def statistics(self) -> ObservationStatistics | None:
        """The statistics that observations are normalized by; None where they are not normalized."""
        if self.running is None or not self.running.count:
            return None
        shape = self.spec.shape
        return ObservationStatistics(
            self.running.mean.reshape(shape), self.running.var.reshape(shape), EPSILON, CLIP_OBS
        )
