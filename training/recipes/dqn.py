"""Deep Q-learning: a policy for environments with few discrete actions, from numbers, states or images.

The algorithm is DQN (Mnih et al. 2015, "Human-level control through deep reinforcement learning", Algorithm
1). Each has its own switch: the Double DQN target (van Hasselt et al. 2016), the dueling network (Wang et al.
2016), prioritized replay (Schaul et al. 2016), n-step returns (Sutton and Barto 2018, section 7.1), noisy
networks (Fortunato et al. 2018) and distributions of the return, C51 (Bellemare et al. 2017); all together
are Rainbow (Hessel et al. 2018). An iteration steps all environments, then takes many gradient steps; the
target network is updated only between iterations.

The whole story is in this file (settings, one iteration, exploration, targets, a gradient step by autograd,
and by hand for a plain network on the CPU, which takes a third of the time), policies/networks/q_network.py,
policies/buffers/sequences.py, policies/buffers/prioritized.py and policies/loops/learning.py (the training
loop). policies/networks/reference_losses.py has the losses as the papers write them.

Not covered: recurrent policies, off-policy corrections of n-step returns.
"""

import copy
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from marina.core.errors import CallError
from training.export.trained import Trained
from training.policies.buffers.sequences import ReplayBatch, SequenceReplayBuffer
from training.policies.envs.training_envs import TrainingEnvs
from training.policies.loops import learning
from training.policies.loops.settings import NumEnvs, PolicySettings
from training.policies.networks.distributions import apply_mask
from training.policies.networks.encoders import ObservationEncoder
from training.policies.networks.mlp import backward, forward, forward_all
from training.policies.networks.optim import Adam, autograd_step, clip_grad_norm, flatten
from training.policies.networks.q_network import (
    QNetwork,
    exclude,
    numpy_grads_of,
    numpy_layers_of,
    project_distribution,
    to_single_precision,
)
from training.policies.spaces import ActionSpec, ObservationSpec
from training.policies.state import Stateful
from training.runs.run import Run

ROWS_AT_ONCE = 512
METRICS = (*learning.RETURN_METRICS, "steps")


class Settings(PolicySettings):
    """Defaults are tuned for CartPole-v1."""

    hidden: tuple[int, ...] = Field(
        default=(128, 128), description="units of the hidden layers; with images, of those after the encoder"
    )
    double: bool = Field(
        default=False, description="Double DQN: the online network selects the target's action"
    )
    dueling: bool = Field(default=False, description="dueling network: separate state value and advantages")
    prioritized: bool = Field(default=False, description="sample by the last error, not uniformly")
    alpha: float = Field(default=0.6, ge=0, le=1, description="exponent of the priorities: 0 is uniform")
    beta: float = Field(
        default=0.4, ge=0, le=1, description="initial exponent of the importance weights; it rises to 1"
    )
    n_step_returns: int = Field(
        default=1, ge=1, le=100, description="rewards in a target before it bootstraps"
    )
    noisy: bool = Field(default=False, description="explore by noisy networks instead of epsilon-greedily")
    num_atoms: int = Field(
        default=1, ge=1, le=1001, description="above 1, like 51: learn a distribution of so many atoms (C51)"
    )
    v_min: float = Field(default=0.0, description="smallest return of that distribution")
    v_max: float = Field(default=100.0, description="largest return of that distribution")
    num_envs: NumEnvs = 16
    train_freq: int = Field(default=16, ge=1, description="steps of every environment per iteration")
    gradient_steps: int = Field(default=64, ge=1, description="gradient steps per iteration")
    target_update_interval: int = Field(
        default=1, ge=1, description="iterations between two updates of the target network"
    )
    batch_size: int = Field(default=64, ge=1, description="transitions per gradient step")
    learning_rate: float = Field(default=2.3e-3, gt=0, description="of Adam")
    adam_eps: float = Field(default=1e-8, gt=0, description="Adam's epsilon")
    max_grad_norm: float = Field(
        default=0.0, ge=0, description="gradients are clipped to this norm; 0: never"
    )
    gamma: float = Field(default=0.99, ge=0, lt=1, description="discount per step")
    clip_rewards: bool = Field(
        default=False, description="learn from the sign of rewards alone, as is usual with Atari games"
    )
    buffer_size: int = Field(default=100_000, ge=1, description="steps in the replay buffer, about")
    learning_starts: int = Field(
        default=1000, ge=0, description="environment steps before the first gradient step"
    )
    exploration_final_eps: float = Field(
        default=0.1, ge=0, le=1, description="final share of random actions; it starts at 1"
    )
    exploration_steps: int = Field(
        default=4000, ge=1, description="environment steps over which epsilon falls"
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where the network is trained")

    @model_validator(mode="after")
    def _check_support(self) -> "Settings":
        if self.num_atoms > 1 and not self.v_min < self.v_max:
            raise ValueError(f"v_min ({self.v_min}) must be below v_max ({self.v_max})")
        return self


class Learner(Stateful):
    """Deep Q-learning; an iteration is some steps of all environments and some gradient steps."""

    state_parts: ClassVar = ("policy", "target", "optimizer", "numpy_steps", "envs", "buffer")
    state_values: ClassVar = ("num_iterations",)

    def __init__(
        self, settings: Settings, observations: ObservationSpec, actions: ActionSpec, seed: int
    ) -> None:
        _check(settings, actions)
        self.settings, self.num_iterations = settings, 0
        self.loss_name = "cross-entropy" if settings.num_atoms > 1 else "Huber loss"
        self.exploration_name = "noise" if settings.noisy else "epsilon"
        heads = settings.model_dump(include={"dueling", "noisy", "num_atoms", "v_min", "v_max"})
        self.policy = QNetwork(observations, actions.size, settings.hidden, **heads).to(settings.device)
        self.target = copy.deepcopy(self.policy)
        self.flat, self.flat_target = flatten(self.policy), flatten(self.target)
        self.optimizer = torch.optim.Adam(
            [self.flat], settings.learning_rate, eps=settings.adam_eps, fused=True
        )
        layers = self.policy.linear_layers() if settings.device == "cpu" else None
        self.numpy_steps = NumpySteps(layers, self.flat, settings, observations) if layers else None
        self.envs = TrainingEnvs(
            settings.environment, settings.num_envs, seed, settings.env_kwargs, settings.envpool
        )
        self.buffer = SequenceReplayBuffer(
            settings.buffer_size,
            settings.num_envs,
            self.envs.obs.shape[1:],
            observations.dtype,
            gamma=settings.gamma,
            n_step_returns=settings.n_step_returns,
            frame_stack=settings.frame_stack or 1,
            alpha=settings.alpha if settings.prioritized else None,
            n_actions=actions.size if settings.action_masks else 0,
        )

    def iteration(self) -> tuple[float, float]:
        """(the loss of the last batch, NaN before learning starts; the share of random actions)."""
        epsilon, loss = self.epsilon(), float("nan")
        for _ in range(self.settings.train_freq):
            self.collect_step(epsilon)
        if len(self.buffer) < self.settings.learning_starts or not self.buffer.can_sample:
            return loss, epsilon
        if self.num_iterations % self.settings.target_update_interval == 0:
            self.flat_target.data.copy_(self.flat.data)
        self.num_iterations += 1
        self.policy.train()
        for batch, targets in self.batches():
            loss = self.step(batch, targets)
        return loss, epsilon

    def epsilon(self) -> float:
        """The share of random actions; with noisy networks 1 before the first gradient step, then 0."""
        num_timesteps, settings = self.envs.num_timesteps, self.settings
        if settings.noisy:
            return float(num_timesteps < settings.learning_starts)
        final = settings.exploration_final_eps
        return max(final, 1 - (1 - final) * num_timesteps / settings.exploration_steps)

    def collect_step(self, epsilon: float) -> None:
        """One step of every environment by valid actions, with noise or epsilon-greedily, into the buffer."""
        envs, obs, action_mask = self.envs, self.envs.obs, self.envs.action_mask
        if envs.was_resumed:
            self.buffer.truncate()
            envs.was_resumed = False
        self.policy.train()
        self.policy.reset_noise()
        is_random = envs.rng.random(len(obs)) < epsilon
        if action_mask is None:
            random_actions = envs.rng.integers(self.policy.n_actions, size=len(obs))
        else:
            random_actions = np.where(action_mask, envs.rng.random(action_mask.shape), -1).argmax(1)
        actions = random_actions
        if not is_random.all():
            actions = np.where(is_random, random_actions, self.greedy_actions(obs, action_mask))
        rewards, terminated, dones, valid = envs.step(actions)
        if self.settings.clip_rewards:
            rewards = np.sign(rewards)
        self.buffer.add(obs, actions, rewards, terminated, dones, valid, action_mask)

    def greedy_actions(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        """The valid actions with the highest Q-values, int64 [num_envs]."""
        if self.numpy_steps:
            actions: np.ndarray = apply_mask(self.numpy_steps.q_values(obs), action_mask).argmax(1)
            return actions
        return self.policy.greedy_actions(to_single_precision(obs), action_mask)

    def batches(self) -> Iterator[tuple[ReplayBatch, torch.Tensor]]:
        """The batches of an iteration with their targets.

        The target network doesn't change in between, so one sample is enough for all; but with priorities
        each batch depends on the errors of the last one, and with noise each has its own. Double DQN's
        targets depend on the last gradient step.
        """
        settings = self.settings
        num_samples = settings.gradient_steps if settings.prioritized or settings.noisy else 1
        progress = min(self.envs.num_timesteps / settings.total_timesteps, 1.0)
        beta = settings.beta + (1 - settings.beta) * progress
        rows = settings.gradient_steps // num_samples * settings.batch_size
        for _ in range(num_samples):
            sample = self.buffer.sample(rows, self.envs.rng, beta)
            next_outputs = self.target_outputs(sample)
            self.policy.reset_noise()
            targets = None if settings.double else self.targets(sample, next_outputs)
            for start in range(0, len(sample.rows), settings.batch_size):
                part = slice(start, start + settings.batch_size)
                batch = sample.slice(part)
                yield batch, self.targets(batch, next_outputs[part]) if targets is None else targets[part]

    @torch.no_grad()
    def target_outputs(self, sample: ReplayBatch) -> torch.Tensor:
        """The target network's outputs at next_obs, some rows at a time, whose memory stays in the cache."""
        self.target.reset_noise()
        parts = torch.split(self.to_tensor(sample.next_obs), ROWS_AT_ONCE)
        return torch.cat([self.target.outputs(part) for part in parts])

    def step(self, batch: ReplayBatch, targets: torch.Tensor) -> float:
        """One gradient step towards the targets; returns the loss, weighted by importance, before it."""
        if self.numpy_steps:
            loss, errors = self.numpy_steps.step(batch, targets.numpy())
        else:
            loss, errors = self.autograd_step(batch, targets)
        if self.buffer.priorities is not None:
            self.buffer.priorities.update(batch.rows, errors)
        return loss

    def autograd_step(self, batch: ReplayBatch, targets: torch.Tensor) -> tuple[float, np.ndarray]:
        """The step of any network: (the loss before it, the errors [B] for the priorities)."""
        outputs = self.policy.outputs(self.to_tensor(batch.obs))
        chosen = outputs[torch.arange(len(outputs)), self.to_tensor(batch.actions)]
        if self.settings.num_atoms > 1:
            losses = -(targets * chosen).sum(1)
            # the KL divergence, which unlike the cross-entropy can reach 0 (Hessel et al. 2018, section 3)
            errors = losses.detach() + torch.xlogy(targets, targets).sum(1)
        else:
            losses = nn.functional.smooth_l1_loss(chosen, targets, reduction="none")
            errors = (chosen.detach() - targets).abs()
        loss = (losses * self.to_tensor(batch.weights)).mean()
        autograd_step(loss, self.flat, self.optimizer, self.policy, self.settings.max_grad_norm)
        return loss.item(), errors.clamp(min=0).cpu().numpy()

    @torch.no_grad()
    def targets(self, batch: ReplayBatch, next_outputs: torch.Tensor) -> torch.Tensor:
        """Values [B] or distributions [B, num_atoms]: return plus discounted output of the best next action.

        The best valid action is that of the target network (Mnih et al. 2015) or, with `double`, of the
        online network. `next_outputs` are those of `target_outputs`.
        """
        returns, discounts = self.to_tensor(batch.returns), self.to_tensor(batch.discounts)
        mask, double = batch.next_action_mask, self.settings.double
        is_invalid = None if mask is None else ~self.to_tensor(mask)
        if self.settings.num_atoms == 1 and not double:
            return returns + discounts * exclude(next_outputs, is_invalid).amax(1)
        q_values = (
            self.policy(self.to_tensor(batch.next_obs)) if double else self.target.q_values(next_outputs)
        )
        best_actions = exclude(q_values, is_invalid).argmax(1)
        best = next_outputs[torch.arange(len(next_outputs)), best_actions]
        if self.settings.num_atoms > 1:
            return project_distribution(best.exp(), returns, discounts, self.target.support)
        return returns + discounts * best

    def to_tensor(self, array: np.ndarray) -> torch.Tensor:
        """On the device, observations as the network takes them."""
        return torch.from_numpy(to_single_precision(array)).to(self.settings.device)


class NumpySteps(Stateful):
    """Gradient steps on the Huber loss of a plain network, written by hand in NumPy."""

    state_parts: ClassVar = ("adam",)

    def __init__(
        self, layers: list[nn.Linear], flat: nn.Parameter, settings: Settings, observations: ObservationSpec
    ) -> None:
        assert flat.grad is not None
        self.settings, self.encoder = settings, ObservationEncoder(observations, normalize=False)
        self.grad = flat.grad.numpy()
        self.layers, self.grads = numpy_layers_of(layers), numpy_grads_of(layers)
        self.adam = Adam(flat.detach().numpy(), settings.adam_eps)

    def q_values(self, obs: np.ndarray) -> np.ndarray:
        """float32 [B, n_actions]."""
        return forward(self.layers, "relu", self.encoder(obs))

    def step(self, batch: ReplayBatch, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """One step: (the loss before it, weighted by importance, the absolute errors [B])."""
        outputs = forward_all(self.layers, "relu", self.encoder(batch.obs))
        chosen = np.arange(len(targets)), batch.actions
        errors = outputs[-1][chosen] - targets
        huber_grad = errors.clip(-1, 1)
        weighted = huber_grad * batch.weights
        grad_outputs = np.zeros_like(outputs[-1])
        grad_outputs[chosen] = weighted / np.float32(len(targets))
        backward(self.layers, "relu", outputs, grad_outputs, self.grads)
        clip_grad_norm(self.grad, self.settings.max_grad_norm)
        self.adam.step(self.grad, self.settings.learning_rate)
        # the Huber loss is grad * (error - grad / 2)
        return float(weighted @ (errors - 0.5 * huber_grad)) / len(targets), np.abs(errors)


def _check(settings: Settings, actions: ActionSpec) -> None:
    """Raise CallError for actions and devices that don't fit."""
    if actions.type != "discrete":
        raise CallError(
            f"{settings.environment} acts by {actions.type}; "
            "this recipe takes Discrete actions; others: ppo, trpo, a2c, reinforce"
        )
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise CallError("device: cuda: no such device here; leave it out")


def train(settings: Settings, run: Run) -> Trained:
    """Learn until the target return is confirmed or the steps are used up; hand over the best policy.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    return learning.train(settings, run, Learner)
