"""Curiosity by random network distillation: what has been seen seldom pays, where an environment pays too seldom.

The method is that of Burda et al. 2018, "Exploration by Random Network Distillation", section 2: a predictor learns what a fixed random
network makes of the observations that are met, and its error, large where it has learned little, is an intrinsic reward. Beside the
environment's stream of rewards stands this second one, with a critic of its own; its return goes on over the ends of episodes, as
losing a game costs nothing new. Served is the policy alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from marina.spec import Section
from training.policies.observations import ObservationEncoder, RunningStatistics
from training.policies.small_networks import Adam, Perceptrons, answer, backward, flatten, passes

CLIP = 5.0  # section 2.4


class IntrinsicSettings(Section):
    """How curious a policy is while it learns."""

    weight: float = Field(default=1.0, gt=0, description="of the intrinsic advantages; its rewards are scaled to returns of deviation 1")
    extrinsic_weight: float = Field(default=2.0, ge=0, description="of the environment's advantages; 0: curiosity alone")
    gamma: float = Field(default=0.99, ge=0, lt=1, description="discount per step of intrinsic rewards")
    outputs: int = Field(default=32, ge=1, description="numbers that the predictor has to guess")
    hidden: tuple[int, ...] = Field(default=(32,), description="units of the hidden layers of target, predictor and critic")
    learning_rate: float = Field(default=1e-4, gt=0, description="of Adam, for predictor and critic")
    share: float = Field(
        default=0.25, gt=0, le=1, description="of the transitions that the predictor learns from; less forgets novelty later"
    )


class Regression:
    """One perceptron that learns by least squares."""

    def __init__(self, sizes: Sequence[int], learning_rate: float) -> None:
        self.networks = Perceptrons(1, sizes, "relu").orthogonal((1.0,))
        flat = flatten(self.networks)
        assert flat.grad is not None
        self.gradient, self.learning_rate = flat.grad.numpy(), learning_rate
        self.adam = Adam(flat.detach().numpy())
        self.arrays, self.gradients = self.networks.arrays(slice(None)), self.networks.gradients()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Float32 [B, n] to [B, m]."""
        found: np.ndarray = answer(self.arrays, "relu", rows)[0]
        return found

    def fit(self, rows: np.ndarray, wanted: np.ndarray) -> None:
        """One gradient step of the mean squared distance to `wanted`, [B, m]."""
        passed = passes(self.arrays, "relu", rows)
        backward(self.arrays, "relu", passed, 2 / len(rows) * (passed[-1] - wanted), self.gradients)
        self.adam.step(self.gradient, self.learning_rate)


class Curiosity:
    """Target, predictor and the critic of intrinsic returns."""

    def __init__(self, settings: IntrinsicSettings, observation: dict[str, Any], copies: int, gae_lambda: float) -> None:
        self.settings, self.gae_lambda = settings, gae_lambda
        self.encoder = ObservationEncoder(observation, normalise=False)
        width = self.encoder.width
        self.target = Perceptrons(1, (width, *settings.hidden, settings.outputs), "relu").orthogonal((1.0,)).arrays()
        self.predictor = Regression((width, *settings.hidden, settings.outputs), settings.learning_rate)
        self.critic = Regression((width, *settings.hidden, 1), settings.learning_rate)
        self.seen, self.earned, self.discounted = RunningStatistics(width), RunningStatistics(1), np.zeros(copies)

    def advantages(self, observations: np.ndarray) -> np.ndarray:
        """Intrinsic advantages, float32 [T, copies], of the steps that lead from observation to observation, [T + 1, copies, ...].

        Generalised advantages whose episodes never end: the step from an end to a new start counts as any other. Observations
        and rewards are scaled by what has come so far, this included (section 2.4).
        """
        steps, copies = len(observations) - 1, observations.shape[1]
        rows = self.encoder(observations.reshape(-1, *observations.shape[2:]))
        self.seen.update(rows[copies:])
        self.rows = ((rows - self.seen.mean) / np.sqrt(self.seen.var + 1e-8)).clip(-CLIP, CLIP).astype(np.float32)
        novelty = self.novelty(self.rows[copies:]).reshape(steps, copies)
        rewards = novelty / self._scale(novelty)
        values = self.critic(self.rows).reshape(steps + 1, copies)
        advantages, following = np.empty_like(values[1:]), np.zeros(copies, np.float32)
        deltas = rewards + self.settings.gamma * values[1:] - values[:-1]
        for step in reversed(range(steps)):
            following = advantages[step] = deltas[step] + self.settings.gamma * self.gae_lambda * following
        self.returns = (advantages + values[:-1]).reshape(-1, 1)
        return advantages

    def novelty(self, rows: np.ndarray) -> np.ndarray:
        """The predictor's mean squared error at scaled observations, float32 [B, w]: [B]."""
        found: np.ndarray = np.square(self.predictor(rows) - answer(self.target, "relu", rows)).mean(1)
        return found

    def learn(self, random: np.random.Generator, epochs: int, batch_size: int) -> None:
        """Go over the last rollout `epochs` times, in batches of about `batch_size`."""
        copies = len(self.discounted)
        before, after = self.rows[:-copies], self.rows[copies:]
        targets = answer(self.target, "relu", after)
        for _ in range(epochs):
            for chosen in np.array_split(random.permutation(len(before)), max(1, round(len(before) / batch_size))):
                self.critic.fit(before[chosen], self.returns[chosen])
                some = chosen[: max(1, round(self.settings.share * len(chosen)))]
                self.predictor.fit(after[some], targets[some])

    def _scale(self, novelty: np.ndarray) -> float:
        """The deviation of discounted sums of all novelty so far."""
        sums = np.empty(novelty.shape)
        for step, now in enumerate(novelty):
            sums[step] = self.discounted = self.settings.gamma * self.discounted + now
        self.earned.update(sums.reshape(-1, 1))
        return max(float(np.sqrt(self.earned.var[0])), 1e-8)
