"""Curiosity by random network distillation, for environments whose own rewards are rare.

The method is that of Burda et al. 2018, "Exploration by Random Network Distillation", section 2: a predictor
learns the outputs of a fixed random network, and its error, large for observations that it has rarely seen,
is an intrinsic reward. That reward has a critic of its own, and its return doesn't stop at the ends of
episodes. Only the policy is served.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from marina.core.spec import Section
from training.policies.networks.encoders import ObservationEncoder, RunningMeanStd
from training.policies.networks.mlp import BatchedMLP, backward, forward, forward_all
from training.policies.networks.optim import Adam, flatten
from training.policies.spaces import ObservationSpec
from training.policies.state import Stateful

CLIP_OBS = 5.0  # section 2.4


class IntrinsicSettings(Section):
    """How curious a policy is in training."""

    renamed: ClassVar[dict[str, str]] = {
        "weight": "int_coef",
        "extrinsic_weight": "ext_coef",
        "share": "update_proportion",
    }

    int_coef: float = Field(
        default=1.0,
        gt=0,
        description="weight of the intrinsic advantages; intrinsic rewards are scaled to returns of std 1",
    )
    ext_coef: float = Field(
        default=2.0, ge=0, description="weight of the environment's advantages; 0: intrinsic rewards alone"
    )
    gamma: float = Field(default=0.99, ge=0, lt=1, description="discount per step of intrinsic rewards")
    outputs: int = Field(default=32, ge=1, description="outputs of the random network, which are predicted")
    hidden: tuple[int, ...] = Field(
        default=(32,), description="units of the hidden layers of target, predictor and critic"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="of Adam, for predictor and critic")
    update_proportion: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="share of transitions for the predictor; less keeps rewards up longer",
    )


class MLPRegressor(Stateful):
    """One perceptron that learns by least squares."""

    state_parts = ("network", "adam")

    def __init__(self, sizes: Sequence[int], learning_rate: float) -> None:
        self.network = BatchedMLP(1, sizes, "relu").init_orthogonal((1.0,))
        flat = flatten(self.network)
        assert flat.grad is not None
        self.grad, self.learning_rate = flat.grad.numpy(), learning_rate
        self.adam = Adam(flat.detach().numpy())
        self.layers, self.grads = self.network.numpy_layers(slice(None)), self.network.numpy_grads()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Float32 [B, n] to [B, m]."""
        predictions: np.ndarray = forward(self.layers, "relu", x)[0]
        return predictions

    def step(self, x: np.ndarray, targets: np.ndarray) -> None:
        """One gradient step on the mean squared error against `targets`, [B, m], summed over m."""
        outputs = forward_all(self.layers, "relu", x)
        backward(self.layers, "relu", outputs, 2 / len(x) * (outputs[-1] - targets), self.grads)
        self.adam.step(self.grad, self.learning_rate)


class Curiosity(Stateful):
    """Target, predictor and the critic of intrinsic returns."""

    state_parts = ("target_network", "predictor", "critic", "obs_stats", "return_stats")
    state_arrays = ("discounted",)

    def __init__(
        self, settings: IntrinsicSettings, spec: ObservationSpec, num_envs: int, gae_lambda: float
    ) -> None:
        self.settings, self.gae_lambda = settings, gae_lambda
        self.encoder = ObservationEncoder(spec, normalize=False)
        width = self.encoder.width
        sizes = (width, *settings.hidden, settings.outputs)
        self.target_network = BatchedMLP(1, sizes, "relu").init_orthogonal((1.0,))
        self.target = self.target_network.numpy_layers()
        self.predictor = MLPRegressor(sizes, settings.learning_rate)
        self.critic = MLPRegressor((width, *settings.hidden, 1), settings.learning_rate)
        self.obs_stats, self.return_stats = RunningMeanStd(width), RunningMeanStd(1)
        self.discounted = np.zeros(num_envs)

    def advantages(self, obs: np.ndarray) -> np.ndarray:
        """Intrinsic advantages, float32 [T, num_envs], of observations [T + 1, num_envs, ...].

        Generalized advantages whose episodes never end: the step from an end to a new start counts as any
        other. Observations and rewards are scaled by what has come so far, this included (section 2.4).
        """
        steps, num_envs = len(obs) - 1, obs.shape[1]
        x = self.encoder(obs.reshape(-1, *obs.shape[2:]))
        self.obs_stats.update(x[num_envs:])
        scaled = (x - self.obs_stats.mean) / np.sqrt(self.obs_stats.var + 1e-8)
        self.x = scaled.clip(-CLIP_OBS, CLIP_OBS).astype(np.float32)
        errors = self.prediction_error(self.x[num_envs:]).reshape(steps, num_envs)
        rewards = errors / self._reward_scale(errors)
        values = self.critic(self.x).reshape(steps + 1, num_envs)
        advantages, next_advantage = np.empty_like(values[1:]), np.zeros(num_envs, np.float32)
        deltas = rewards + self.settings.gamma * values[1:] - values[:-1]
        decay = self.settings.gamma * self.gae_lambda
        for step in reversed(range(steps)):
            next_advantage = advantages[step] = deltas[step] + decay * next_advantage
        self.returns = (advantages + values[:-1]).reshape(-1, 1)
        return advantages

    def prediction_error(self, x: np.ndarray) -> np.ndarray:
        """The intrinsic reward before scaling: mean squared errors [B] at scaled observations [B, w]."""
        errors: np.ndarray = np.square(self.predictor(x) - forward(self.target, "relu", x)).mean(1)
        return errors

    def train(self, rng: np.random.Generator, n_epochs: int, batch_size: int) -> None:
        """Go over the last rollout `n_epochs` times, in batches of about `batch_size`."""
        num_envs = len(self.discounted)
        x, next_x = self.x[:-num_envs], self.x[num_envs:]
        targets = forward(self.target, "relu", next_x)
        for _ in range(n_epochs):
            for batch in np.array_split(rng.permutation(len(x)), max(1, round(len(x) / batch_size))):
                self.critic.step(x[batch], self.returns[batch])
                part = batch[: max(1, round(self.settings.update_proportion * len(batch)))]
                self.predictor.step(next_x[part], targets[part])

    def _reward_scale(self, errors: np.ndarray) -> float:
        """The standard deviation of discounted sums of all prediction errors so far."""
        sums = np.empty(errors.shape)
        for step, error in enumerate(errors):
            sums[step] = self.discounted = self.settings.gamma * self.discounted + error
        self.return_stats.update(sums.reshape(-1, 1))
        return max(float(np.sqrt(self.return_stats.var[0])), 1e-8)
