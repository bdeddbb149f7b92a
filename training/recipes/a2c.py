"""Advantage actor-critic: one gradient step per short rollout of many environments.

The algorithm is A2C, the synchronous form of A3C (Mnih et al. 2016, "Asynchronous Methods for Deep
Reinforcement Learning", Algorithm S3): the policy gradient with the critic's advantage, the critic's squared
error and an entropy bonus. Where PPO goes several times over a rollout, A2C goes once, all at once.

The whole story is in this file (settings, one iteration), policies/loops/on_policy.py (rollouts, gradient
steps), policies/buffers/rollout.py (advantages), policies/networks/actor_critic.py and
policies/loops/learning.py (the training loop). policies/networks/reference_losses.py has the loss as the
paper writes it.
"""

from pydantic import Field

from training.export.trained import Trained
from training.policies.loops import learning
from training.policies.loops.on_policy import GaeLambda, Gamma, OnPolicyLearner, OnPolicySettings
from training.policies.loops.settings import EvalFreq, TotalTimesteps
from training.runs.run import Run

METRICS = (*learning.RETURN_METRICS, "steps")


class Settings(OnPolicySettings):
    """Defaults are tuned for CartPole-v1."""

    total_timesteps: TotalTimesteps = 500_000
    n_steps: int = Field(default=8, ge=1, description="steps of every environment per gradient step")
    gamma: Gamma = 0.99
    gae_lambda: GaeLambda = 1.0
    learning_rate: float = Field(default=2e-3, gt=0, description="of Adam")
    vf_coef: float = Field(default=0.5, gt=0, description="weight of the critic's loss")
    normalize_advantage: bool = Field(default=False, description="to mean 0 and std 1 in every rollout")
    eval_freq: EvalFreq = 4096


class Learner(OnPolicyLearner[Settings]):
    """A2C; an iteration is one rollout and one gradient step."""

    loss_name, exploration_name = "critic's error", "entropy"

    def iteration(self) -> tuple[float, float]:
        """(the critic's mean squared error, the policy's entropy in nats), as they were before the step."""
        settings, rollout = self.settings, self.rollouts.collect()
        self.optimizer.anneal(self.envs.num_timesteps)
        return self.policy_gradient_step(rollout, settings.normalize_advantage, settings.vf_coef)


def train(settings: Settings, run: Run) -> Trained:
    """Learn until the target return is confirmed or the steps are used up; hand over the best policy.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    return learning.train(settings, run, Learner)
