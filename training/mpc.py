"""Model predictive control with a learned model: plans at every step, and needs few steps of the environment.

An ensemble learns what the environment does from all transitions so far; a planner draws plans of actions, lets the ensemble foretell what
they earn, and the first action of the best is taken, then everything is planned anew (Nagabandi et al. 2018, "Neural Network
Dynamics for Model-Based Deep Reinforcement Learning with Model-Free Fine-Tuning", Algorithm 1; Chua et al. 2018, "Deep Reinforcement
Learning in a Handful of Trials using Probabilistic Dynamics Models", Algorithm 1). Rewards and terminations are learned too.
What is served is the planner with its model, in one graph. The model is in `dynamics`, the planners are in `planning`.
The file reads: what can be set, the policy, one phase.

Not covered: a value of what lies beyond the horizon, noise of the environment itself, pictures.
"""

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from marina.errors import CallError
from training.policies import learning
from training.policies.dynamics import Ensemble, Fitting, Steps
from training.policies.graphs import Features, PlanningPolicy, Policy, action_size
from training.policies.learning import Experience, LearningSettings
from training.policies.observations import ObservationEncoder
from training.policies.planning import CategoricalPlans, NormalPlans, Planner, base_samples
from training.policies.replay import Replay, Transitions
from training.trained import Trained


class Settings(LearningSettings):
    """Defaults are tuned for Pendulum-v1."""

    environment: str = Field(default="Pendulum-v1", description="a gymnasium environment's id")
    steps: int = Field(default=10_000, ge=1, description="environment steps at most; fewer when the target is confirmed")
    planner: Literal["cem", "random_shooting"] = Field(
        default="cem", description="random_shooting judges as many plans, all at once, and takes the best"
    )
    horizon: int = Field(default=15, ge=1, le=200, description="steps that are planned ahead")
    plans: int = Field(default=32, ge=4, le=10_000, description="that are judged per iteration, of each observation")
    iterations: int = Field(default=3, ge=1, le=20, description="times that plans are drawn nearer to the best ones")
    elites: int = Field(default=6, ge=1, description="plans of an iteration that the next ones are drawn about; fewer than plans")
    deviation: float = Field(default=1.0, gt=0, description="of the first plans, in halves of the action's range")
    correlation: float = Field(default=0.8, ge=0, lt=1, description="of successive actions in the first plans; Box alone")
    exploration_noise: float = Field(
        default=0.1,
        ge=0,
        description="deviation of the noise on actions in the environment, in halves of "
        "the range; of Discrete actions the share of random ones",
    )
    members: int = Field(default=3, ge=1, le=32, description="networks that learn the environment")
    hidden: tuple[int, ...] = Field(default=(32, 32), min_length=1, description="units of the hidden layers of each")
    activation: Literal["tanh", "relu"] = Field(default="relu", description="of the hidden layers")
    learning_rate: float = Field(default=2e-3, gt=0, description="of Adam")
    batch_size: int = Field(default=64, ge=2, description="transitions per gradient step")
    epochs: int = Field(default=60, ge=1, description="over all transitions at most, each time that the model learns")
    patience: int = Field(default=5, ge=1, description="epochs without progress on held-out transitions that end it")
    held_out: float = Field(default=0.1, gt=0, lt=0.9, description="share of the transitions that tell when to stop")
    copies: int = Field(default=4, ge=1, le=1024, description="environments that step together")
    phase_steps: int = Field(default=50, ge=1, description="steps of every copy before the model learns anew")
    warmup_steps: int = Field(default=400, ge=20, description="environment steps with random actions before it learns first")
    replay: int = Field(default=100_000, ge=100, description="transitions that are remembered")
    screening_every: int = Field(default=400, ge=1, description="environment steps between two looks at the policy")

    @model_validator(mode="after")
    def _some_are_no_elites(self) -> "Settings":
        if self.elites >= self.plans:
            raise ValueError(f"elites ({self.elites}) must be fewer than plans ({self.plans})")
        return self

    @field_validator("action_masks")
    @classmethod
    def _no_masks(cls, wanted: bool) -> bool:
        if wanted:
            raise ValueError("the model doesn't learn what will be allowed later in a plan; leave it out, or train by dqn or ppo")
        return wanted


class Planning(nn.Module):
    """The ensemble and the planner. Raises CallError unless actions are Discrete or a Box with finite bounds."""

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any]) -> None:
        super().__init__()
        box = action["type"] == "box" and None not in np.ravel(np.array([action["low"], action["high"]], object))
        if not box and action["type"] != "discrete":
            raise CallError(f"{settings.environment} acts by {action}; this recipe takes Discrete actions and a Box with finite bounds")
        self.observation, self.action = observation, action
        self.encoder, self.size = ObservationEncoder(observation, normalise=False), action_size(action)
        self.ensemble = Ensemble(settings.members, self.encoder.width, self.size, settings.hidden, settings.activation)
        self.low, self.high = (np.ravel(np.array(action[name], np.float32)) if box else np.zeros(1, np.float32) for name in ("low", "high"))
        bounds = torch.from_numpy(self.low), torch.from_numpy(self.high)
        plans: NormalPlans | CategoricalPlans = NormalPlans(*bounds, settings.deviation) if box else CategoricalPlans(self.size)
        shooting = settings.planner == "random_shooting"
        counts = (1, settings.plans * settings.iterations) if shooting else (settings.iterations, settings.plans)
        base = base_samples((*counts, settings.horizon, self.size), not box, settings.correlation)
        self.planner = Planner(self.ensemble, plans, base, elites=1 if shooting else settings.elites)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The first steps of plans, [B, w] to [B, n]."""
        first: torch.Tensor = self.planner(features)[0]
        return first

    @torch.no_grad()
    def first(self, observations: np.ndarray) -> np.ndarray:
        """The same in NumPy, of observations as the environment gives them."""
        found: np.ndarray = self(torch.from_numpy(self.encoder(observations))).numpy()
        return found

    def act(self, observations: np.ndarray) -> np.ndarray:
        """The actions that are planned."""
        return self.to_environment(self.first(observations))

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """From one row per action, as the model takes them, to what the environment takes."""
        chosen: np.ndarray = actions.argmax(1) if self.action["type"] == "discrete" else actions.reshape(-1, *self.action["shape"])
        return chosen

    def served(self) -> Policy:
        """The graph, in eval mode, with weights of its own."""
        return PlanningPolicy(Features(self.observation, None), copy.deepcopy(self.planner), self.action).eval()


class Learner:
    """Planning and learning by turns; a phase is some steps of all copies and the fitting of the model after them."""

    loss, exploration = "error of the model", "exploration noise"

    def __init__(self, settings: Settings, observation: dict[str, Any], action: dict[str, Any], seed: int) -> None:
        self.settings, self.policy = settings, Planning(settings, observation, action)
        self.fitting = Fitting(self.policy.ensemble, settings.learning_rate, settings.batch_size)
        self.experience = Experience(settings.environment, settings.copies, seed, settings.made_with, settings.envpool)
        self.replay = Replay(settings.replay, self.policy.encoder.width, self.policy.size)
        self.held_out = np.random.default_rng(seed).random(settings.replay) < settings.held_out  # by place, for good
        self.held_out[:2] = True, False

    def phase(self) -> tuple[float, float]:
        """(the model's error on held-out transitions, the noise); before there are enough, NaN."""
        settings, random = self.settings, self.experience.random
        self.collect()
        if not self.warm:
            return float("nan"), settings.exploration_noise
        error = self.fitting.fit(self.steps(), self.held_out[: len(self.replay)], random, settings.epochs, settings.patience)
        return error, settings.exploration_noise

    @property
    def warm(self) -> bool:
        """Whether there is enough to learn from."""
        return self.replay.added >= self.settings.warmup_steps

    def collect(self) -> None:
        """`phase_steps` steps of every copy, at random until it is warm; a row that only resets a copy is left out."""
        experience, policy, rows = self.experience, self.policy, []
        before = policy.encoder(experience.observations)
        for _ in range(self.settings.phase_steps):
            actions = self.explored(policy.first(experience.observations)) if self.warm else self.random_actions(len(before))
            rewards, terminated, _, real = experience.step(policy.to_environment(actions))
            after = policy.encoder(experience.observations)
            rows.append(np.column_stack((before, after, actions, rewards, terminated))[real].astype(np.float32))
            before = after
        self.replay.add(Transitions(*torch.split(torch.from_numpy(np.concatenate(rows)), self.replay.columns, 1)))

    def random_actions(self, count: int) -> np.ndarray:
        """Uniform, float32 [count, n]; one-hot of Discrete actions."""
        random, policy = self.experience.random, self.policy
        if policy.action["type"] == "discrete":
            return np.eye(policy.size, dtype=np.float32)[random.integers(policy.size, size=count)]
        return random.uniform(policy.low, policy.high, (count, policy.size)).astype(np.float32)

    def explored(self, actions: np.ndarray) -> np.ndarray:
        """What was planned, disturbed."""
        random, policy, noise = self.experience.random, self.policy, self.settings.exploration_noise
        if policy.action["type"] == "discrete":
            others = random.random((len(actions), 1)) < noise
            return np.where(others, self.random_actions(len(actions)), np.eye(policy.size, dtype=np.float32)[actions.argmax(1)])
        disturbed = actions + noise * (policy.high - policy.low) / 2 * random.standard_normal(actions.shape)
        kept: np.ndarray = disturbed.clip(policy.low, policy.high).astype(np.float32)
        return kept

    def steps(self) -> Steps:
        """All that is remembered."""
        columns = torch.split(self.replay.rows[: len(self.replay)], self.replay.columns, 1)
        observations, following, actions, rewards, terminated = (column.numpy() for column in columns)
        return Steps(observations, following, actions, rewards[:, 0], terminated[:, 0])


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn until the target return is confirmed or the steps are used up, and hand over the best policy seen.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces don't fit.
    """
    return learning.train(settings, seed, report, Learner)
