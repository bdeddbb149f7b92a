"""What the policy gradient methods share: actor and critic, rollouts by the present policy, advantages.

A rollout steps all copies of the environment `horizon` times. Acting goes through NumPy, one row per copy; values and log
probabilities of the whole rollout are then one pass. Copies reset on the step after an end (gymnasium's next-step autoreset):
the row after an end is made up, and is left out; the row of the end keeps the true last observation, from which a truncated
episode bootstraps and a terminated one doesn't.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from marina.errors import CallError
from training.observations import ObservationEncoder
from training.policies import Bounds, CategoricalPolicy, ConstantDeviation, Features, GaussianPolicy, Policy, action_size
from training.policy_training import Experience, LearningSettings
from training.small_networks import Perceptrons, answer

LOG_SQRT_TAU = 0.5 * np.log(2 * np.pi)


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

    Raises CallError unless the actions are Discrete or Box.
    """

    def __init__(self, settings: OnPolicySettings, observation: dict[str, Any], action: dict[str, Any]) -> None:
        super().__init__()
        if action["type"] not in ("discrete", "box"):
            raise CallError(f"{settings.environment} acts by {action['type']}; this recipe takes Discrete and Box actions")
        self.observation, self.action, self.activation = observation, action, settings.activation
        self.encoder, self.size = ObservationEncoder(observation, settings.normalise_observations), action_size(action)
        sizes = (self.encoder.width, *settings.hidden, self.size)
        # a small last gain of the actor: at first all actions are about as likely (Andrychowicz et al. 2021, section 3.2)
        self.networks = Perceptrons(2, sizes, settings.activation).orthogonal((0.01, 1.0))
        self.discrete = action["type"] == "discrete"
        self.log_std = None if self.discrete else nn.Parameter(torch.full((self.size,), settings.log_std))
        self.value_scale = 1.0  # rewards are divided by it while learning
        self.bounds = None if self.discrete else Bounds(action, squashed=False)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features float32 [B, w] to (logits or means [B, n], scaled values [B])."""
        scores, values = self.networks(features).unbind(0)
        return scores, values[:, 0]

    @torch.no_grad()
    def forget_values(self) -> None:
        """Let the critic say 0 everywhere, so that advantages are returns."""
        self.networks.weights[-1][1].zero_()
        self.networks.biases[-1][1].zero_()

    def log_probability(self, scores: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of `actions`, int64 [B] or unclipped float32 [B, n]: (log probability [B], the policy's mean entropy, a scalar)."""
        if self.log_std is None:
            logarithms = scores.log_softmax(1)
            return logarithms.gather(1, actions[:, None]).squeeze(1), -(logarithms.exp() * logarithms).sum(1).mean()
        squares = ((actions - scores) * (-self.log_std).exp()).square()
        logarithms = -(0.5 * squares + self.log_std + LOG_SQRT_TAU).sum(1)
        return logarithms, (self.log_std + 0.5 + LOG_SQRT_TAU).sum()

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Raw actions as the environment takes them: continuous ones clipped to their bounds."""
        if self.bounds is None:
            return actions
        shaped: np.ndarray = actions.reshape(-1, *self.bounds.shape).clip(self.bounds.low.numpy(), self.bounds.high.numpy())
        return shaped

    def act(self, observations: np.ndarray) -> np.ndarray:
        """The most probable actions."""
        scores = answer(self.networks.arrays(), self.activation, self.encoder(observations))
        return self.to_environment(scores.argmax(1) if self.discrete else scores)

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
        if self.log_std is None or self.bounds is None:
            return CategoricalPolicy(nn.Sequential(features, *layers), critic).eval()
        deviation = ConstantDeviation(self.log_std.detach().clone())
        return GaussianPolicy(nn.Sequential(features, *layers[:-1]), head, deviation, self.bounds, critic).eval()


class Rollout(NamedTuple):
    """N transitions by one policy; float32, but for Discrete actions (int64)."""

    features: torch.Tensor  # [N, w]
    actions: torch.Tensor  # [N] or [N, n]: unclipped
    log_probabilities: torch.Tensor  # [N]
    values: torch.Tensor  # [N], the critic's
    advantages: torch.Tensor  # [N]
    returns: torch.Tensor  # [N], what the critic should have said

    def __len__(self) -> int:
        return len(self.advantages)

    def rows(self, chosen: torch.Tensor) -> "Rollout":
        """Those at int64 [M]."""
        return Rollout(*(part[chosen] for part in self))


def generalised_advantages(
    rewards: np.ndarray, values: np.ndarray, terminated: np.ndarray, ended: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Advantages [T, copies] of rewards, terminated and ended [T, copies] and values [T + 1, copies].

    Generalised advantage estimation (Schulman et al. 2016, equations 11 to 16): the sum of (gamma lambda)^k delta_{t+k} up to the
    end of the episode, with delta_t = r_t + gamma V(s_{t+1}) - V(s_t), where V is 0 after a termination; an episode that
    was cut off ends with its last delta.
    """
    deltas = rewards + gamma * values[1:] * ~terminated - values[:-1]
    carried = gamma * gae_lambda * ~ended
    advantages: np.ndarray = np.empty_like(deltas)
    following = np.zeros_like(deltas[0])
    for step in reversed(range(len(deltas))):
        following = advantages[step] = deltas[step] + carried[step] * following
    return advantages


class Rollouts:
    """Gathers rollouts, in memory that is used again and again."""

    def __init__(self, agent: ActorCritic, settings: OnPolicySettings, seed: int, whole_episodes: bool = False) -> None:
        self.agent, self.settings, self.whole_episodes = agent, settings, whole_episodes
        self.experience = Experience(settings.environment, settings.copies, seed)
        shape, steps = self.experience.observations.shape, settings.horizon
        self.observations = np.zeros((steps + 1, *shape), self.experience.observations.dtype)
        self.features = np.zeros((steps + 1, shape[0], agent.encoder.width), np.float32)
        self.actions = np.zeros((steps, shape[0]), np.int64) if agent.discrete else np.zeros((steps, shape[0], agent.size), np.float32)
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
            self.actions[step] = scores.argmax(1) if agent.discrete else scores
            self.rewards[step], self.terminated[step], self.ended[step], real = experience.step(agent.to_environment(self.actions[step]))
            self.real[step] = real & running
            if self.whole_episodes:
                running &= ~self.ended[step]
                if not running.any():
                    steps = step + 1
                    break
        self.features[steps] = agent.encoder(experience.observations)
        return self._rollout(steps)

    def _noise(self) -> np.ndarray:
        random, shape = self.experience.random, (len(self.actions), len(self.discounted), self.agent.size)
        if self.agent.log_std is None:
            return np.asarray(random.gumbel(size=shape), np.float32)
        normal: np.ndarray = random.standard_normal(shape, np.float32) * self.agent.log_std.detach().exp().numpy()
        return normal

    @torch.no_grad()
    def _rollout(self, steps: int) -> Rollout:
        real = self.real[:steps]
        rewards = self.rewards[:steps] / self._reward_scale(steps)
        features = torch.from_numpy(self.features[: steps + 1])
        scores, values = self.agent(features.flatten(0, 1))
        values = values.numpy().reshape(steps + 1, -1)
        advantages = self._advantages(rewards, values, steps)
        rows = torch.from_numpy(np.flatnonzero(real))
        actions = torch.from_numpy(self.actions[:steps].reshape(-1, *self.actions.shape[2:]))[rows]
        log_probabilities, _ = self.agent.log_probability(scores[rows], actions)
        before, gained = torch.from_numpy(values[:-1].ravel())[rows], torch.from_numpy(advantages.ravel())[rows]
        rollout = Rollout(features[:-1].flatten(0, 1)[rows], actions, log_probabilities, before, gained, before + gained)
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
