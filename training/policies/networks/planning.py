"""Planning with a model: finds the plan of actions with the highest return by the cross-entropy method.

It draws plans, evaluates them, refits the distribution to the best and repeats (Botev, Kroese, Rubinstein and
L'Ecuyer 2013, "The Cross-Entropy Method for Optimization"), as Chua et al. 2018 ("Deep Reinforcement Learning
in a Handful of Trials using Probabilistic Dynamics Models", section 5) plan with it. With one iteration and
one elite it is random shooting. A planner is a graph: its base samples are drawn once and stay (common random
numbers), so that the same observation always gets the same action, and its loops are unrolled at export.

Elites are weighted by how far their returns lie above that of the best plan that isn't one (Rubinstein and
Kroese 2004, "The Cross-Entropy Method", weight better samples more). Equal weights would jump where two plans
change places, and two runtimes that round differently would act differently.

Each request is planned for from scratch.
"""

from collections.abc import Sequence

import torch
from torch import nn

MARGIN = 1e-4  # of the return: rounding must not choose between plans that are as close as that
MIN_VARIANCE = 1e-30  # keeps the root's gradient finite where all plans lie on a bound

# of a distribution of plans, [B, 1, H, a] or what expands to it; the first is the current plan
Parameters = tuple[torch.Tensor, ...]


class NormalPlans(nn.Module):
    """Plans for a Box with finite bounds [a]: every number is normal, and clipped to its bounds."""

    def __init__(self, low: torch.Tensor, high: torch.Tensor, initial_std: float) -> None:
        super().__init__()
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.initial_std = initial_std

    def start(self) -> Parameters:
        """Mean and std: the middle of the bounds, and `initial_std` of half their distance."""
        return (self.low + self.high) / 2, (self.high - self.low) / 2 * self.initial_std

    def sample(self, parameters: Parameters, base: torch.Tensor) -> torch.Tensor:
        """Plans [B, N, H, a] from base samples [N, H, a]: mean plus std times base, clipped."""
        mean, std = parameters
        return (mean + std * base).clamp(self.low, self.high)

    def refit(self, plans: torch.Tensor, weights: torch.Tensor) -> Parameters:
        """Mean and std of plans with weights [B, 1, N] that sum to 1."""
        # clipped, since weights that sum to a little more than 1 would leave the bounds
        mean = _weighted_mean(weights, plans).clamp(self.low, self.high)
        return mean, _weighted_mean(weights, (plans - mean).square()).clamp(min=MIN_VARIANCE).sqrt()


class CategoricalPlans(nn.Module):
    """Plans of `count` discrete actions, one-hot, by base samples that are Gumbel."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.uniform: torch.Tensor
        self.register_buffer("uniform", torch.full((count,), 1 / count))

    def start(self) -> Parameters:
        """Probabilities: all equal."""
        return (self.uniform,)

    def sample(self, parameters: Parameters, base: torch.Tensor) -> torch.Tensor:
        """One-hot actions; a tenth of the probability stays uniform, so that no action is lost."""
        logits = (0.9 * parameters[0] + 0.1 * self.uniform).log() + base
        return (logits == logits.amax(-1, keepdim=True)).float()

    def refit(self, plans: torch.Tensor, weights: torch.Tensor) -> Parameters:
        """The actions' shares of the weights."""
        return (_weighted_mean(weights, plans),)


def _weighted_mean(weights: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
    """Of plans [B, N, H, a]: [B, 1, H, a]."""
    return (weights @ plans.flatten(2)).reshape(-1, 1, *plans.shape[2:])


class Planner(nn.Module):
    """Observations, float32 [B, w], to (first step of the plan [B, a], mean return of its elites [B]).

    `model` gives the returns [B, N] of plans [B, N, H, a] from observations; `base` holds the base samples,
    [iterations, N, H, a].
    """

    def __init__(
        self, model: nn.Module, distribution: NormalPlans | CategoricalPlans, base: torch.Tensor, elites: int
    ) -> None:
        super().__init__()
        self.base: torch.Tensor
        self.model, self.distribution, self.elites = model, distribution, elites
        self.register_buffer("base", base)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample, evaluate and refit, once for each set of base samples."""
        parameters = self.distribution.start()
        for base in self.base:
            plans = self.distribution.sample(parameters, base)
            # `len` would fix the exported graph's batch
            plans = plans.expand(obs.shape[0], *plans.shape[-3:])
            returns = self.model(obs, plans)
            weights = elite_weights(returns, self.elites)
            parameters = self.distribution.refit(plans, weights[:, None])
        return parameters[0][:, 0, 0], (weights * returns).sum(1)


def elite_weights(returns: torch.Tensor, elites: int) -> torch.Tensor:
    """Weights [B, N] that fall linearly with the return, to 0 just below the best plan that is no elite."""
    threshold = returns.topk(elites + 1, 1).values[:, -1:]
    weights = (returns - threshold + MARGIN * (1 + threshold.abs())).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def base_samples(sizes: Sequence[int], discrete: bool = False, correlation: float = 0.0) -> torch.Tensor:
    """Base samples [iterations, N, H, a] from torch's own generator, with standard deviation 1.

    Of discrete actions Gumbel. Else standard normal, in pairs of both signs and with successive steps that
    correlate, which moves a system further than white noise does (Pinneri et al. 2020, "Sample-efficient
    Cross-Entropy Method for Real-time Planning", section 3, there by their spectrum; here every step keeps
    `correlation` of the one before).
    """
    if discrete:
        return -torch.empty(*sizes).exponential_().log()
    iterations, count, horizon, action_size = sizes
    samples = torch.randn(iterations, (count + 1) // 2, horizon, action_size)
    innovation = (1 - correlation**2) ** 0.5
    for step in range(1, horizon):
        samples[:, :, step] = correlation * samples[:, :, step - 1] + innovation * samples[:, :, step]
    return torch.cat((samples, -samples), 1)[:, :count]
