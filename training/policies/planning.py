"""Planning with a model: the plan of actions that earns most, found by drawing plans, judging them and drawing nearer to the best.

That is the cross-entropy method (Botev, Kroese, Rubinstein and L'Ecuyer 2013, "The Cross-Entropy Method for Optimization"), as Chua et al.
2018 ("Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models", section 5) plan with it. With one
iteration and one elite it is random shooting. A planner is a graph: its base samples are drawn once and stay (common random
numbers), so that the same observation always gets the same action, and its loops are unrolled when it is exported.

The elites are weighed by how far they lie above the best that isn't one (Rubinstein and Kroese 2004, "The Cross-Entropy Method", let better
samples weigh more). Equal weights would jump where two plans change places, and two runtimes that round differently would act differently.

Each request is planned for from scratch.
"""

from collections.abc import Sequence

import torch
from torch import nn

MARGIN = 1e-4  # of the return: among plans as near as that rounding must not choose
LEAST_VARIANCE = 1e-30  # the root's gradient is infinite at 0, which plans come to that all lie on a bound

Parameters = tuple[torch.Tensor, ...]  # of a distribution of plans, [B, 1, H, a] or what expands to it; the first is what is planned


class NormalPlans(nn.Module):
    """Plans for a Box with finite bounds [a]: every number is normal about a mean of its own, and kept within its bounds."""

    def __init__(self, low: torch.Tensor, high: torch.Tensor, deviation: float) -> None:
        super().__init__()
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.deviation = deviation

    def start(self) -> Parameters:
        """The middle of the bounds, and `deviation` of the way from it to them."""
        return (self.low + self.high) / 2, (self.high - self.low) / 2 * self.deviation

    def draw(self, parameters: Parameters, base: torch.Tensor) -> torch.Tensor:
        """Plans [B, N, H, a] from base samples [N, H, a]: mean plus deviation times base, within the bounds."""
        mean, deviation = parameters
        return (mean + deviation * base).clamp(self.low, self.high)

    def refit(self, plans: torch.Tensor, weights: torch.Tensor) -> Parameters:
        """Mean and deviation of plans with weights [B, 1, N] that sum to 1."""
        mean = _weighted(weights, plans).clamp(self.low, self.high)  # which weights that sum to a little more than 1 would leave
        return mean, _weighted(weights, (plans - mean).square()).clamp(min=LEAST_VARIANCE).sqrt()


class CategoricalPlans(nn.Module):
    """Plans of `count` discrete actions, one-hot; base samples are Gumbel, and the action with the largest logit plus base is drawn."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.chances: torch.Tensor
        self.register_buffer("chances", torch.full((count,), 1 / count))

    def start(self) -> Parameters:
        """All alike."""
        return (self.chances,)

    def draw(self, parameters: Parameters, base: torch.Tensor) -> torch.Tensor:
        """One-hot actions; a tenth of the chances stays with all alike, so that none is lost."""
        logits = (0.9 * parameters[0] + 0.1 * self.chances).log() + base
        return (logits == logits.amax(-1, keepdim=True)).float()

    def refit(self, plans: torch.Tensor, weights: torch.Tensor) -> Parameters:
        """The actions' shares of the weights."""
        return (_weighted(weights, plans),)


def _weighted(weights: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
    """The mean of plans [B, N, H, a], [B, 1, H, a]."""
    return (weights @ plans.flatten(2)).reshape(-1, 1, *plans.shape[2:])


class Planner(nn.Module):
    """Observations, float32 [B, w], to (the first step of the plan [B, a], the mean return of its elites [B]).

    `model` gives the returns [B, N] of plans [B, N, H, a] from observations on; `base` holds the base samples, [iterations, N, H, a].
    """

    def __init__(self, model: nn.Module, distribution: NormalPlans | CategoricalPlans, base: torch.Tensor, elites: int) -> None:
        super().__init__()
        self.base: torch.Tensor
        self.model, self.distribution, self.elites = model, distribution, elites
        self.register_buffer("base", base)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw, judge and draw nearer, once for each set of base samples."""
        parameters = self.distribution.start()
        for base in self.base:
            plans = self.distribution.draw(parameters, base)
            plans = plans.expand(observations.shape[0], *plans.shape[-3:])  # `len` would fix the exported graph's batch
            returns = self.model(observations, plans)
            weights = elite_weights(returns, self.elites)
            parameters = self.distribution.refit(plans, weights[:, None])
        return parameters[0][:, 0, 0], (weights * returns).sum(1)


def elite_weights(returns: torch.Tensor, elites: int) -> torch.Tensor:
    """Shares, [B, N], that fall linearly with the return, from the best plan's to none a little below the best plan that is no elite."""
    threshold = returns.topk(elites + 1, 1).values[:, -1:]
    weights = (returns - threshold + MARGIN * (1 + threshold.abs())).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def base_samples(sizes: Sequence[int], discrete: bool = False, correlation: float = 0.0) -> torch.Tensor:
    """Base samples [iterations, N, H, a] from torch's own generator, in units of a distribution's deviation.

    Of discrete actions Gumbel. Else standard normal, in pairs of both signs and with successive steps that correlate, which moves a system
    further than white noise does (Pinneri et al. 2020, "Sample-efficient Cross-Entropy Method for Real-time Planning", section 3,
    there by their spectrum; here every step keeps `correlation` of the one before).
    """
    if discrete:
        return -torch.empty(*sizes).exponential_().log()
    iterations, count, horizon, size = sizes
    samples = torch.randn(iterations, (count + 1) // 2, horizon, size)
    for step in range(1, horizon):
        samples[:, :, step] = correlation * samples[:, :, step - 1] + (1 - correlation**2) ** 0.5 * samples[:, :, step]
    return torch.cat((samples, -samples), 1)[:, :count]
