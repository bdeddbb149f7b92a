"""Trust region policy optimisation: no update moves the policy further than a divergence that is set.

The algorithm is TRPO (Schulman et al. 2015, "Trust Region Policy Optimization", sections 5 and 6, appendix C), with generalised
advantages (Schulman et al. 2016): gather a rollout, take the natural gradient of the surrogate objective by conjugate gradients, go along
it as far as the quadratic model of the divergence allows, and come back until the true divergence and the surrogate agree. The critic
follows by Adam, as in PPO. Rollouts and networks are in `on_policy`, the products with the Fisher matrix in `natural_gradient`.

Not covered: an entropy bonus, which would need a trust region of its own; a deviation that depends on the state.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from training.policies import learning
from training.policies.natural_gradient import Actor, conjugate_gradient
from training.policies.on_policy import ActorCritic, Ascent, OnPolicySettings, Rollout, Rollouts
from training.trained import Trained


class Settings(OnPolicySettings):
    """Defaults are tuned for CartPole-v1."""

    gae_lambda: float = Field(default=0.95, ge=0, le=1, description="0 trusts the critic, 1 the rewards that came")
    learning_rate: float = Field(default=3e-3, gt=0, description="of Adam, for the critic alone")
    decay: bool = Field(default=False, description="the critic's learning rate falls linearly, to 0 at the last of `steps`")
    entropy_weight: float = Field(default=0.0, ge=0, le=0, description="0: the trust region keeps the policy from narrowing too fast")
    max_divergence: float = Field(default=0.02, gt=0, description="nats that a policy may be from the one before it, at most")
    damping: float = Field(default=0.1, gt=0, description="added to the Fisher matrix' diagonal, which may be singular")
    conjugate_iterations: int = Field(default=10, ge=1, description="of conjugate gradients per update")
    backtracks: int = Field(default=10, ge=1, description="how often a step that goes too far is shortened before it is given up")
    backtrack: float = Field(default=0.8, gt=0, lt=1, description="what is left of it each time")
    critic_epochs: int = Field(default=10, ge=1, description="times over every rollout, for the critic")
    critic_batch_size: int = Field(default=256, ge=2, description="transitions per gradient step of the critic, about")
    screening_every: int = Field(default=4096, ge=1, description="environment steps between two looks at the policy")


class Learner:
    """TRPO at work; a phase is one rollout, one step of the actor and several of the critic."""

    loss, exploration = "critic's error", "entropy"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, ActorCritic(settings, observation, action)
        self.rollouts, self.critic = Rollouts(self.policy, settings, seed), Ascent(self.policy, settings)
        self.actor = Actor(self.policy)  # after Ascent, which moves the parameters' memory
        self.experience = self.rollouts.experience

    def phase(self) -> tuple[float, float]:
        """(the critic's mean squared error on the last batch, the policy's entropy in nats before the step)."""
        settings, rollout = self.settings, self.rollouts.collect()
        self.improve(rollout)
        self.critic.left = max(1 - self.experience.transitions / settings.steps, 0.0)
        pieces = max(1, round(len(rollout) / settings.critic_batch_size))
        for _ in range(settings.critic_epochs):
            for chosen in np.array_split(self.experience.random.permutation(len(rollout)), pieces):
                error = self.follow(rollout.rows(chosen))
        return error, self.actor.stood.entropy

    def improve(self, rollout: Rollout) -> float:
        """One step of the actor; returns its divergence from where it stood, 0 where no step is better."""
        settings, actor, advantages = self.settings, self.actor, rollout.standard_advantages()
        actor.stand(rollout.features, rollout.allowed)
        start = actor.parameters
        gradient = actor.gradient(rollout.actions, advantages / len(advantages))

        def curvature(vector: np.ndarray) -> np.ndarray:
            damped: np.ndarray = actor.fisher_product(vector) + settings.damping * vector
            return damped

        direction = conjugate_gradient(curvature, gradient, settings.conjugate_iterations)
        # appendix C: as far as half of step^T F step allows
        step = direction * np.sqrt(2 * settings.max_divergence / max(direction @ curvature(direction), 1e-20))
        for _ in range(settings.backtracks):
            actor.move_to(start + step)
            divergence = actor.divergence()
            if divergence <= settings.max_divergence and self.surrogate(rollout, advantages) > 0:
                return divergence
            step *= settings.backtrack
        actor.move_to(start)
        return 0.0

    def surrogate(self, rollout: Rollout, advantages: np.ndarray) -> float:
        """What the present policy gains over the rollout's: mean of (r - 1) A, r the ratio of probabilities (equation 14)."""
        now = self.actor.now().log_probability(rollout.actions)
        return float((np.expm1(now - rollout.log_probabilities) * advantages).mean())

    def follow(self, batch: Rollout) -> float:
        """One gradient step of the critic; returns its mean squared error before. No gradient moves the actor."""
        _, values = self.critic.judge(batch)
        errors = values - batch.returns
        self.critic.step(np.zeros_like(errors), errors / len(errors))
        return float(np.square(errors).mean())


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
