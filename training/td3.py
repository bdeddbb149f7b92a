"""Twin delayed deep deterministic policy gradient: learns continuous actions without a distribution.

The algorithm is TD3 (Fujimoto, van Hoof and Meger 2018, "Addressing Function Approximation Error in Actor-Critic Methods",
Algorithm 1). With `critics: 1, policy_delay: 1, smoothing: 0` it is DDPG (Lillicrap et al. 2016, "Continuous control with deep
reinforcement learning", Algorithm 1), with independent normal noise for exploration instead of a correlated one. Replay, critics
and bounds are in `off_policy`. The file reads: what can be set, the actor, the targets, one phase.

Not covered: pixels; a served policy that explores.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from training.policies import learning
from training.policies.graphs import DeterministicPolicy, Features, Policy
from training.policies.off_policy import BoundedActor, Critics, OffPolicySettings, ReplayedExperience
from training.policies.replay import Transitions
from training.policies.small_networks import Perceptrons, answer, descend, flatten
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

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, w] to actions in -1..1 [B, n]."""
        return self.networks(features)[0].tanh()  # type: ignore[no-any-return]

    def bounded(self, features: np.ndarray) -> np.ndarray:
        """The same in NumPy."""
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
        self.optimizer = torch.optim.Adam([self.flat], settings.learning_rate, fused=True)
        self.critics = Critics(settings.critics, settings, self.policy.encoder.width + self.policy.size)
        self.replayed = ReplayedExperience(self.policy, settings, seed)
        self.experience = self.replayed.experience
        self.steps = 0  # gradient steps of the critics

    def phase(self) -> tuple[float, float]:
        """(the critics' loss on the last batch, the deviation of the noise)."""
        loss = torch.tensor(torch.nan)
        self.replayed.collect(self.explore)
        for batch in self.replayed.batches():
            noise = torch.randn(batch.actions.shape, generator=self.replayed.generator)
            loss = self.improve_critics(batch, noise)
            self.steps += 1
            if self.steps % self.settings.policy_delay == 0:
                self.improve_actor(batch)
                self.critics.follow(self.settings.polyak)
                self.flat_target.data.lerp_(self.flat.data, self.settings.polyak)
        return float(loss), self.settings.exploration_noise

    def explore(self, features: np.ndarray) -> np.ndarray:
        """The actor's actions with noise, within -1..1."""
        normal = self.experience.random.standard_normal((len(features), self.policy.size), np.float32)
        actions: np.ndarray = (self.policy.bounded(features) + np.float32(self.settings.exploration_noise) * normal).clip(-1, 1)
        return actions

    @torch.no_grad()
    def targets(self, batch: Transitions, noise: torch.Tensor) -> torch.Tensor:
        """Fujimoto et al. 2018, equations 10 and 14, [B, 1]: reward, and unless terminated the discounted value of what follows.

        `noise` is normal [B, n]; scaled and clipped it is added to the target actor's action.
        """
        disturbance = (self.settings.smoothing * noise).clamp(-self.settings.smoothing_clip, self.settings.smoothing_clip)
        actions = (self.target(batch.next_observations)[0].tanh() + disturbance).clamp(-1, 1)
        following = self.critics.least(batch.next_observations, actions)
        targets: torch.Tensor = batch.rewards + self.settings.gamma * (1 - batch.terminated) * following
        return targets

    def improve_critics(self, batch: Transitions, noise: torch.Tensor) -> torch.Tensor:
        """One gradient step on the squared error; returns it as it was before."""
        errors = self.critics(batch.observations, batch.actions) - self.targets(batch, noise).squeeze(1)
        loss = errors.square().mean(1).sum()
        descend(loss, self.critics.flat, self.critics.optimizer, self.critics.networks)
        before: torch.Tensor = loss.detach()
        return before

    def improve_actor(self, batch: Transitions) -> None:
        """One step up the first critic's value (Silver et al. 2014, equation 16)."""
        loss = -self.critics(batch.observations, self.policy(batch.observations))[0].mean()
        descend(loss, self.flat, self.optimizer, self.policy)


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
