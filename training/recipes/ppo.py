"""Proximal policy optimization: discrete and continuous actions, fast where environment steps are cheap.

The algorithm is PPO with the clipped objective (Schulman et al. 2017, "Proximal Policy Optimization
Algorithms", Algorithm 1 and equation 7): collect a rollout with the current policy, then go several times
over it in small batches, where the ratio of an action's probabilities gains nothing beyond 1 +/-
`clip_range`.

The whole story is in this file (settings, derivatives of the losses, one iteration),
policies/loops/on_policy.py (rollouts, gradient steps), policies/buffers/rollout.py (advantages),
policies/networks/actor_critic.py and policies/loops/learning.py (the training loop).
policies/networks/reference_losses.py has the losses as the paper writes them.

Not covered: images, recurrent policies, a state-dependent standard deviation.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from training.export.trained import Trained
from training.policies.buffers.rollout import RolloutBatch
from training.policies.loops import learning
from training.policies.loops.on_policy import GaeLambda, OnPolicyLearner, OnPolicySettings
from training.policies.loops.settings import EvalFreq, NumEnvs
from training.policies.networks.curiosity import Curiosity, IntrinsicSettings
from training.policies.spaces import ActionSpec, ObservationSpec
from training.runs.run import Run

METRICS = (*learning.RETURN_METRICS, "steps")


class Settings(OnPolicySettings):
    """Defaults are tuned for CartPole-v1."""

    num_envs: NumEnvs = 8
    gae_lambda: GaeLambda = 0.9
    n_epochs: int = Field(default=10, ge=1, description="passes over every rollout")
    batch_size: int = Field(default=256, ge=2, description="transitions per gradient step, about")
    clip_range: float = Field(
        default=0.2, gt=0, lt=1, description="PPO clip range: the ratio is clipped to 1 +/- this"
    )
    clip_range_vf: float | None = Field(
        default=None, gt=0, description="the value is clipped to that of the rollout +/- this; default: never"
    )
    vf_coef: float = Field(default=0.5, gt=0, description="weight of the critic's loss")
    normalize_advantage: bool = Field(default=True, description="to mean 0 and std 1 in every batch")
    target_kl: float | None = Field(
        default=None, gt=0, description="stop the gradient steps on a rollout beyond 1.5 times this KL"
    )
    intrinsic: IntrinsicSettings | None = Field(
        default=None, description="curiosity, by random network distillation; {} for its defaults"
    )
    eval_freq: EvalFreq = 2048


def clipped_objective_grad(log_ratios: np.ndarray, advantages: np.ndarray, clip_range: float) -> np.ndarray:
    """Derivatives, [B], of minus the clipped objective by log pi_new; log_ratios are log pi_new - log pi_old.

    The objective (Schulman et al. 2017, equation 7) is the mean of min(r A, clip(r, 1 - e, 1 + e) A). As dr =
    r d log pi, its derivative is r A / B, and 0 where the ratio has moved beyond the clip range in the
    direction of its advantage.
    """
    ratios = np.exp(log_ratios)
    is_clipped = np.where(advantages > 0, ratios > 1 + clip_range, ratios < 1 - clip_range)
    grad: np.ndarray = -ratios * advantages * ~is_clipped / len(ratios)
    return grad


def value_loss_grad(
    values: np.ndarray, old_values: np.ndarray, returns: np.ndarray, clip_range_vf: float | None
) -> np.ndarray:
    """Derivatives, [B], of half the critic's mean squared error.

    With `clip_range_vf` of the larger error of the value and the value clipped around `old_values`: that is
    in the paper's own code, described by Engstrom et al. 2020, section 3.
    """
    errors: np.ndarray = values - returns
    if clip_range_vf is not None:
        change = values - old_values
        clipped_errors = old_values + change.clip(-clip_range_vf, clip_range_vf) - returns
        is_clipped = (np.abs(clipped_errors) > np.abs(errors)) & (np.abs(change) > clip_range_vf)
        errors = np.where(is_clipped, 0, errors)
    errors /= len(errors)
    return errors


def approximate_kl(log_ratios: np.ndarray) -> float:
    """KL(pi_old, pi_new) from samples of pi_old, [B]: mean(r - 1 - log r), unbiased and never negative.

    Schulman 2020, "Approximating KL Divergence", k3.
    """
    return float((np.exp(log_ratios) - 1 - log_ratios).mean())


class Learner(OnPolicyLearner[Settings]):
    """PPO; an iteration is one rollout and the gradient steps on it."""

    loss_name, exploration_name = "critic's error", "entropy"
    state_parts: ClassVar = ("policy", "curiosity", "rollouts", "optimizer")

    def __init__(
        self, settings: Settings, observations: ObservationSpec, actions: ActionSpec, seed: int
    ) -> None:
        super().__init__(settings, observations, actions, seed)
        self.curiosity = None
        if settings.intrinsic:
            num_envs, gae_lambda = settings.num_envs, settings.gae_lambda
            self.curiosity = Curiosity(settings.intrinsic, observations, num_envs, gae_lambda)
        self.rollouts.curiosity = self.curiosity

    def iteration(self) -> tuple[float, float]:
        """(the critic's mean squared error on the last batch, the policy's entropy in nats)."""
        settings, rollout = self.settings, self.rollouts.collect()
        self.optimizer.anneal(self.envs.num_timesteps)
        if self.curiosity is not None:
            self.curiosity.train(self.envs.rng, settings.n_epochs, settings.batch_size)
        num_batches = max(1, round(len(rollout) / settings.batch_size))
        for _ in range(settings.n_epochs):
            for index in np.array_split(self.envs.rng.permutation(len(rollout)), num_batches):
                error, entropy, kl = self.step(rollout.take(index))
                if settings.target_kl is not None and kl > 1.5 * settings.target_kl:
                    return error, entropy
        return error, entropy

    def step(self, batch: RolloutBatch) -> tuple[float, float, float]:
        """One gradient step: (critic's mean squared error, entropy, KL to the rollout's policy) before it."""
        settings = self.settings
        advantages = batch.normalized_advantages() if settings.normalize_advantage else batch.advantages
        log_probs, values = self.optimizer.evaluate_actions(batch)
        log_ratios = log_probs - batch.log_probs
        grad_values = value_loss_grad(values, batch.values, batch.returns, settings.clip_range_vf)
        entropy = self.optimizer.step(
            clipped_objective_grad(log_ratios, advantages, settings.clip_range),
            settings.vf_coef * grad_values,
        )
        kl = approximate_kl(log_ratios) if settings.target_kl is not None else 0.0
        return float(np.square(values - batch.returns).mean()), entropy, kl


def train(settings: Settings, run: Run) -> Trained:
    """Learn until the target return is confirmed or the steps are used up; hand over the best policy.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    return learning.train(settings, run, Learner)
