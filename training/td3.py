"""Twin delayed deep deterministic policy gradient: learns continuous actions without a distribution.

The algorithm is TD3 (Fujimoto, van Hoof and Meger 2018, "Addressing Function Approximation Error in Actor-Critic Methods",
Algorithm 1). With `critics: 1, policy_delay: 1, smoothing: 0` it is DDPG (Lillicrap et al. 2016, "Continuous control with deep
reinforcement learning", Algorithm 1), with independent normal noise for exploration instead of a correlated one.
Gradients are written by hand. Replay, critics
and bounds are in `off_policy`. The file reads: what can be set, the actor, the targets, one phase.

Not covered: pixels; a served policy that explores.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import nn

from training.policies import learning
from training.policies.graphs import DeterministicPolicy, Features, Policy
from training.policies.off_policy import BoundedActor, Critics, OffPolicySettings, ReplayedExperience
from training.policies.replay import Transitions
from training.policies.small_networks import Adam, Perceptrons, answer, backward, flatten, passes
from training.trained import Trained


class Settings(OffPolicySettings):
    """Defaults are tuned for Pendulum-v1."""

    critics: Literal[1, 2] = Field(default=2, description="2: the lower of both counts, against overestimation; 1 as in DDPG")
    policy_delay: int = Field(default=2, ge=1, description="gradient steps of the critics per step of the actor and the targets")
    smoothing: float = Field(default=0.2, ge=0, description="deviation of the noise on the target's action, of actions in -1..1")
    smoothing_clip: float = Field(default=0.5, ge=0, description="that noise stays within plus and minus this")
    exploration_noise: float = Field(default=0.1, ge=0, description="deviation of the noise on actions in the environment")


class Deterministic(BoundedActor):
    """One number per component, then tanh."""

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any]) -> None:
        super().__init__(settings, observation, action, outputs=1)

    def bounded(self, features: np.ndarray) -> np.ndarray:
        """Features [B, w] to actions in -1..1 [B, n]."""
        actions: np.ndarray = np.tanh(answer(self.networks.arrays(), self.activation, features))
        return actions

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Actions in the Box's own units."""
        return self.to_environment(self.bounded(self.encoder(observations)))

    def served(self) -> Policy:
        """The graph, in eval mode, with weights of its own."""
        return DeterministicPolicy(nn.Sequential(Features(self.observation, None), *self.networks.layers(0), self.bounds)).eval()


class Learner:
    """TD3 at work; a phase is some steps of all copies and the gradient steps for them."""

    loss, exploration = "critics' loss", "exploration noise"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, Deterministic(settings, observation, action)
        sizes = (self.policy.encoder.width, *settings.hidden, self.policy.size)
        self.target = Perceptrons(1, sizes, settings.activation)
        self.flat, self.flat_target = flatten(self.policy), flatten(self.target)
        self.flat_target.data.copy_(self.flat.data)
        self.arrays, self.gradients = self.policy.networks.arrays(slice(None)), self.policy.networks.gradients()
        self.target_arrays, self.adam = self.target.arrays(), Adam(self.flat.detach().numpy(), epsilon=1e-8)
        self.critics = Critics(settings.critics, settings, self.policy.encoder.width + self.policy.size)
        self.replayed = ReplayedExperience(self.policy, settings, seed)
        self.experience = self.replayed.experience
        self.steps = 0  # gradient steps of the critics

    def phase(self) -> tuple[float, float]:
        """(the critics' loss on the last batch, the deviation of the noise)."""
        normal, loss = self.experience.random.standard_normal, float("nan")
        self.replayed.collect(self.explore)
        for batch in self.replayed.batches():
            loss = self.improve_critics(batch, normal(batch.actions.shape, np.float32))
            self.steps += 1
            if self.steps % self.settings.policy_delay == 0:
                self.improve_actor(batch)
                self.critics.follow(self.settings.polyak)
                self.flat_target.data.lerp_(self.flat.data, self.settings.polyak)
        return loss, self.settings.exploration_noise

    def explore(self, features: np.ndarray) -> np.ndarray:
        """The actor's actions with noise, within -1..1."""
        normal = self.experience.random.standard_normal((len(features), self.policy.size), np.float32)
        actions: np.ndarray = (self.policy.bounded(features) + np.float32(self.settings.exploration_noise) * normal).clip(-1, 1)
        return actions

    def targets(self, batch: Transitions, noise: np.ndarray) -> np.ndarray:
        """Fujimoto et al. 2018, equations 10 and 14, [B]: reward, and unless terminated the discounted value of what follows.

        `noise` is normal [B, n]; scaled and clipped it is added to the target actor's action.
        """
        settings, following = self.settings, batch.next_observations.numpy()
        disturbance = (settings.smoothing * noise).clip(-settings.smoothing_clip, settings.smoothing_clip)
        actions = np.tanh(answer(self.target_arrays, self.policy.activation, following)) + disturbance
        values = self.critics.least(np.column_stack((following, actions.clip(-1, 1))).astype(np.float32))
        targets: np.ndarray = batch.rewards.numpy()[:, 0] + settings.gamma * (1 - batch.terminated.numpy()[:, 0]) * values
        return targets

    def improve_critics(self, batch: Transitions, noise: np.ndarray) -> float:
        """One gradient step on half the squared error; returns it as it was before."""
        rows = np.column_stack((batch.observations.numpy(), batch.actions.numpy()))
        return self.critics.improve(rows, self.targets(batch, noise))

    def improve_actor(self, batch: Transitions) -> None:
        """One step up the first critic's value (Silver et al. 2014, equation 16)."""
        activation, observations = self.policy.activation, batch.observations.numpy()
        passed = passes(self.arrays, activation, observations)
        actions, first = np.tanh(passed[-1][0]), self.critics.networks.arrays(slice(0, 1))
        judged = passes(first, activation, np.column_stack((observations, actions)))
        by_value = np.full_like(judged[-1], -1 / len(observations))
        by_actions = backward(first, activation, judged, by_value, None)[0][:, -self.policy.size :]
        backward(self.arrays, activation, passed, (by_actions * (1 - actions * actions))[None], self.gradients)
        assert self.flat.grad is not None
        self.adam.step(self.flat.grad.numpy(), self.settings.learning_rate)


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
