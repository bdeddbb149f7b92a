"""Soft actor-critic: learns continuous actions from few steps of the environment.

The algorithm is SAC with two critics and a learned temperature (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and
Applications", Algorithm 1; its equations are named below). The actor is a Gaussian squashed by tanh; served are its mode, or
draws. Replay, critics and bounds are in `off_policy`. The file reads: what can be set, the actor, the targets, one phase.

Not covered: discrete actions, pixels, several gradient steps compiled into one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from training import policy_training
from training.off_policy import BoundedActor, Critics, OffPolicySettings, ReplayedExperience
from training.policies import LOG_STD_BOUNDS, Features, GaussianPolicy, LearntDeviation, Policy
from training.replay import Transitions
from training.small_networks import answer, descend, flatten
from training.trained import Trained

LOG_SQRT_TAU = 0.5 * np.log(2 * np.pi)


class Settings(OffPolicySettings):
    """Defaults are tuned for Pendulum-v1."""

    temperature: float = Field(default=1.0, gt=0, description="weight of the entropy at first; then it is learned")
    target_entropy: float | None = Field(default=None, description="in nats, of actions within -1..1; default: minus their number")


class SquashedGaussian(BoundedActor):
    """Mean and log deviation of every component, then tanh."""

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any]) -> None:
        super().__init__(settings, observation, action, outputs=2)

    def forward(self, features: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, w] and normal noise [B, n] to (actions in -1..1 [B, n], log probabilities [B, 1])."""
        mean, log_std = self.networks(features)[0].chunk(2, 1)
        log_std = log_std.clamp(*LOG_STD_BOUNDS)
        raw = mean + log_std.exp() * noise
        return raw.tanh(), squashed_log_probability(raw, noise, log_std)

    def explore(self, features: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same draw in NumPy, actions alone."""
        mean, log_std = np.split(answer(self.networks.arrays(), self.activation, features), 2, 1)
        actions: np.ndarray = np.tanh(mean + np.exp(log_std.clip(*LOG_STD_BOUNDS)) * noise)
        return actions

    def act(self, observations: np.ndarray) -> np.ndarray:
        """The actions of the mean."""
        mean = answer(self.networks.arrays(), self.activation, self.encoder(observations))[:, : self.size]
        return self.to_environment(np.tanh(mean))

    def served(self) -> Policy:
        """The graph, in eval mode, with weights of its own."""
        *body, mean = self.networks.layers(0, slice(self.size))
        log_std = self.networks.layers(0, slice(self.size, None))[-1]
        assert isinstance(log_std, nn.Linear)
        latent = nn.Sequential(Features(self.observation, None), *body)
        return GaussianPolicy(latent, mean, LearntDeviation(log_std), self.bounds).eval()


def squashed_log_probability(raw: torch.Tensor, noise: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Of tanh(raw), raw = mean + deviation * noise, all [B, n]: [B, 1].

    Haarnoja et al. 2018, appendix C, equation 21, with log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)), which keeps its
    digits where tanh is near 1.
    """
    squashing = 2 * (np.log(2) - raw - functional.softplus(-2 * raw))
    log_probability: torch.Tensor = -(0.5 * noise.square() + log_std + LOG_SQRT_TAU + squashing).sum(1, keepdim=True)
    return log_probability


class Learner:
    """SAC at work; a phase is some steps of all copies and the gradient steps for them."""

    loss, exploration = "critics' loss", "temperature"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, SquashedGaussian(settings, observation, action)
        self.flat = flatten(self.policy)
        self.optimizer = torch.optim.Adam([self.flat], settings.learning_rate, fused=True)
        self.critics = Critics(2, settings, self.policy.encoder.width + self.policy.size)
        self.log_temperature = torch.full((1,), settings.temperature).log()
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], settings.learning_rate, fused=True)
        self.target_entropy = -float(self.policy.size) if settings.target_entropy is None else settings.target_entropy
        self.replayed = ReplayedExperience(self.policy, settings, seed)
        self.experience = self.replayed.experience

    def phase(self) -> tuple[float, float]:
        """(the critics' loss on the last batch, the temperature)."""
        normal, loss = self.experience.random.standard_normal, torch.tensor(torch.nan)
        self.replayed.collect(lambda rows: self.policy.explore(rows, normal((len(rows), self.policy.size), np.float32)))
        for batch in self.replayed.batches():
            noise = torch.randn(2, *batch.actions.shape, generator=self.replayed.generator)
            loss = self.improve_critics(batch, noise[0])
            self.improve_actor(batch, noise[1])
            self.critics.follow(self.settings.polyak)
        return float(loss), float(self.log_temperature.exp())

    @torch.no_grad()
    def targets(self, batch: Transitions, noise: torch.Tensor) -> torch.Tensor:
        """Equations 3 and 5, [B, 1]: reward, and unless terminated the discounted soft value of what follows."""
        actions, log_probabilities = self.policy(batch.next_observations, noise)
        soft = self.critics.least(batch.next_observations, actions) - self.log_temperature.exp() * log_probabilities
        targets: torch.Tensor = batch.rewards + self.settings.gamma * (1 - batch.terminated) * soft
        return targets

    def improve_critics(self, batch: Transitions, noise: torch.Tensor) -> torch.Tensor:
        """One gradient step on equation 5; returns the loss before it."""
        errors = self.critics(batch.observations, batch.actions) - self.targets(batch, noise).squeeze(1)
        loss = 0.5 * errors.square().mean(1).sum()
        descend(loss, self.critics.flat, self.critics.optimizer, self.critics.networks)
        before: torch.Tensor = loss.detach()
        return before

    def improve_actor(self, batch: Transitions, noise: torch.Tensor) -> None:
        """One gradient step on equation 7, with the lesser of both critics, and one of the temperature on equation 18."""
        actions, log_probabilities = self.policy(batch.observations, noise)
        values = self.critics(batch.observations, actions).amin(0)
        loss = (self.log_temperature.exp() * log_probabilities.squeeze(1) - values).mean()
        descend(loss, self.flat, self.optimizer, self.policy)
        # by the logarithm instead of the temperature itself, so that it stays above 0; the direction is the same
        self.log_temperature.grad = -(log_probabilities.detach().mean() + self.target_entropy).reshape(1)
        self.temperature_optimizer.step()


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return policy_training.train(settings, seed, report, Learner)
