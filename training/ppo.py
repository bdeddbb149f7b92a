"""Proximal policy optimisation: learns discrete and continuous actions, fast where an environment steps fast.

The algorithm is PPO with the clipped objective (Schulman et al. 2017, "Proximal Policy Optimization Algorithms", Algorithm 1 and
equation 7): gather a rollout with the present policy, then go several times over it in small batches, where the objective stops
rewarding what moves an action's probability further than `clip`. Advantages, networks and rollouts are in `on_policy`. The file
reads: what can be set, the derivatives of the objective and of the critic's loss, one phase.

Not covered: pixels, recurrent policies, a deviation that depends on the state.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from training.policies import learning
from training.policies.curiosity import Curiosity, IntrinsicSettings
from training.policies.on_policy import ActorCritic, Ascent, OnPolicySettings, Rollout, Rollouts
from training.trained import Trained


class Settings(OnPolicySettings):
    """Defaults are tuned for CartPole-v1."""

    copies: int = Field(default=8, ge=1, le=1024, description="environments that step together")
    gae_lambda: float = Field(default=0.9, ge=0, le=1, description="0 trusts the critic, 1 the rewards that came")
    epochs: int = Field(default=10, ge=1, description="times over every rollout")
    batch_size: int = Field(default=256, ge=2, description="transitions per gradient step, about")
    clip: float = Field(default=0.2, gt=0, lt=1, description="how far a probability may move, as a share of what it was")
    value_clip: float | None = Field(default=None, gt=0, description="how far the critic's value may move per rollout; default: any")
    value_weight: float = Field(default=0.5, gt=0, description="of the critic's loss")
    normalise_advantages: bool = Field(default=True, description="to mean 0 and deviation 1 in every batch")
    target_kl: float | None = Field(default=None, gt=0, description="no further gradient step on this rollout beyond 1.5 times this")
    intrinsic: IntrinsicSettings | None = Field(default=None, description="curiosity, by random network distillation; {} for its defaults")
    screening_every: int = Field(default=2048, ge=1, description="environment steps between two looks at the policy")


def by_log_probability(log_ratios: np.ndarray, advantages: np.ndarray, clip: float) -> np.ndarray:
    """Derivatives, [B], of minus the clipped objective (Schulman et al. 2017, equation 7) by log pi_new; log_ratios are less log pi_old.

    The objective is the mean of min(r A, clamp(r, 1 - clip, 1 + clip) A). As d r = r d log pi, it has the derivative r A / B, but
    none where an action has moved further than `clip` to where its advantage wants it.
    """
    ratios = np.exp(log_ratios)
    beyond = np.where(advantages > 0, ratios > 1 + clip, ratios < 1 - clip)
    derivatives: np.ndarray = -ratios * advantages * ~beyond / len(ratios)
    return derivatives


def by_value(values: np.ndarray, before: np.ndarray, returns: np.ndarray, clip: float | None) -> np.ndarray:
    """Derivatives, [B], of half the critic's mean squared error; with `clip` of the worse of the value and that clipped around `before`.

    The clipping is that of the paper's own code, described by Engstrom et al. 2020, section 3.
    """
    errors: np.ndarray = values - returns
    if clip is not None:
        moved = values - before
        clipped = before + moved.clip(-clip, clip) - returns
        errors = np.where((np.abs(clipped) > np.abs(errors)) & (np.abs(moved) > clip), 0, errors)
    errors /= len(errors)
    return errors


def approximate_kl(log_ratios: np.ndarray) -> float:
    """KL(pi_old, pi_new) from samples of pi_old, [B]: mean(r - 1 - log r), unbiased and never negative (Schulman 2020, k3)."""
    return float((np.exp(log_ratios) - 1 - log_ratios).mean())


class Learner:
    """PPO at work; a phase is one rollout and the gradient steps on it."""

    loss, exploration = "critic's error", "entropy"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, ActorCritic(settings, observation, action)
        curious, copies = settings.intrinsic, settings.copies
        self.curiosity = Curiosity(curious, observation, copies, settings.gae_lambda) if curious else None
        self.rollouts = Rollouts(self.policy, settings, seed, curiosity=self.curiosity)
        self.ascent = Ascent(self.policy, settings)
        self.experience = self.rollouts.experience

    def phase(self) -> tuple[float, float]:
        """(the critic's mean squared error on the last batch, the policy's entropy in nats)."""
        settings, rollout = self.settings, self.rollouts.collect()
        self.ascent.left = max(1 - self.experience.transitions / settings.steps, 0.0)
        if self.curiosity is not None:
            self.curiosity.learn(self.experience.random, settings.epochs, settings.batch_size)
        pieces = max(1, round(len(rollout) / settings.batch_size))
        for _ in range(settings.epochs):
            for chosen in np.array_split(self.experience.random.permutation(len(rollout)), pieces):
                error, entropy, divergence = self.step(rollout.rows(chosen))
                if settings.target_kl is not None and divergence > 1.5 * settings.target_kl:
                    return error, entropy
        return error, entropy

    def step(self, batch: Rollout) -> tuple[float, float, float]:
        """One gradient step: (the critic's mean squared error, entropy, divergence from the rollout's policy) before it."""
        settings = self.settings
        advantages = batch.standard_advantages() if settings.normalise_advantages else batch.advantages
        log_probabilities, values = self.ascent.judge(batch)
        log_ratios = log_probabilities - batch.log_probabilities
        by_values = settings.value_weight * by_value(values, batch.values, batch.returns, settings.value_clip)
        entropy = self.ascent.step(by_log_probability(log_ratios, advantages, settings.clip), by_values)
        divergence = approximate_kl(log_ratios) if settings.target_kl is not None else 0.0
        return float(np.square(values - batch.returns).mean()), entropy, divergence


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
