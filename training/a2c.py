"""Advantage actor-critic: one gradient step per short rollout of many copies.

The algorithm is A2C, the synchronous form of A3C (Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning",
Algorithm S3): the policy gradient with the critic's advantage, the critic's squared error and a bonus for entropy. Where PPO goes
several times over a rollout, this goes once, all at once. Rollouts, networks and advantages are in `on_policy`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from training.policies import learning
from training.policies.on_policy import ActorCritic, Ascent, OnPolicySettings, Rollouts
from training.trained import Trained


class Settings(OnPolicySettings):
    """Defaults are tuned for CartPole-v1."""

    steps: int = Field(default=500_000, ge=1, description="environment steps at most; fewer when the target is confirmed")
    horizon: int = Field(default=8, ge=1, description="steps of every copy per gradient step")
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")
    gae_lambda: float = Field(default=1.0, ge=0, le=1, description="0 trusts the critic, 1 the rewards that came")
    learning_rate: float = Field(default=2e-3, gt=0, description="of Adam")
    value_weight: float = Field(default=0.5, gt=0, description="of the critic's loss")
    normalise_advantages: bool = Field(default=False, description="to mean 0 and deviation 1 in every rollout")
    screening_every: int = Field(default=4096, ge=1, description="environment steps between two looks at the policy")


class Learner:
    """A2C at work; a phase is one rollout and one gradient step."""

    loss, exploration = "critic's error", "entropy"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, ActorCritic(settings, observation, action)
        self.rollouts = Rollouts(self.policy, settings, seed)
        self.experience = self.rollouts.experience
        self.ascent = Ascent(self.policy, settings)

    def phase(self) -> tuple[float, float]:
        """(the critic's mean squared error, the policy's entropy in nats), as they were before the step."""
        settings, rollout = self.settings, self.rollouts.collect()
        self.ascent.left = max(1 - self.experience.transitions / settings.steps, 0.0)
        advantages = rollout.standard_advantages() if settings.normalise_advantages else rollout.advantages
        _, values = self.ascent.judge(rollout)
        errors = values - rollout.returns
        # the loss is -mean(log pi A), and half the mean squared error of the critic
        entropy = self.ascent.step(-advantages / len(advantages), settings.value_weight * errors / len(errors))
        return float(np.square(errors).mean()), entropy


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
