"""Soft actor-critic: learns continuous actions from few steps of the environment.

The algorithm is SAC with two critics and a learned temperature (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and
Applications", Algorithm 1; its equations are named below). The actor is a Gaussian squashed by tanh; served are its mode, or
draws. Gradients are written by hand. Replay, critics and bounds are in `off_policy`.
The file reads: what can be set, the actor, the targets, one phase.

Not covered: discrete actions, pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import nn

from training.policies import learning
from training.policies.graphs import LOG_STD_BOUNDS, Features, GaussianPolicy, LearntDeviation, Policy
from training.policies.off_policy import BoundedActor, Critics, OffPolicySettings, ReplayedExperience
from training.policies.replay import Transitions
from training.policies.small_networks import Adam, answer, backward, flatten, passes
from training.trained import Trained

LOG_SQRT_TAU, LOG_2 = float(0.5 * np.log(2 * np.pi)), float(np.log(2))


class Settings(OffPolicySettings):
    """Defaults are tuned for Pendulum-v1."""

    temperature: float = Field(default=1.0, gt=0, description="weight of the entropy at first; then it is learned")
    target_entropy: float | None = Field(default=None, description="in nats, of actions within -1..1; default: minus their number")


class SquashedGaussian(BoundedActor):
    """Mean and log deviation of every component, then tanh."""

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any]) -> None:
        super().__init__(settings, observation, action, outputs=2)

    def draw(self, passed: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The network's outputs [B, 2 n] and normal noise [B, n] to (actions in -1..1 [B, n], log probabilities [B], deviations)."""
        log_std = passed[:, self.size :].clip(*LOG_STD_BOUNDS)
        deviation = np.exp(log_std)
        raw = passed[:, : self.size] + deviation * noise
        return np.tanh(raw), squashed_log_probability(raw, noise, log_std), deviation

    def explore(self, features: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Actions alone."""
        return self.draw(answer(self.networks.arrays(), self.activation, features), noise)[0]

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


def squashed_log_probability(raw: np.ndarray, noise: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """Of tanh(raw), raw = mean + deviation * noise, all [B, n]: [B].

    Haarnoja et al. 2018, appendix C, equation 21, with log(1 - tanh(x)^2) = 2 (log 2 - x - log(1 + exp(-2 x))), which keeps its
    digits where tanh is near 1.
    """
    squashing = 2 * (LOG_2 - raw - np.logaddexp(0, -2 * raw))
    logarithms: np.ndarray = -(0.5 * noise * noise + log_std + LOG_SQRT_TAU + squashing).sum(1)
    return logarithms


class Learner:
    """SAC at work; a phase is some steps of all copies and the gradient steps for them."""

    loss, exploration = "critics' loss", "temperature"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, SquashedGaussian(settings, observation, action)
        self.flat = flatten(self.policy)
        self.arrays, self.gradients = self.policy.networks.arrays(slice(None)), self.policy.networks.gradients()
        self.adam = Adam(self.flat.detach().numpy(), epsilon=1e-8)
        self.critics = Critics(2, settings, self.policy.encoder.width + self.policy.size)
        self.log_temperature = np.full(1, np.log(settings.temperature), np.float32)
        self.temperature_adam = Adam(self.log_temperature, epsilon=1e-8)
        self.target_entropy = -float(self.policy.size) if settings.target_entropy is None else settings.target_entropy
        self.replayed = ReplayedExperience(self.policy, settings, seed)
        self.experience = self.replayed.experience

    def phase(self) -> tuple[float, float]:
        """(the critics' loss on the last batch, the temperature)."""
        normal, loss = self.experience.random.standard_normal, float("nan")
        self.replayed.collect(lambda rows: self.policy.explore(rows, normal((len(rows), self.policy.size), np.float32)))
        for batch in self.replayed.batches():
            noise = normal((2, *batch.actions.shape), np.float32)
            loss = self.improve_critics(batch, noise[0])
            self.improve_actor(batch, noise[1])
            self.critics.follow(self.settings.polyak)
        return loss, float(np.exp(self.log_temperature[0]))

    def targets(self, batch: Transitions, noise: np.ndarray) -> np.ndarray:
        """Equations 3 and 5, [B]: reward, and unless terminated the discounted soft value of what follows."""
        following = batch.next_observations.numpy()
        actions, log_probabilities, _ = self.policy.draw(answer(self.arrays, self.policy.activation, following)[0], noise)
        soft = self.critics.least(np.column_stack((following, actions))) - np.exp(self.log_temperature) * log_probabilities
        targets: np.ndarray = batch.rewards.numpy()[:, 0] + self.settings.gamma * (1 - batch.terminated.numpy()[:, 0]) * soft
        return targets

    def improve_critics(self, batch: Transitions, noise: np.ndarray) -> float:
        """One gradient step on equation 5, half the mean squared error of each critic; returns it as it was before."""
        rows = np.column_stack((batch.observations.numpy(), batch.actions.numpy()))
        return self.critics.improve(rows, self.targets(batch, noise))

    def improve_actor(self, batch: Transitions, noise: np.ndarray) -> None:
        """One gradient step on equation 7, with the lesser of both critics, and one of the temperature on equation 18.

        With u = mean + deviation * noise and a = tanh(u), d log pi(a) / du = 2 a, and by the logarithm of the deviation it is -1 more.
        """
        observations, size, count = batch.observations.numpy(), self.policy.size, np.float32(len(batch.rewards))
        passed = passes(self.arrays, self.policy.activation, observations)
        actions, log_probabilities, deviation = self.policy.draw(passed[-1][0], noise)
        judged = passes(self.critics.arrays, self.policy.activation, np.column_stack((observations, actions)))
        least = judged[-1] == judged[-1].min(0)
        by_input = backward(self.critics.arrays, self.policy.activation, judged, least / -count, None)
        weight = np.exp(self.log_temperature) / count
        by_raw = by_input.sum(0)[:, -size:] * (1 - actions * actions) + weight * 2 * actions
        log_std = passed[-1][0][:, size:]
        free = (log_std > LOG_STD_BOUNDS[0]) & (log_std < LOG_STD_BOUNDS[1])
        by_output = np.concatenate((by_raw, (by_raw * deviation * noise - weight) * free), 1)[None]
        backward(self.arrays, self.policy.activation, passed, by_output, self.gradients)
        assert self.flat.grad is not None
        self.adam.step(self.flat.grad.numpy(), self.settings.learning_rate)
        # by the logarithm instead of the temperature itself, so that it stays above 0; the direction is the same
        by_temperature = np.array([-(log_probabilities.mean() + self.target_entropy)], np.float32)
        self.temperature_adam.step(by_temperature, self.settings.learning_rate)


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
