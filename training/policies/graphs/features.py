"""The parts of served graphs: observations to features, raw actions to the environment's units, stds.

Observations come in as the environment gives them: they are normalized in float64 and rounded to float32,
flattened or one-hot. Continuous actions are clipped to their bounds, or squashed and scaled to them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from training.policies.spaces import ActionSpec, ObservationSpec

LOG_STD_BOUNDS = (-20, 2)  # SAC's
GSDE_EPSILON = 1e-6


@dataclass(frozen=True)
class ObservationStatistics:
    """Observations become (obs - mean) / sqrt(var + epsilon), clipped to -clip..clip; all float64."""

    mean: np.ndarray
    var: np.ndarray
    epsilon: float = 1e-8
    clip: float = 10.0


class ObservationFeatures(nn.Module):
    """Observations as an environment gives them to float32 [B, width]: normalized, one-hot, flat.

    Takes float32 or float64 [B, *shape], or states int64 [B].
    """

    def __init__(self, spec: ObservationSpec, statistics: ObservationStatistics | None) -> None:
        super().__init__()
        self.mean: torch.Tensor | None
        self.std: torch.Tensor | None
        self.states: torch.Tensor | None
        self.width = spec.width
        self.register_buffer("states", torch.arange(self.width) if spec.is_discrete else None)
        self.clip = statistics.clip if statistics else 0.0
        std = np.sqrt(statistics.var + statistics.epsilon) if statistics else None
        self.register_buffer("mean", torch.from_numpy(statistics.mean) if statistics else None)
        self.register_buffer("std", None if std is None else torch.from_numpy(std))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """What the first layer takes."""
        if self.states is not None:
            return (obs.reshape(-1, 1) == self.states).float()
        if self.mean is not None and self.std is not None:
            obs = ((obs.double() - self.mean) / self.std).clamp(-self.clip, self.clip)
        return obs.float().reshape(-1, self.width)


class MeanOfQuantiles(nn.Module):
    """QR-DQN: quantiles float32 [B, quantiles * actions], the actions of one quantile side by side, to their
    means [B, actions], the Q-values.
    """

    def __init__(self, quantiles: int, actions: int) -> None:
        super().__init__()
        self.quantiles, self.actions = quantiles, actions

    def forward(self, quantiles: torch.Tensor) -> torch.Tensor:
        """The mean over the quantiles of each action."""
        return quantiles.reshape(-1, self.quantiles, self.actions).mean(1)


class ActionBounds(nn.Module):
    """Raw actions [B, n] to the environment's units [B, *shape]: clipped, or squashed by tanh and scaled."""

    def __init__(self, spec: ActionSpec, squash: bool) -> None:
        super().__init__()
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.shape, self.squash = spec.shape, squash
        for name, bounds, infinity in (("low", spec.low, -torch.inf), ("high", spec.high, torch.inf)):
            flat = [infinity if bound is None else bound for bound in np.ravel(np.array(bounds, object))]
            self.register_buffer(name, torch.tensor(flat, dtype=torch.float32).reshape(self.shape))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """float32 [B, *shape]."""
        raw = raw.reshape(-1, *self.shape)
        if self.squash:
            return self.low + (0.5 * (raw.tanh() + 1.0) * (self.high - self.low))
        return raw.clamp(self.low, self.high)


class ConstantStd(nn.Module):
    """One standard deviation per component, whatever is observed."""

    def __init__(self, log_std: torch.Tensor) -> None:
        super().__init__()
        self.std: torch.Tensor
        self.register_buffer("std", log_std.exp())

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """[n]."""
        return self.std


class LearnedStd(nn.Module):
    """SAC's: a layer gives the logarithm, which is clamped."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, n]."""
        log_std: torch.Tensor = self.layer(latent)
        return log_std.clamp(*LOG_STD_BOUNDS).exp()


class GSDEStd(nn.Module):
    """Of generalized state-dependent exploration (gSDE).

    Raffin et al. 2020, "Smooth Exploration for Robotic Reinforcement Learning": the noise of actions is
    latent @ matrix with a matrix of normal draws (equation 4). Here the matrix is drawn for every action,
    which makes the noise normal with variance latent^2 @ std^2.
    """

    def __init__(self, log_std: torch.Tensor, use_expln: bool) -> None:
        super().__init__()
        self.variance: torch.Tensor
        std = log_std.exp()
        if use_expln:
            above_zero = (log_std.clamp(min=0) + GSDE_EPSILON).log1p() + 1.0
            std = torch.where(log_std > 0, above_zero, std)
        self.register_buffer("variance", std**2)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, n], or [B, 1] where all components have the same."""
        return (latent**2 @ self.variance).sqrt()
