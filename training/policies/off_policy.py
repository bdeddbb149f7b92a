"""What the actor-critic methods with a replay share: the actor within its bounds, experience, the target critics.

Inside, actions are within -1..1 in every component; the environment and the served graph know the bounds of the Box. The critics
stand side by side and are updated by one call; so are their targets, which follow them slowly (polyak averaging).
"""

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from marina.errors import CallError
from training.policies.graphs import Bounds, action_size
from training.policies.learning import Experience, LearningSettings
from training.policies.observations import ObservationEncoder
from training.policies.replay import Replay, Transitions
from training.policies.small_networks import Adam, Perceptrons, answer, backward, flatten, passes


class OffPolicySettings(LearningSettings):
    """What SAC and TD3 have; defaults are tuned for Pendulum-v1."""

    environment: str = Field(default="Pendulum-v1", description="a gymnasium environment's id")
    steps: int = Field(default=20_000, ge=1, description="environment steps at most; fewer when the target is confirmed")
    hidden: tuple[int, ...] = Field(default=(64, 64), description="units of the hidden layers, of actor and critics each")
    activation: Literal["tanh", "relu"] = Field(default="relu", description="of the hidden layers")
    copies: int = Field(default=4, ge=1, le=1024, description="environments that step together")
    gradient_steps: float = Field(default=1.0, gt=0, description="per environment step")
    phase_steps: int = Field(default=4, ge=1, description="steps of every copy before the gradient steps for all of them")
    batch_size: int = Field(default=256, ge=2, description="transitions per gradient step")
    learning_rate: float = Field(default=1e-3, gt=0, description="of Adam, for actor and critics")
    gamma: float = Field(default=0.98, ge=0, lt=1, description="discount per step")
    polyak: float = Field(default=0.005, gt=0, le=1, description="share of the way that the targets follow per gradient step")
    replay: int = Field(default=200_000, ge=1, description="transitions that are remembered")
    warmup_steps: int = Field(default=400, ge=0, description="environment steps with random actions before the first gradient step")
    hold: int = Field(default=1, ge=1, description="steps for which those random actions are held: more gets further from the start")
    screening_every: int = Field(default=500, ge=1, description="environment steps between two looks at the policy")


class BoundedActor(torch.nn.Module):
    """The network and the bounds of its actions. Raises CallError unless they are a Box with finite bounds."""

    def __init__(self, settings: OffPolicySettings, observation: dict[str, Any], action: dict[str, Any], outputs: int) -> None:
        super().__init__()
        if action["type"] != "box" or None in np.ravel(np.array([action["low"], action["high"]], object)):
            raise CallError(f"{settings.environment} acts by {action}; this recipe takes a Box of real numbers with finite bounds")
        self.observation, self.action, self.activation = observation, action, settings.activation
        self.encoder, self.size = ObservationEncoder(observation, normalise=False), action_size(action)
        self.networks = Perceptrons(1, (self.encoder.width, *settings.hidden, outputs * self.size), settings.activation)
        self.bounds = Bounds(action, squashed=True)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """From -1..1 [B, n] to the Box's own units [B, *shape]."""
        low, high = self.bounds.low.numpy(), self.bounds.high.numpy()
        shaped: np.ndarray = low + 0.5 * (actions.reshape(-1, *low.shape) + 1) * (high - low)
        return shaped


class Critics(torch.nn.Module):
    """`count` action values side by side, and targets that follow them.

    Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", section 3; two of them: Fujimoto et al. 2018.
    """

    def __init__(self, count: int, settings: OffPolicySettings, width: int) -> None:
        super().__init__()
        self.networks, self.target = (Perceptrons(count, (width, *settings.hidden, 1), settings.activation) for _ in range(2))
        self.flat, self.flat_target = flatten(self.networks), flatten(self.target)
        assert self.flat.grad is not None
        self.settings = settings
        self.gradient, self.gradients = self.flat.grad.numpy(), self.networks.gradients()  # the same memory for NumPy
        self.arrays, self.target_arrays = self.networks.arrays(slice(None)), self.target.arrays(slice(None))
        self.adam = Adam(self.flat.detach().numpy(), epsilon=1e-8)
        self.follow(1.0)

    def forward(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Values [count, B]."""
        values: torch.Tensor = self.networks(torch.cat((features, actions), 1))
        return values.squeeze(2)

    def improve(self, rows: np.ndarray, targets: np.ndarray) -> float:
        """One gradient step on half the mean squared error of each, at features and actions [B, w + n]; returns it as it was before."""
        passed = passes(self.arrays, self.settings.activation, rows)
        errors = passed[-1] - targets[:, None]
        backward(self.arrays, self.settings.activation, passed, errors / np.float32(len(rows)), self.gradients)
        self.adam.step(self.gradient, self.settings.learning_rate)
        return float(0.5 * np.square(errors).sum() / len(rows))

    def least(self, rows: np.ndarray) -> np.ndarray:
        """The lowest of the targets, [B]: against overestimation (Fujimoto et al. 2018, equation 10)."""
        values: np.ndarray = answer(self.target_arrays, self.settings.activation, rows)[:, :, 0].min(0)
        return values

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Move the targets by `share` of the way."""
        self.flat_target.lerp_(self.flat, share)


class ReplayedExperience:
    """Experience that goes into a replay, real transitions only, with actions within -1..1."""

    def __init__(self, actor: BoundedActor, settings: OffPolicySettings, seed: int) -> None:
        self.actor, self.settings = actor, settings
        self.experience = Experience(settings.environment, settings.copies, seed, settings.made_with, settings.envpool)
        self.replay = Replay(settings.replay, actor.encoder.width, actor.size)
        self.generator = torch.Generator().manual_seed(seed)
        self.owed = 0.0  # gradient steps
        self.held, self.steps = np.zeros((settings.copies, actor.size), np.float32), 0

    @property
    def warm(self) -> bool:
        """Whether there is enough to learn from."""
        return self.replay.added >= self.settings.warmup_steps

    def collect(self, explore: Any) -> None:
        """`phase_steps` steps by `explore`, features [copies, w] to actions [copies, n]; at random until it is warm.

        After an end, a copy's next row only resets it and is left out. A truncated step is not marked as terminated, so its
        target bootstraps from the true last observation.
        """
        experience, rows = self.experience, []
        before = self.actor.encoder(experience.observations)
        for _ in range(self.settings.phase_steps):
            actions = explore(before) if self.warm else self._random()
            rewards, terminated, _, real = experience.step(self.actor.to_environment(actions))
            after = self.actor.encoder(experience.observations)
            rows.append(np.column_stack((before, after, actions, rewards, terminated))[real].astype(np.float32))
            before = after
        packed = torch.from_numpy(np.concatenate(rows))
        self.replay.add(Transitions(*torch.split(packed, self.replay.columns, 1)))
        self.owed += len(packed) * self.settings.gradient_steps * self.warm

    def _random(self) -> np.ndarray:
        """Uniform actions, each for `hold` steps (Dabney, Ostrovski and Barreto 2021, "Temporally-Extended epsilon-Greedy Exploration")."""
        if self.steps % self.settings.hold == 0:
            self.held = self.experience.random.uniform(-1, 1, self.held.shape).astype(np.float32)
        self.steps += 1
        return self.held

    def batches(self) -> list[Transitions]:
        """One batch for every gradient step that is due, in one gather."""
        due = int(self.owed)
        if not due or not self.warm:
            return []
        self.owed -= due
        drawn = self.replay.sample(due * self.settings.batch_size, self.generator)
        return [Transitions(*parts) for parts in zip(*(torch.split(part, self.settings.batch_size) for part in drawn), strict=True)]
