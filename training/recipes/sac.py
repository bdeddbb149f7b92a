"""Soft actor-critic: learns continuous actions from few steps of the environment.

The algorithm is SAC with two critics and a learned temperature (Haarnoja et al. 2018, "Soft Actor-Critic
Algorithms and Applications", Algorithm 1; its equations are named below). The actor is a Gaussian squashed by
tanh; served are its mode, or samples. Gradients are written by hand.

The whole story is in this file (settings, actor, targets, gradient steps), policies/loops/off_policy.py (the
replay), policies/networks/critics.py and policies/loops/learning.py (the training loop).
policies/networks/reference_losses.py has the losses as the paper writes them.

Not covered: discrete actions, images.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import nn

from training.export.trained import Trained
from training.policies.buffers.replay import Transitions
from training.policies.graphs.features import LOG_STD_BOUNDS, LearnedStd, ObservationFeatures
from training.policies.graphs.policies import GaussianPolicy, Policy
from training.policies.loops import learning
from training.policies.loops.off_policy import BoundedActor, OffPolicyLearner, OffPolicySettings
from training.policies.networks.critics import Critics
from training.policies.networks.mlp import backward, forward, forward_all
from training.policies.networks.optim import Adam
from training.policies.spaces import ActionSpec, ObservationSpec
from training.runs.run import Run

LOG_SQRT_TAU, LOG_2 = float(0.5 * np.log(2 * np.pi)), float(np.log(2))

METRICS = (*learning.RETURN_METRICS, "steps")


class Settings(OffPolicySettings):
    """Defaults are tuned for Pendulum-v1."""

    temperature: float = Field(
        default=1.0, gt=0, description="initial weight of the entropy, alpha; it is learned"
    )
    target_entropy: float | None = Field(
        default=None, description="in nats, of actions within -1..1; default: minus their number"
    )


class SquashedGaussianActor(BoundedActor):
    """Mean and log std of every component, then tanh."""

    def __init__(self, settings: Settings, observations: ObservationSpec, actions: ActionSpec) -> None:
        super().__init__(settings, observations, actions, outputs_per_action=2)

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(actions in -1..1 [B, n], log probabilities [B], stds [B, n]).

        `outputs` are the network's, [B, 2 n], and `noise` is standard normal [B, n].
        """
        log_std = outputs[:, self.action_size :].clip(*LOG_STD_BOUNDS)
        std = np.exp(log_std)
        raw = outputs[:, : self.action_size] + std * noise
        return np.tanh(raw), squashed_log_prob(raw, noise, log_std), std

    def explore(self, features: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Sampled actions alone."""
        return self.sample(forward(self.networks.numpy_layers(), self.activation, features), noise)[0]

    def act(self, obs: np.ndarray) -> np.ndarray:
        """The actions of the mean."""
        outputs = forward(self.networks.numpy_layers(), self.activation, self.encoder(obs))
        return self.to_environment(np.tanh(outputs[:, : self.action_size]))

    def build_graph(self) -> Policy:
        """The served graph, in eval mode, with a copy of the weights."""
        *body, mean = self.networks.to_modules(0, slice(self.action_size))
        log_std = self.networks.to_modules(0, slice(self.action_size, None))[-1]
        assert isinstance(log_std, nn.Linear)
        latent = nn.Sequential(ObservationFeatures(self.observation_spec, None), *body)
        return GaussianPolicy(latent, mean, LearnedStd(log_std), self.bounds).eval()


def squashed_log_prob(raw: np.ndarray, noise: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """Log probability [B] of tanh(raw), raw = mean + std * noise, all [B, n].

    Haarnoja et al. 2018, appendix C, equation 21, with log(1 - tanh(x)^2) = 2 (log 2 - x - log(1 + exp(-2
    x))), which is accurate where tanh is near 1.
    """
    log_derivative = 2 * (LOG_2 - raw - np.logaddexp(0, -2 * raw))
    log_probs: np.ndarray = -(0.5 * noise * noise + log_std + LOG_SQRT_TAU + log_derivative).sum(1)
    return log_probs


class Learner(OffPolicyLearner[Settings, SquashedGaussianActor]):
    """SAC; an iteration is `train_freq` steps of all environments and the gradient steps for them."""

    exploration_name = "temperature"
    state_arrays: ClassVar = ("log_temperature",)
    state_parts: ClassVar = (*OffPolicyLearner.state_parts, "temperature_adam")

    def __init__(
        self, settings: Settings, observations: ObservationSpec, actions: ActionSpec, seed: int
    ) -> None:
        super().__init__(settings, SquashedGaussianActor(settings, observations, actions), seed)
        width = self.policy.encoder.width + self.policy.action_size
        self.critics = Critics(2, width, settings.hidden, settings.activation, settings.learning_rate)
        self.log_temperature = np.full(1, np.log(settings.temperature), np.float32)
        self.temperature_adam = Adam(self.log_temperature, eps=1e-8)
        self.target_entropy = settings.target_entropy
        if self.target_entropy is None:
            self.target_entropy = -float(self.policy.action_size)

    def iteration(self) -> tuple[float, float]:
        """(the critics' loss on the last batch, the temperature)."""
        sample_normal, loss = self.envs.rng.standard_normal, float("nan")
        size = self.policy.action_size
        self.collector.collect(
            lambda features: self.policy.explore(features, sample_normal((len(features), size), np.float32))
        )
        for batch in self.collector.batches():
            noise = sample_normal((2, *batch.actions.shape), np.float32)
            loss = self.update_critics(batch, noise[0])
            self.update_actor(batch, noise[1])
            self.critics.soft_update(self.settings.tau)
        return loss, float(np.exp(self.log_temperature[0]))

    def targets(self, batch: Transitions, noise: np.ndarray) -> np.ndarray:
        """Equations 3 and 5, [B]: reward, and unless terminated the discounted soft value of next_obs."""
        next_obs = batch.next_obs.numpy()
        outputs = forward(self.layers, self.policy.activation, next_obs)[0]
        actions, log_probs, _ = self.policy.sample(outputs, noise)
        min_q = self.critics.min_q(np.column_stack((next_obs, actions)))
        soft_values = min_q - np.exp(self.log_temperature) * log_probs
        not_terminated = 1 - batch.terminated.numpy()[:, 0]
        targets: np.ndarray = batch.rewards.numpy()[:, 0] + self.settings.gamma * not_terminated * soft_values
        return targets

    def update_actor(self, batch: Transitions, noise: np.ndarray) -> None:
        """One gradient step on equation 7, by the smaller Q-value, and one of the temperature on equation 18.

        With u = mean + std * noise and a = tanh(u), d log pi(a) / du = 2 a, and by log std it is -1 more.
        """
        obs, size, count = batch.obs.numpy(), self.policy.action_size, np.float32(len(batch.rewards))
        outputs = forward_all(self.layers, self.policy.activation, obs)
        actions, log_probs, std = self.policy.sample(outputs[-1][0], noise)
        critics = self.critics
        q_outputs = forward_all(critics.layers, critics.activation, np.column_stack((obs, actions)))
        is_min = q_outputs[-1] == q_outputs[-1].min(0)
        grad_input = backward(critics.layers, critics.activation, q_outputs, is_min / -count, None)
        weight = np.exp(self.log_temperature) / count
        grad_raw = grad_input.sum(0)[:, -size:] * (1 - actions * actions) + weight * 2 * actions
        log_std = outputs[-1][0][:, size:]
        is_unclipped = (log_std > LOG_STD_BOUNDS[0]) & (log_std < LOG_STD_BOUNDS[1])
        grad_log_std = (grad_raw * std * noise - weight) * is_unclipped
        grad_outputs = np.concatenate((grad_raw, grad_log_std), 1)[None]
        self.step_actor(outputs, grad_outputs)
        # by the logarithm of the temperature, so that it stays above 0; the direction is the same
        grad_temperature = np.array([-(log_probs.mean() + self.target_entropy)], np.float32)
        self.temperature_adam.step(grad_temperature, self.settings.learning_rate)


def train(settings: Settings, run: Run) -> Trained:
    """Learn until the target return is confirmed or the steps are used up; hand over the best policy.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    return learning.train(settings, run, Learner)
