"""What the actor-critic methods with a replay buffer share: settings, the bounded actor, and collection.

In training, actions are within -1..1 in every component; the environment and the served graph get them in the
units of the Box.
"""

from collections.abc import Callable
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field

from marina.core.errors import CallError
from training.policies.buffers.replay import ReplayBuffer, Transitions
from training.policies.envs.training_envs import TrainingEnvs
from training.policies.graphs.features import ActionBounds
from training.policies.loops.settings import Environment, EvalFreq, NumEnvs, PolicySettings, TotalTimesteps
from training.policies.networks.critics import Critics
from training.policies.networks.encoders import ObservationEncoder
from training.policies.networks.mlp import BatchedMLP, backward
from training.policies.networks.optim import Adam, flatten
from training.policies.spaces import ActionSpec, ObservationSpec
from training.policies.state import Stateful


class OffPolicySettings(PolicySettings):
    """What SAC and TD3 have; defaults are tuned for Pendulum-v1."""

    environment: Environment = "Pendulum-v1"
    total_timesteps: TotalTimesteps = 20_000
    hidden: tuple[int, ...] = Field(
        default=(64, 64), description="units of the hidden layers, of actor and critics each"
    )
    activation: Literal["tanh", "relu"] = Field(default="relu", description="of the hidden layers")
    num_envs: NumEnvs = 4
    gradient_steps: float = Field(default=1.0, gt=0, description="per environment step")
    train_freq: int = Field(
        default=4, ge=1, description="steps of every environment between two rounds of gradient steps"
    )
    batch_size: int = Field(default=256, ge=2, description="transitions per gradient step")
    learning_rate: float = Field(default=1e-3, gt=0, description="of Adam, for actor and critics")
    gamma: float = Field(default=0.98, ge=0, lt=1, description="discount per step")
    tau: float = Field(
        default=0.005, gt=0, le=1, description="of the target networks' soft update per gradient step"
    )
    buffer_size: int = Field(default=200_000, ge=1, description="transitions in the replay buffer")
    learning_starts: int = Field(
        default=400, ge=0, description="environment steps with random actions before the first gradient step"
    )
    random_action_repeat: int = Field(
        default=1, ge=1, description="steps that each of those random actions is repeated, to get further"
    )
    eval_freq: EvalFreq = 500


class BoundedActor(torch.nn.Module):
    """The actor's network and bounds. Raises CallError unless actions are a Box with finite bounds."""

    def __init__(
        self,
        settings: OffPolicySettings,
        observations: ObservationSpec,
        actions: ActionSpec,
        outputs_per_action: int,
    ) -> None:
        super().__init__()
        if not actions.is_bounded:
            raise CallError(
                f"{settings.environment} acts by {actions}; "
                "this recipe takes a Box of real numbers with finite bounds"
            )
        self.observation_spec, self.activation = observations, settings.activation
        self.encoder, self.action_size = ObservationEncoder(observations, normalize=False), actions.size
        sizes = (self.encoder.width, *settings.hidden, outputs_per_action * self.action_size)
        self.networks = BatchedMLP(1, sizes, settings.activation)
        self.bounds = ActionBounds(actions, squash=True)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """From -1..1 [B, n] to the Box's own units [B, *shape]."""
        low, high = self.bounds.low.numpy(), self.bounds.high.numpy()
        scaled: np.ndarray = low + 0.5 * (actions.reshape(-1, *low.shape) + 1) * (high - low)
        return scaled


SettingsT = TypeVar("SettingsT", bound=OffPolicySettings)
ActorT = TypeVar("ActorT", bound=BoundedActor)


class OffPolicyCollector(Stateful):
    """Collects valid transitions into a replay buffer, with actions within -1..1, and samples from it."""

    state_parts = ("envs", "buffer")
    state_arrays = ("random_actions",)
    state_values = ("pending_gradient_steps", "num_random_steps")

    def __init__(self, actor: BoundedActor, settings: OffPolicySettings, seed: int) -> None:
        self.actor, self.settings = actor, settings
        self.envs = TrainingEnvs(
            settings.environment, settings.num_envs, seed, settings.env_kwargs, settings.envpool
        )
        self.buffer = ReplayBuffer(settings.buffer_size, actor.encoder.width, actor.action_size)
        self.generator = torch.Generator().manual_seed(seed)
        self.pending_gradient_steps = 0.0
        self.random_actions = np.zeros((settings.num_envs, actor.action_size), np.float32)
        self.num_random_steps = 0

    @property
    def has_started(self) -> bool:
        """Whether learning has: the buffer holds enough."""
        return self.buffer.num_added >= self.settings.learning_starts

    def collect(self, explore: Callable[[np.ndarray], np.ndarray]) -> None:
        """`train_freq` steps by `explore`, features [num_envs, w] to actions [num_envs, n]; random at first.

        After an end, an environment's next row only resets it and is left out. A truncated step isn't marked
        as terminated, so its target bootstraps from the true last observation.
        """
        envs, rows = self.envs, []
        features = self.actor.encoder(envs.obs)
        for _ in range(self.settings.train_freq):
            actions = explore(features) if self.has_started else self._sample_random_actions()
            rewards, terminated, _, valid = envs.step(self.actor.to_environment(actions))
            next_features = self.actor.encoder(envs.obs)
            columns = (features, next_features, actions, rewards, terminated)
            rows.append(np.column_stack(columns)[valid].astype(np.float32))
            features = next_features
        packed = torch.from_numpy(np.concatenate(rows))
        self.buffer.add(packed)
        self.pending_gradient_steps += len(packed) * self.settings.gradient_steps * self.has_started

    def batches(self) -> list[Transitions]:
        """One batch for every gradient step that is due, in one gather."""
        num_steps, batch_size = int(self.pending_gradient_steps), self.settings.batch_size
        if not num_steps or not self.has_started:
            return []
        self.pending_gradient_steps -= num_steps
        samples = self.buffer.sample(num_steps * batch_size, self.generator)
        columns = (torch.split(column, batch_size) for column in samples)
        return [Transitions(*batch) for batch in zip(*columns, strict=True)]

    def state_dict(self) -> dict[str, object]:
        """With the generator of samples."""
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:  # type: ignore[override]
        """What `state_dict` gave."""
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])

    def _sample_random_actions(self) -> np.ndarray:
        """Uniform actions, each for `random_action_repeat` steps.

        Dabney, Ostrovski and Barreto 2021, "Temporally-Extended epsilon-Greedy Exploration".
        """
        if self.num_random_steps % self.settings.random_action_repeat == 0:
            uniform = self.envs.rng.uniform(-1, 1, self.random_actions.shape)
            self.random_actions = uniform.astype(np.float32)
        self.num_random_steps += 1
        return self.random_actions


class OffPolicyLearner(Stateful, Generic[SettingsT, ActorT]):
    """The base of the recipes' learners: an actor with its optimizer, and what it collects."""

    loss_name = "critics' loss"
    state_parts: ClassVar[tuple[str, ...]] = ("policy", "adam", "critics", "collector")
    critics: Critics  # a subclass makes them

    def __init__(self, settings: SettingsT, actor: ActorT, seed: int) -> None:
        self.settings, self.policy = settings, actor
        self.flat = flatten(actor)
        self.layers, self.grads = actor.networks.numpy_layers(slice(None)), actor.networks.numpy_grads()
        self.adam = Adam(self.flat.detach().numpy(), eps=1e-8)
        self.collector = OffPolicyCollector(actor, settings, seed)
        self.envs = self.collector.envs

    def targets(self, batch: Transitions, noise: np.ndarray) -> np.ndarray:
        """What the critics learn, [B]; `noise` is standard normal [B, n]."""
        raise NotImplementedError

    def update_critics(self, batch: Transitions, noise: np.ndarray) -> float:
        """One gradient step on half the mean squared error of each; returns it as it was before."""
        x = np.column_stack((batch.obs.numpy(), batch.actions.numpy()))
        return self.critics.step(x, self.targets(batch, noise))

    def step_actor(self, outputs: list[np.ndarray], grad_outputs: np.ndarray) -> None:
        """One step of the actor by the derivatives of its last outputs; `outputs` are of all layers."""
        backward(self.layers, self.policy.activation, outputs, grad_outputs, self.grads)
        assert self.flat.grad is not None
        self.adam.step(self.flat.grad.numpy(), self.settings.learning_rate)
