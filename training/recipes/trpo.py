"""Trust region policy optimization: no update moves the policy further than a KL divergence that is set.

The algorithm is TRPO (Schulman et al. 2015, "Trust Region Policy Optimization", sections 5 and 6, appendix
C), with generalized advantages (Schulman et al. 2016): collect a rollout, take the natural gradient of the
surrogate objective by conjugate gradients, step along it as far as the quadratic model of the KL divergence
allows, and shorten the step until the true divergence and the surrogate agree. The critic learns by Adam, as
in PPO.

The whole story is in this file (settings, the actor's step, one iteration),
policies/networks/natural_gradient.py (Fisher-vector products, conjugate gradients),
policies/loops/on_policy.py (rollouts), policies/buffers/rollout.py (advantages),
policies/networks/actor_critic.py and policies/loops/learning.py (the training loop).
policies/networks/reference_losses.py has surrogate and divergence as the paper writes them.

Not covered: an entropy bonus, which would need a trust region of its own; a state-dependent standard
deviation.
"""

import numpy as np
from pydantic import Field

from training.export.trained import Trained
from training.policies.buffers.rollout import RolloutBatch
from training.policies.loops import learning
from training.policies.loops.on_policy import GaeLambda, OnPolicyLearner, OnPolicySettings
from training.policies.loops.settings import EvalFreq
from training.policies.networks.natural_gradient import TrustRegionActor, conjugate_gradient
from training.policies.spaces import ActionSpec, ObservationSpec
from training.runs.run import Run

METRICS = (*learning.RETURN_METRICS, "steps")


class Settings(OnPolicySettings):
    """Defaults are tuned for CartPole-v1."""

    gae_lambda: GaeLambda = 0.95
    learning_rate: float = Field(default=3e-3, gt=0, description="of Adam, for the critic alone")
    anneal_lr: bool = Field(
        default=False,
        description="the critic's learning rate falls linearly to 0 at the last of `total_timesteps`",
    )
    ent_coef: float = Field(
        default=0.0, ge=0, le=0, description="0: the trust region prevents a premature loss of entropy"
    )
    target_kl: float = Field(default=0.02, gt=0, description="largest KL divergence of an update, in nats")
    cg_damping: float = Field(
        default=0.1, gt=0, description="added to the Fisher matrix's diagonal, which may be singular"
    )
    cg_max_steps: int = Field(default=10, ge=1, description="of conjugate gradients per update")
    line_search_max_iter: int = Field(
        default=10, ge=1, description="attempts of the line search, before an update is given up"
    )
    line_search_shrinking_factor: float = Field(
        default=0.8, gt=0, lt=1, description="of the step, at every attempt of the line search"
    )
    n_critic_updates: int = Field(default=10, ge=1, description="the critic's passes over every rollout")
    batch_size: int = Field(
        default=256, ge=2, description="transitions per gradient step of the critic, about"
    )
    eval_freq: EvalFreq = 4096


class Learner(OnPolicyLearner[Settings]):
    """TRPO; an iteration is one rollout, one step of the actor and several of the critic."""

    loss_name, exploration_name = "critic's error", "entropy"

    def __init__(
        self, settings: Settings, observations: ObservationSpec, actions: ActionSpec, seed: int
    ) -> None:
        super().__init__(settings, observations, actions, seed)  # `optimizer` steps the critic alone
        self.actor = TrustRegionActor(self.policy)  # after PolicyOptimizer, which moves the parameters

    def iteration(self) -> tuple[float, float]:
        """(the critic's mean squared error on the last batch, the policy's entropy before the step)."""
        settings, rollout = self.settings, self.rollouts.collect()
        self.update_actor(rollout)
        self.optimizer.anneal(self.envs.num_timesteps)
        num_batches = max(1, round(len(rollout) / settings.batch_size))
        for _ in range(settings.n_critic_updates):
            for index in np.array_split(self.envs.rng.permutation(len(rollout)), num_batches):
                error = self.update_critic(rollout.take(index))
        return error, self.actor.anchor.entropy

    def update_actor(self, rollout: RolloutBatch) -> float:
        """One step of the actor; returns the KL divergence that it moved, 0 where no step improves."""
        settings, actor, advantages = self.settings, self.actor, rollout.normalized_advantages()
        actor.set_anchor(rollout.features, rollout.action_mask)
        start = actor.params
        gradient = actor.policy_gradient(rollout.actions, advantages / len(advantages))

        def damped_fisher_product(vector: np.ndarray) -> np.ndarray:
            product: np.ndarray = actor.fisher_vector_product(vector) + settings.cg_damping * vector
            return product

        direction = conjugate_gradient(damped_fisher_product, gradient, settings.cg_max_steps)
        # appendix C: as far as half of step^T F step allows
        curvature = max(direction @ damped_fisher_product(direction), 1e-20)
        step = direction * np.sqrt(2 * settings.target_kl / curvature)
        for _ in range(settings.line_search_max_iter):
            actor.set_params(start + step)
            kl = actor.kl_divergence()
            if kl <= settings.target_kl and self.surrogate(rollout, advantages) > 0:
                return kl
            step *= settings.line_search_shrinking_factor
        actor.set_params(start)
        return 0.0

    def surrogate(self, rollout: RolloutBatch, advantages: np.ndarray) -> float:
        """The gain over the rollout's policy: mean of (r - 1) A, r the probability ratio (equation 14)."""
        log_probs = self.actor.current().log_prob(rollout.actions)
        return float((np.expm1(log_probs - rollout.log_probs) * advantages).mean())

    def update_critic(self, batch: RolloutBatch) -> float:
        """One gradient step of the critic alone; returns its mean squared error before."""
        _, values = self.optimizer.evaluate_actions(batch)
        errors = values - batch.returns
        self.optimizer.step(np.zeros_like(errors), errors / len(errors))
        return float(np.square(errors).mean())


def train(settings: Settings, run: Run) -> Trained:
    """Learn until the target return is confirmed or the steps are used up; hand over the best policy.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    return learning.train(settings, run, Learner)
