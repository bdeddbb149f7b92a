"""What the policy gradient methods share: settings, rollouts by the current policy, and gradient steps.

A rollout steps all environments `n_steps` times. Acting goes through NumPy, one row per environment; values
and log probabilities of the whole rollout are then one pass. Environments reset on the step after an end
(gymnasium's next-step autoreset): the row after an end is left out; the row of the end keeps the true last
observation, from which a truncated episode bootstraps and a terminated one doesn't.
"""

from typing import Annotated, ClassVar, Generic, Literal, TypeVar

import numpy as np
from pydantic import Field

from training.policies.buffers.rollout import RolloutBatch, compute_gae
from training.policies.envs.training_envs import TrainingEnvs
from training.policies.loops.settings import NumEnvs, PolicySettings
from training.policies.networks.actor_critic import ActorCritic
from training.policies.networks.curiosity import Curiosity
from training.policies.networks.distributions import apply_mask
from training.policies.networks.mlp import backward, forward, forward_all
from training.policies.networks.optim import Adam, clip_grad_norm, flatten
from training.policies.spaces import ActionSpec, ObservationSpec
from training.policies.state import Stateful

Gamma = Annotated[float, Field(ge=0, le=1, description="discount per step")]
GaeLambda = Annotated[
    float, Field(ge=0, le=1, description="of generalized advantages: 0 is the TD error, 1 the return")
]


class OnPolicySettings(PolicySettings):
    """What A2C, PPO, TRPO and REINFORCE have."""

    hidden: tuple[int, ...] = Field(
        default=(64, 64), description="units of the hidden layers, of actor and critic each"
    )
    activation: Literal["tanh", "relu"] = Field(default="tanh", description="of the hidden layers")
    num_envs: NumEnvs = 32
    n_steps: int = Field(default=32, ge=1, description="steps of every environment per rollout")
    gamma: Gamma = 0.98
    gae_lambda: GaeLambda = 0.8
    learning_rate: float = Field(default=1e-3, gt=0, description="of Adam")
    anneal_lr: bool = Field(
        default=True, description="the learning rate falls linearly to 0 at the last of `total_timesteps`"
    )
    ent_coef: float = Field(
        default=0.0, ge=0, description="weight of the entropy bonus; above 0 keeps exploring"
    )
    max_grad_norm: float = Field(
        default=0.5, ge=0, description="gradients are clipped to this norm; 0: never"
    )
    log_std_init: float = Field(
        default=0.0, ge=-5, le=2, description="initial log standard deviation of continuous actions"
    )
    normalize_observations: bool = Field(
        default=False, description="by their running mean and variance, also when served"
    )
    normalize_rewards: bool = Field(
        default=False, description="by the running std of the discounted return, in training only"
    )


SettingsT = TypeVar("SettingsT", bound=OnPolicySettings)


def make_agent(settings: OnPolicySettings, observations: ObservationSpec, actions: ActionSpec) -> ActorCritic:
    """Actor and critic as the settings ask for them."""
    return ActorCritic(
        observations,
        actions,
        settings.hidden,
        settings.activation,
        normalize_observations=settings.normalize_observations,
        log_std_init=settings.log_std_init,
    )


class PolicyOptimizer(Stateful):
    """Gradient steps of an actor and its critic, by Adam.

    A loss is given by its derivatives by log probabilities and values, as the recipes write them.
    """

    state_parts = ("adam",)

    def __init__(self, agent: ActorCritic, settings: OnPolicySettings) -> None:
        self.agent, self.settings = agent, settings
        flat = flatten(agent)
        assert flat.grad is not None
        self.grad = flat.grad.numpy()
        self.adam = Adam(flat.detach().numpy())
        self.layers, self.grads = agent.networks.numpy_layers(slice(None)), agent.networks.numpy_grads()
        self.lr_fraction = 1.0

    def anneal(self, num_timesteps: int) -> None:
        """Set the fraction of the learning rate that is left, if it is annealed."""
        if self.settings.anneal_lr:
            self.lr_fraction = max(1 - num_timesteps / self.settings.total_timesteps, 0.0)

    def evaluate_actions(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        """(log probabilities of the actions, values), [B] each, by the current parameters, before `step`."""
        self.batch, self.outputs = batch, forward_all(self.layers, self.agent.activation, batch.features)
        self.distribution = self.agent.distribution(apply_mask(self.outputs[-1][0], batch.action_mask))
        return self.distribution.log_prob(batch.actions), self.outputs[-1][1][:, 0]

    def step(self, grad_log_probs: np.ndarray, grad_values: np.ndarray) -> float:
        """One step on the loss that has these derivatives, [B] each, minus `ent_coef` times the mean entropy.

        Returns that entropy.
        """
        grad_outputs, ent_coef = np.zeros_like(self.outputs[-1]), self.settings.ent_coef
        grad_actor, grad_log_std = self.distribution.grad_log_prob(self.batch.actions, grad_log_probs)
        if ent_coef:
            of_entropy = self.distribution.grad_entropy(ent_coef)
            grad_actor, grad_log_std = grad_actor + of_entropy[0], grad_log_std + of_entropy[1]
        grad_outputs[0], grad_outputs[1, :, 0] = grad_actor, grad_values
        if self.agent.log_std is not None:
            assert self.agent.log_std.grad is not None
            self.agent.log_std.grad.numpy()[:] = grad_log_std
        backward(self.layers, self.agent.activation, self.outputs, grad_outputs, self.grads)
        clip_grad_norm(self.grad, self.settings.max_grad_norm)
        self.adam.step(self.grad, self.settings.learning_rate * self.lr_fraction)
        return self.distribution.entropy


class OnPolicyLearner(Stateful, Generic[SettingsT]):
    """The base of the recipes' learners: an agent, its rollouts and its gradient steps."""

    state_parts: ClassVar[tuple[str, ...]] = ("policy", "rollouts", "optimizer")
    whole_episodes: ClassVar[bool] = False

    def __init__(
        self, settings: SettingsT, observations: ObservationSpec, actions: ActionSpec, seed: int
    ) -> None:
        self.settings, self.policy = settings, make_agent(settings, observations, actions)
        self.rollouts = RolloutCollector(self.policy, settings, seed, self.whole_episodes)
        self.optimizer = PolicyOptimizer(self.policy, settings)
        self.envs = self.rollouts.envs

    def policy_gradient_step(
        self, rollout: RolloutBatch, normalize_advantage: bool, vf_coef: float
    ) -> tuple[float, float]:
        """One step on -mean(log pi A), and `vf_coef` times half the critic's mean squared error.

        Returns that error and the policy's entropy in nats, as they were before the step.
        """
        advantages = rollout.normalized_advantages() if normalize_advantage else rollout.advantages
        _, values = self.optimizer.evaluate_actions(rollout)
        errors = values - rollout.returns
        entropy = self.optimizer.step(-advantages / len(advantages), vf_coef * errors / len(errors))
        return float(np.square(errors).mean()), entropy


class RewardNormalizer(Stateful):
    """Scales rewards by the running standard deviation of the discounted return.

    Engstrom et al. 2020, "Implementation Matters in Deep RL", section 2.
    """

    state_values = ("square_sum", "count")
    state_arrays = ("discounted",)

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.discounted, self.square_sum, self.count = np.zeros(num_envs), 0.0, 0

    def update(self, rewards: np.ndarray, valid: np.ndarray, dones: np.ndarray) -> float:
        """Take in the rewards of a rollout, [T, num_envs]; returns the standard deviation so far."""
        for reward, is_valid, done in zip(rewards, valid, dones, strict=True):
            self.discounted = self.discounted * self.gamma + reward
            self.square_sum += float(np.square(self.discounted[is_valid]).sum())
            self.count += int(is_valid.sum())
            self.discounted *= ~done
        return float(max((self.square_sum / self.count) ** 0.5, 1e-4))


class RolloutCollector(Stateful):
    """Collects rollouts, in memory that is reused."""

    state_parts = ("envs", "reward_normalizer")

    def __init__(
        self, agent: ActorCritic, settings: OnPolicySettings, seed: int, whole_episodes: bool = False
    ) -> None:
        self.agent, self.settings, self.whole_episodes = agent, settings, whole_episodes
        self.curiosity: Curiosity | None = None  # what adds intrinsic advantages, if anything does
        self.envs = TrainingEnvs(
            settings.environment, settings.num_envs, seed, settings.env_kwargs, settings.envpool
        )
        size = (settings.n_steps, settings.num_envs)
        obs = self.envs.obs
        self.obs = np.zeros((size[0] + 1, *obs.shape), obs.dtype)
        self.features = np.zeros((size[0] + 1, size[1], agent.encoder.width), np.float32)
        if agent.branches:
            self.actions = np.zeros((*size, len(agent.branches.sizes)), np.int64)
        else:
            self.actions = np.zeros((*size, agent.action_size), np.float32)
        mask = self.envs.action_mask
        self.action_mask = None if mask is None else np.ones((size[0], *mask.shape), bool)
        self.rewards = np.zeros(size, np.float32)
        self.terminated, self.dones, self.valid = (np.zeros(size, bool) for _ in range(3))
        self.reward_normalizer = RewardNormalizer(settings.num_envs, settings.gamma)

    def collect(self) -> RolloutBatch:
        """`n_steps` steps of every environment.

        With `whole_episodes` one episode of every environment, truncated after `n_steps` steps.
        """
        agent, envs, n_steps = self.agent, self.envs, self.settings.n_steps
        if self.whole_episodes:
            envs.reset()
        layers, running = agent.networks.numpy_layers(), np.ones(self.settings.num_envs, bool)
        noise = self._sample_noise()
        for step in range(n_steps):
            self.obs[step] = envs.obs
            self.features[step] = agent.encoder(envs.obs)
            outputs = forward(layers, agent.activation, self.features[step])
            # logits plus Gumbel noise: the argmax is a sample (Gumbel 1954); or means plus std times normal
            outputs += noise[step]
            if self.action_mask is not None:
                self.action_mask[step] = envs.action_mask
                outputs = apply_mask(outputs, envs.action_mask)
            self.actions[step] = agent.mode(outputs)
            self.rewards[step], self.terminated[step], self.dones[step], valid = envs.step(
                agent.to_environment(self.actions[step])
            )
            self.valid[step] = valid & running
            if self.whole_episodes:
                running &= ~self.dones[step]
                if not running.any():
                    n_steps = step + 1
                    break
        self.obs[n_steps], self.features[n_steps] = envs.obs, agent.encoder(envs.obs)
        return self._make_batch(n_steps)

    def _sample_noise(self) -> np.ndarray:
        rng, size = self.envs.rng, (*self.rewards.shape, self.agent.action_size)
        if self.agent.log_std is None:
            return np.asarray(rng.gumbel(size=size), np.float32)
        std = self.agent.log_std.detach().exp().numpy()
        noise: np.ndarray = rng.standard_normal(size, np.float32) * std
        return noise

    def _make_batch(self, n_steps: int) -> RolloutBatch:
        """The valid transitions of the last `n_steps` steps, with advantages and log probabilities."""
        agent, settings, valid = self.agent, self.settings, self.valid[:n_steps]
        rewards, terminated, dones = self.rewards[:n_steps], self.terminated[:n_steps], self.dones[:n_steps]
        if settings.normalize_rewards:
            agent.value_scale = self.reward_normalizer.update(rewards, valid, dones)
        rewards = rewards / np.float32(agent.value_scale)
        flat = self.features[: n_steps + 1].reshape(-1, self.features.shape[2])
        outputs, values = agent.outputs_and_values(flat)
        outputs, values = outputs.reshape(n_steps + 1, *valid.shape[1:], -1), values.reshape(n_steps + 1, -1)
        advantages = compute_gae(rewards, values, terminated, dones, settings.gamma, settings.gae_lambda)[
            valid
        ]
        actions, values = self.actions[:n_steps][valid], values[:-1][valid]
        action_mask = None if self.action_mask is None else self.action_mask[:n_steps][valid]
        acted_with = agent.distribution(apply_mask(outputs[:-1][valid], action_mask))
        returns = values + advantages
        if self.curiosity is not None:
            coefs = self.curiosity.settings
            intrinsic = self.curiosity.advantages(self.obs[: n_steps + 1])[valid]
            advantages = coefs.ext_coef * advantages + coefs.int_coef * intrinsic
        features, log_probs = self.features[:n_steps][valid], acted_with.log_prob(actions)
        agent.encoder.update(self.obs[:n_steps][valid])  # used from the next rollout on
        return RolloutBatch(features, actions, log_probs, values, advantages, returns, action_mask)
