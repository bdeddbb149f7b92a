"""Proximal policy optimisation: learns discrete and continuous actions, fast where an environment steps fast.

The algorithm is PPO with the clipped objective (Schulman et al. 2017, "Proximal Policy Optimization Algorithms", Algorithm 1 and
equation 7): gather a rollout with the present policy, then go several times over it in small batches, where the objective stops
rewarding what moves an action's probability further than `clip`. Advantages, networks and rollouts are in `on_policy`. The file
reads: what can be set, the objective, the loss of the critic, one phase.

Not covered: pixels, recurrent policies, a deviation that depends on the state.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from training import policy_training
from training.on_policy import ActorCritic, OnPolicySettings, Rollout, Rollouts
from training.small_networks import descend, flatten
from training.trained import Trained


class Settings(OnPolicySettings):
    """Defaults are tuned for CartPole-v1."""

    epochs: int = Field(default=10, ge=1, description="times over every rollout")
    batch_size: int = Field(default=256, ge=2, description="transitions per gradient step, about")
    clip: float = Field(default=0.2, gt=0, lt=1, description="how far a probability may move, as a share of what it was")
    value_clip: float | None = Field(default=None, gt=0, description="how far the critic's value may move per rollout; default: any")
    value_weight: float = Field(default=0.5, gt=0, description="of the critic's loss")
    normalise_advantages: bool = Field(default=True, description="to mean 0 and deviation 1 in every batch")
    target_kl: float | None = Field(default=None, gt=0, description="no further gradient step on this rollout beyond 1.5 times this")
    screening_every: int = Field(default=2048, ge=1, description="environment steps between two looks at the policy")


def clipped_objective(log_ratios: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """Schulman et al. 2017, equation 7, to be maximised: a scalar of two [B]; log_ratios are log pi_new - log pi_old."""
    ratios = log_ratios.exp()
    return torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages).mean()


def value_loss(values: torch.Tensor, before: torch.Tensor, returns: torch.Tensor, clip: float | None) -> torch.Tensor:
    """Half the mean squared error, a scalar of three [B]; with `clip` the worse of the value and the one clipped around `before`.

    The clipping is that of the paper's own code, described by Engstrom et al. 2020, section 3.
    """
    errors = (values - returns).square()
    if clip is not None:
        errors = torch.maximum(errors, (before + (values - before).clamp(-clip, clip) - returns).square())
    return 0.5 * errors.mean()


def approximate_kl(log_ratios: torch.Tensor) -> float:
    """KL(pi_old, pi_new) from samples of pi_old, [B]: mean(r - 1 - log r), unbiased and never negative (Schulman 2020, k3)."""
    return float((log_ratios.exp() - 1 - log_ratios).mean())


class Learner:
    """PPO at work; a phase is one rollout and the gradient steps on it."""

    loss, exploration = "critic's loss", "entropy"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, ActorCritic(settings, observation, action)
        self.rollouts = Rollouts(self.policy, settings, seed)
        self.experience = self.rollouts.experience
        self.flat = flatten(self.policy)
        self.optimizer = torch.optim.Adam([self.flat], settings.learning_rate, eps=1e-5, fused=True)
        self.generator = torch.Generator().manual_seed(seed)

    def phase(self) -> tuple[float, float]:
        """(the critic's loss on the last batch, the policy's entropy in nats)."""
        rollout, left = self.rollouts.collect(), 1 - self.experience.transitions / self.settings.steps
        if self.settings.decay:
            self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * max(left, 0.0)
        pieces = max(1, round(len(rollout) / self.settings.batch_size))
        for _ in range(self.settings.epochs):
            shuffled = rollout.rows(torch.randperm(len(rollout), generator=self.generator))
            for parts in zip(*(part.tensor_split(pieces) for part in shuffled), strict=True):
                critic_loss, entropy, log_ratios = self.step(Rollout(*parts))
                if self.settings.target_kl is not None and approximate_kl(log_ratios) > 1.5 * self.settings.target_kl:
                    return float(critic_loss), float(entropy)
        return float(critic_loss), float(entropy)

    def step(self, batch: Rollout) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One gradient step: (the critic's loss, entropy, log ratios [B]) as they were before it."""
        settings, advantages = self.settings, batch.advantages
        if settings.normalise_advantages and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        scores, values = self.policy(batch.features)
        log_probabilities, entropy = self.policy.log_probability(scores, batch.actions)
        log_ratios = log_probabilities - batch.log_probabilities
        critic_loss = value_loss(values, batch.values, batch.returns, settings.value_clip)
        loss = settings.value_weight * critic_loss - clipped_objective(log_ratios, advantages, settings.clip)
        if settings.entropy_weight:
            loss = loss - settings.entropy_weight * entropy
        descend(loss, self.flat, self.optimizer, self.policy, settings.gradient_norm)
        return critic_loss.detach(), entropy.detach(), log_ratios.detach()


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return policy_training.train(settings, seed, report, Learner)
