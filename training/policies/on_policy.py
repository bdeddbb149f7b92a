"""What the policy gradient methods share: actor and critic, rollouts by the present policy, advantages.

A rollout steps all copies of the environment `horizon` times. Acting goes through NumPy, one row per copy; values and log
probabilities of the whole rollout are then one pass. Copies reset on the step after an end (gymnasium's next-step autoreset):
the row after an end is made up, and is left out; the row of the end keeps the true last observation, from which a truncated
episode bootstraps and a terminated one doesn't.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from training.policies.curiosity import Curiosity
from training.policies.distributions import Branches, Categorical, Gaussian, forbid
from training.policies.graphs import (
    Bounds,
    CategoricalPolicy,
    ConstantDeviation,
    Features,
    GaussianPolicy,
    MultiCategoricalPolicy,
    Policy,
    action_size,
    branch_sizes,
)
from training.policies.learning import Experience, LearningSettings
from training.policies.observations import ObservationEncoder
from training.policies.small_networks import Adam, Perceptrons, answer, backward, flatten, passes


class OnPolicySettings(LearningSettings):
    """What A2C, PPO and REINFORCE have."""

    hidden: tuple[int, ...] = Field(default=(64, 64), description="units of the hidden layers, of actor and critic each")
    activation: Literal["tanh", "relu"] = Field(default="tanh", description="of the hidden layers")
    copies: int = Field(default=32, ge=1, le=1024, description="environments that step together")
    horizon: int = Field(default=32, ge=1, description="steps of every copy per rollout")
    gamma: float = Field(default=0.98, ge=0, le=1, description="discount per step")
    gae_lambda: float = Field(default=0.8, ge=0, le=1, description="0 trusts the critic, 1 the rewards that came")
    learning_rate: float = Field(default=1e-3, gt=0, description="of Adam")
    decay: bool = Field(default=True, description="the learning rate falls linearly, to 0 at the last of `steps`")
    entropy_weight: float = Field(default=0.0, ge=0, description="of the entropy in the objective: above 0 keeps exploring")
    gradient_norm: float = Field(default=0.5, ge=0, description="a longer gradient is shortened to this; 0: never")
    log_std: float = Field(default=0.0, ge=-5, le=2, description="where the logarithm of continuous actions' deviation starts")
    normalise_observations: bool = Field(default=False, description="by their running mean and variance, also when served")
    scale_rewards: bool = Field(default=False, description="by the running deviation of the discounted return, while learning")


class ActorCritic(nn.Module):
    """Actor and critic of one size, side by side: a categorical policy, or a Gaussian whose deviation doesn't depend on the state.

    Raw actions, as the policy draws them, are int64 [B, branches] or unclipped float32 [B, n]; Discrete actions have one branch.
    """

    def __init__(self, settings: OnPolicySettings, observation: dict[str, Any], action: dict[str, Any]) -> None:
        super().__init__()
        self.observation, self.action, self.activation = observation, action, settings.activation
        self.encoder, self.size = ObservationEncoder(observation, settings.normalise_observations), action_size(action)
        sizes = (self.encoder.width, *settings.hidden, self.size)
        # a small last gain of the actor: at first all actions are about as likely (Andrychowicz et al. 2021, section 3.2)
        self.networks = Perceptrons(2, sizes, settings.activation).orthogonal((0.01, 1.0))
        choices = branch_sizes(action)
        self.branches = Branches(choices) if choices else None
        self.log_std = None if choices else nn.Parameter(torch.full((self.size,), settings.log_std))
        self.value_scale = 1.0  # rewards are divided by it while learning
        self.bounds = None if choices else Bounds(action, squashed=False)

    @torch.no_grad()
    def forget_values(self) -> None:
        """Let the critic say 0 everywhere, so that advantages are returns."""
        self.networks.weights[-1][1].zero_()
        self.networks.biases[-1][1].zero_()

    def distribution(self, scores: np.ndarray) -> Categorical | Gaussian:
        """Of raw actions, by logits or means [B, n]."""
        if self.log_std is None:
            assert self.branches is not None
            return Categorical(scores, self.branches)
        return Gaussian(scores, self.log_std.detach().numpy())

    def judge(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 [B, w] to (logits or means [B, n], scaled values [B])."""
        scores, values = answer(self.networks.arrays(slice(None)), self.activation, features)
        return scores, values[:, 0]

    def raw(self, scores: np.ndarray) -> np.ndarray:
        """The most probable raw actions by logits or means [B, n]; with noise added, those that it draws."""
        return scores if self.branches is None else self.branches.likeliest(scores)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Raw actions as the environment takes them: continuous ones clipped to their bounds, a single choice as a number."""
        if self.bounds is None:
            return actions[:, 0] if self.action["type"] == "discrete" else actions
        shaped: np.ndarray = actions.reshape(-1, *self.bounds.shape).clip(self.bounds.low.numpy(), self.bounds.high.numpy())
        return shaped

    def act(self, observations: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """The most probable actions, of those that are `allowed` (bool [B, n], None: all)."""
        scores = answer(self.networks.arrays(), self.activation, self.encoder(observations))
        return self.to_environment(self.raw(forbid(scores, allowed)))

    def served(self) -> Policy:
        """The graph, in eval mode, with weights of its own."""
        features = Features(self.observation, self.encoder.statistics())
        layers, value = self.networks.layers(0), self.networks.layers(1, slice(1))
        head, last = layers[-1], value[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(self.value_scale)
            last.bias.mul_(self.value_scale)
        critic = nn.Sequential(features, *value)
        if self.action["type"] == "discrete":
            return CategoricalPolicy(nn.Sequential(features, *layers), critic).eval()
        if self.log_std is None or self.bounds is None:
            return MultiCategoricalPolicy(nn.Sequential(features, *layers), critic, self.action["nvec"]).eval()
        deviation = ConstantDeviation(self.log_std.detach().clone())
        return GaussianPolicy(nn.Sequential(features, *layers[:-1]), head, deviation, self.bounds, critic).eval()


@dataclass(frozen=True)
class Rollout:
    """N transitions by one policy; float32, but for choices (int64) and masks (bool)."""

    features: np.ndarray  # [N, w]
    actions: np.ndarray  # [N, branches], or [N, n] unclipped
    log_probabilities: np.ndarray  # [N]
    values: np.ndarray  # [N], the critic's
    advantages: np.ndarray  # [N]
    returns: np.ndarray  # [N], what the critic should have said
    allowed: np.ndarray | None = None  # [N, n], the choices; None: all

    def __len__(self) -> int:
        return len(self.advantages)

    def rows(self, chosen: np.ndarray | slice) -> "Rollout":
        """Those at int64 [M]."""
        return Rollout(
            self.features[chosen],
            self.actions[chosen],
            self.log_probabilities[chosen],
            self.values[chosen],
            self.advantages[chosen],
            self.returns[chosen],
            None if self.allowed is None else self.allowed[chosen],
        )

    def standard_advantages(self) -> np.ndarray:
        """With mean 0 and deviation 1, [N]."""
        centred = self.advantages - self.advantages.mean()
        standard: np.ndarray = centred / (np.sqrt(centred @ centred / max(len(centred) - 1, 1)) + 1e-8)
        return standard


class Ascent:
    """Gradient steps of an actor and its critic, by Adam; a loss is given by its derivatives, as the recipes write them."""

    def __init__(self, agent: ActorCritic, settings: OnPolicySettings) -> None:
        self.agent, self.settings = agent, settings
        flat = flatten(agent)
        assert flat.grad is not None
        self.gradient = flat.grad.numpy()
        self.adam = Adam(flat.detach().numpy())
        self.arrays, self.gradients = agent.networks.arrays(slice(None)), agent.networks.gradients()
        self.left = 1.0  # of the learning rate

    def judge(self, batch: Rollout) -> tuple[np.ndarray, np.ndarray]:
        """(log probabilities of the actions, values), [B] each, by the present parameters; `step` is to follow."""
        self.batch, self.passed = batch, passes(self.arrays, self.agent.activation, batch.features)
        self.distribution = self.agent.distribution(forbid(self.passed[-1][0], batch.allowed))
        return self.distribution.log_probability(batch.actions), self.passed[-1][1][:, 0]

    def step(self, by_log_probability: np.ndarray, by_value: np.ndarray) -> float:
        """One step down a loss with these derivatives, [B] each, less `entropy_weight` times the mean entropy, which is returned."""
        by_output, weight = np.zeros_like(self.passed[-1]), self.settings.entropy_weight
        by_scores, by_log_std = self.distribution.slopes(self.batch.actions, by_log_probability)
        if weight:
            more = self.distribution.entropy_slopes(weight)
            by_scores, by_log_std = by_scores + more[0], by_log_std + more[1]
        by_output[0], by_output[1, :, 0] = by_scores, by_value
        if self.agent.log_std is not None:
            assert self.agent.log_std.grad is not None
            self.agent.log_std.grad.numpy()[:] = by_log_std
        backward(self.arrays, self.agent.activation, self.passed, by_output, self.gradients)
        self._descend()
        return self.distribution.entropy

    def _descend(self) -> None:
        if self.settings.gradient_norm:
            norm = np.sqrt(self.gradient @ self.gradient)
            self.gradient *= min(1.0, self.settings.gradient_norm / (norm + 1e-6))
        self.adam.step(self.gradient, self.settings.learning_rate * (self.left if self.settings.decay else 1.0))


def generalised_advantages(
    rewards: np.ndarray, values: np.ndarray, terminated: np.ndarray, ended: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Advantages [T, copies] of rewards, terminated and ended [T, copies] and values [T + 1, copies].

    Generalised advantage estimation (Schulman et al. 2016, equations 11 to 16): the sum of (gamma lambda)^k delta_{t+k} up to the
    end of the episode, with delta_t = r_t + gamma V(s_{t+1}) - V(s_t), where V is 0 after a termination; an episode that
    was cut off ends with its last delta.
    """
    deltas = rewards + gamma * (values[1:] * ~terminated) - values[:-1]
    carried = (gamma * gae_lambda * ~ended).astype(deltas.dtype)
    advantages: np.ndarray = np.empty_like(deltas)
    following = np.zeros_like(deltas[0])
    for step in reversed(range(len(deltas))):
        following = advantages[step] = deltas[step] + carried[step] * following
    return advantages


class Rollouts:
    """Gathers rollouts, in memory that is used again and again."""

    def __init__(
        self, agent: ActorCritic, settings: OnPolicySettings, seed: int, whole_episodes: bool = False, curiosity: Curiosity | None = None
    ) -> None:
        self.agent, self.settings, self.whole_episodes, self.curiosity = agent, settings, whole_episodes, curiosity
        self.experience = Experience(settings.environment, settings.copies, seed, settings.made_with, settings.envpool)
        shape, steps = self.experience.observations.shape, settings.horizon
        self.observations = np.zeros((steps + 1, *shape), self.experience.observations.dtype)
        self.features = np.zeros((steps + 1, shape[0], agent.encoder.width), np.float32)
        choices = agent.branches and len(agent.branches.sizes)
        self.actions = np.zeros((steps, shape[0], choices or agent.size), np.int64 if choices else np.float32)
        allowed = self.experience.allowed
        self.allowed = None if allowed is None else np.ones((steps, *allowed.shape), bool)
        self.rewards = np.zeros((steps, shape[0]), np.float32)
        self.terminated, self.ended, self.real = (np.zeros((steps, shape[0]), bool) for _ in range(3))
        self.discounted, self.squares, self.counted = np.zeros(shape[0]), 0.0, 0

    def collect(self) -> Rollout:
        """`horizon` steps of every copy; with `whole_episodes` one episode of every copy, cut off after `horizon` steps."""
        agent, experience = self.agent, self.experience
        if self.whole_episodes:
            experience.restart()
        arrays, steps, running = agent.networks.arrays(), len(self.actions), np.ones(len(self.discounted), bool)
        noise = self._noise()
        for step in range(steps):
            self.observations[step] = experience.observations
            self.features[step] = agent.encoder(experience.observations)
            scores = answer(arrays, agent.activation, self.features[step])
            scores += noise[step]  # Gumbel: the largest is a draw (Gumbel 1954); normal times deviation: so is the sum
            if self.allowed is not None:
                self.allowed[step] = experience.allowed
                scores = forbid(scores, experience.allowed)
            self.actions[step] = agent.raw(scores)
            self.rewards[step], self.terminated[step], self.ended[step], real = experience.step(agent.to_environment(self.actions[step]))
            self.real[step] = real & running
            if self.whole_episodes:
                running &= ~self.ended[step]
                if not running.any():
                    steps = step + 1
                    break
        self.observations[steps], self.features[steps] = experience.observations, agent.encoder(experience.observations)
        return self._rollout(steps)

    def _noise(self) -> np.ndarray:
        random, shape = self.experience.random, (len(self.actions), len(self.discounted), self.agent.size)
        if self.agent.log_std is None:
            return np.asarray(random.gumbel(size=shape), np.float32)
        normal: np.ndarray = random.standard_normal(shape, np.float32) * self.agent.log_std.detach().exp().numpy()
        return normal

    def _rollout(self, steps: int) -> Rollout:
        real = self.real[:steps]
        rewards = self.rewards[:steps] / np.float32(self._reward_scale(steps))
        scores, values = self.agent.judge(self.features[: steps + 1].reshape(-1, self.features.shape[2]))
        values = values.reshape(steps + 1, -1)
        advantages = self._advantages(rewards, values, steps)[real]
        actions, before = self.actions[:steps][real], values[:-1][real]
        allowed = None if self.allowed is None else self.allowed[:steps][real]
        acted_by = forbid(scores.reshape(steps + 1, *real.shape[1:], -1)[:-1][real], allowed)
        log_probabilities = self.agent.distribution(acted_by).log_probability(actions)
        returns = before + advantages
        if self.curiosity is not None:
            weights = self.curiosity.settings
            intrinsic = self.curiosity.advantages(self.observations[: steps + 1])[real]
            advantages = weights.extrinsic_weight * advantages + weights.weight * intrinsic
        rollout = Rollout(self.features[:steps][real], actions, log_probabilities, before, advantages, returns, allowed)
        self.agent.encoder.update(self.observations[:steps][real])  # from the next rollout on
        return rollout

    def _advantages(self, rewards: np.ndarray, values: np.ndarray, steps: int) -> np.ndarray:
        terminated, ended = self.terminated[:steps], self.ended[:steps]
        return generalised_advantages(rewards, values, terminated, ended, self.settings.gamma, self.settings.gae_lambda)

    def _reward_scale(self, steps: int) -> float:
        """The deviation of the discounted return so far (Engstrom et al. 2020, "Implementation Matters in Deep RL", section 2)."""
        if not self.settings.scale_rewards:
            return 1.0
        for step in range(steps):
            self.discounted = self.discounted * self.settings.gamma + self.rewards[step]
            self.squares += float(np.square(self.discounted[self.real[step]]).sum())
            self.counted += int(self.real[step].sum())
            self.discounted *= ~self.ended[step]
        self.agent.value_scale = max((self.squares / self.counted) ** 0.5, 1e-4)
        return self.agent.value_scale
