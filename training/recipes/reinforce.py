"""REINFORCE: the policy gradient from whole episodes, with a baseline or without.

The algorithm is that of Williams 1992, "Simple statistical gradient-following algorithms for connectionist
reinforcement learning", as in sections 13.3 and 13.4 of Sutton and Barto 2018: play episodes to their end,
then raise the probability of every action by the return after it. A learned baseline is subtracted first,
which changes the gradient's variance, not its mean. Like most implementations, this leaves out the factor
gamma^t of the book's boxes.

The whole story is in this file (settings, one iteration), policies/loops/on_policy.py (rollouts, gradient
steps), policies/networks/actor_critic.py and policies/loops/learning.py (the training loop).
policies/networks/reference_losses.py has the loss as the book writes it.
"""

from typing import ClassVar

from pydantic import Field

from training.export.trained import Trained
from training.policies.loops import learning
from training.policies.loops.on_policy import Gamma, OnPolicyLearner, OnPolicySettings
from training.policies.loops.settings import EvalFreq, TotalTimesteps
from training.policies.spaces import ActionSpec, ObservationSpec
from training.runs.run import Run

METRICS = (*learning.RETURN_METRICS, "steps")


class Settings(OnPolicySettings):
    """Defaults are tuned for CartPole-v1."""

    total_timesteps: TotalTimesteps = 500_000
    baseline: bool = Field(default=True, description="subtract a learned value from the returns")
    num_envs: int = Field(default=16, ge=1, le=1024, description="episodes per gradient step")
    n_steps: int = Field(default=500, ge=1, description="steps after which an episode is truncated")
    gamma: Gamma = 0.99
    gae_lambda: float = Field(default=1.0, ge=1, le=1, description="1: returns as they were")
    learning_rate: float = Field(default=5e-3, gt=0, description="of Adam")
    normalize_advantage: bool = Field(
        default=True, description="to mean 0 and std 1 over all episodes of a step"
    )
    eval_freq: EvalFreq = 4096


class Learner(OnPolicyLearner[Settings]):
    """REINFORCE; an iteration is one episode of every environment and one gradient step."""

    loss_name, exploration_name = "baseline's error", "entropy"
    whole_episodes: ClassVar = True

    def __init__(
        self, settings: Settings, observations: ObservationSpec, actions: ActionSpec, seed: int
    ) -> None:
        super().__init__(settings, observations, actions, seed)
        if not settings.baseline:
            self.policy.zero_value_head()

    def iteration(self) -> tuple[float, float]:
        """(the baseline's mean squared error, the policy's entropy in nats), as they were before the step."""
        settings, rollout = self.settings, self.rollouts.collect()
        self.optimizer.anneal(self.envs.num_timesteps)
        return self.policy_gradient_step(rollout, settings.normalize_advantage, float(settings.baseline))


def train(settings: Settings, run: Run) -> Trained:
    """Learn until the target return is confirmed or the steps are used up; hand over the best policy.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    return learning.train(settings, run, Learner)
