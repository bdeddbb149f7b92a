"""REINFORCE: the policy gradient from whole episodes, with a baseline or without.

The algorithm is that of Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", as Sutton and Barto 2018 tell it in sections 13.3 and 13.4: play episodes to their end, then raise the probability of
every action by what came after it. A learned baseline is taken off first, which doesn't change the gradient's mean, but
its variance. Like most, this leaves out the factor gamma^t of the book's boxes.
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
    baseline: bool = Field(default=True, description="take off what a critic expects; without, what came counts as it is")
    copies: int = Field(default=16, ge=1, le=1024, description="episodes per gradient step")
    horizon: int = Field(default=500, ge=1, description="steps after which an episode is cut off")
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")
    gae_lambda: float = Field(default=1.0, ge=1, le=1, description="1: the rewards that came")
    learning_rate: float = Field(default=5e-3, gt=0, description="of Adam")
    normalise_advantages: bool = Field(default=True, description="to mean 0 and deviation 1 over all episodes of a step")
    screening_every: int = Field(default=4096, ge=1, description="environment steps between two looks at the policy")


class Learner:
    """REINFORCE at work; a phase is one episode of every copy and one gradient step."""

    loss, exploration = "baseline's error", "entropy"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, ActorCritic(settings, observation, action)
        if not settings.baseline:
            self.policy.forget_values()
        self.rollouts = Rollouts(self.policy, settings, seed, whole_episodes=True)
        self.experience = self.rollouts.experience
        self.ascent = Ascent(self.policy, settings)

    def phase(self) -> tuple[float, float]:
        """(the baseline's mean squared error, the policy's entropy in nats), as they were before the step."""
        settings, rollout = self.settings, self.rollouts.collect()
        self.ascent.left = max(1 - self.experience.transitions / settings.steps, 0.0)
        advantages = rollout.standard_advantages() if settings.normalise_advantages else rollout.advantages
        _, values = self.ascent.judge(rollout)
        errors = values - rollout.returns
        # the loss is -mean(log pi A), and half the mean squared error of the critic
        entropy = self.ascent.step(-advantages / len(advantages), errors / len(errors) * settings.baseline)
        return float(np.square(errors).mean()), entropy


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
