"""Model predictive control with a learned model: plans at every step, and needs few steps of the environment.

An ensemble learns the environment's dynamics from all transitions so far; a planner samples plans of actions,
lets the ensemble predict their returns, takes the first action of the best, and plans again at the next step
(Nagabandi et al. 2018, "Neural Network Dynamics for Model-Based Deep Reinforcement Learning with Model-Free
Fine-Tuning", Algorithm 1; Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using
Probabilistic Dynamics Models", Algorithm 1). Rewards and terminations are learned too. What is served is the
planner with its model, in one graph.

The whole story is in this file (settings, the agent, one iteration), policies/networks/dynamics.py (the
model), policies/networks/planning.py (the planners) and policies/loops/learning.py (the training loop).
policies/networks/reference_losses.py has the model's loss by autograd.

Not covered: a value beyond the horizon, noise of the environment itself, images.
"""

import copy
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from marina.core.errors import CallError
from training.export.trained import Trained
from training.policies.buffers.replay import ReplayBuffer
from training.policies.envs.training_envs import TrainingEnvs
from training.policies.graphs.features import ObservationFeatures
from training.policies.graphs.policies import PlanningPolicy, Policy
from training.policies.loops import learning
from training.policies.loops.settings import Environment, EvalFreq, NumEnvs, PolicySettings, TotalTimesteps
from training.policies.networks.dynamics import Ensemble, EnsembleTrainer, ModelData
from training.policies.networks.encoders import ObservationEncoder
from training.policies.networks.planning import CategoricalPlans, NormalPlans, Planner, base_samples
from training.policies.spaces import ActionSpec, ObservationSpec
from training.policies.state import Stateful
from training.runs.run import Run

METRICS = (*learning.RETURN_METRICS, "steps")


class Settings(PolicySettings):
    """Defaults are tuned for Pendulum-v1."""

    environment: Environment = "Pendulum-v1"
    total_timesteps: TotalTimesteps = 10_000
    planner: Literal["cem", "random_shooting"] = Field(
        default="cem", description="random_shooting evaluates as many plans, all at once, and takes the best"
    )
    horizon: int = Field(default=15, ge=1, le=200, description="planning horizon, in steps")
    population_size: int = Field(
        default=32, ge=4, le=10_000, description="plans per iteration of the planner, for each observation"
    )
    iterations: int = Field(default=3, ge=1, le=20, description="iterations of the cross-entropy method")
    elites: int = Field(
        default=6, ge=1, description="plans that the distribution is refitted to; fewer than population_size"
    )
    initial_std: float = Field(
        default=1.0, gt=0, description="of the first plans, in halves of the action's range"
    )
    correlation: float = Field(
        default=0.8, ge=0, lt=1, description="of successive actions in the first plans; Box alone"
    )
    exploration_noise: float = Field(
        default=0.1,
        ge=0,
        description="std of the noise on actions in the environment, in halves of the range; "
        "of Discrete actions the share of random ones",
    )
    ensemble_size: int = Field(default=3, ge=1, le=32, description="networks in the model's ensemble")
    hidden: tuple[int, ...] = Field(
        default=(32, 32), min_length=1, description="units of the hidden layers of each"
    )
    activation: Literal["tanh", "relu"] = Field(default="relu", description="of the hidden layers")
    learning_rate: float = Field(default=2e-3, gt=0, description="of Adam")
    batch_size: int = Field(default=64, ge=2, description="transitions per gradient step")
    n_epochs: int = Field(
        default=60, ge=1, description="passes over all transitions at most, each time that the model learns"
    )
    patience: int = Field(default=5, ge=1, description="epochs without validation progress before it stops")
    validation_ratio: float = Field(
        default=0.1, gt=0, lt=0.9, description="share of the transitions that are held out for validation"
    )
    num_envs: NumEnvs = 4
    train_freq: int = Field(
        default=50, ge=1, description="steps of every environment between two fits of the model"
    )
    learning_starts: int = Field(
        default=400, ge=20, description="environment steps with random actions before the first fit"
    )
    buffer_size: int = Field(default=100_000, ge=100, description="transitions in the replay buffer")
    eval_freq: EvalFreq = 400

    @model_validator(mode="after")
    def _check_elites(self) -> "Settings":
        if self.elites >= self.population_size:
            raise ValueError(
                f"elites ({self.elites}) must be fewer than population_size ({self.population_size})"
            )
        return self

    @field_validator("action_masks")
    @classmethod
    def _refuse_masks(cls, action_masks: bool) -> bool:
        if action_masks:
            raise ValueError(
                "the model doesn't predict which actions will be valid later in a plan; "
                "leave it out, or train by dqn or ppo"
            )
        return action_masks


class PlanningAgent(nn.Module):
    """Ensemble and planner. Raises CallError unless actions are Discrete or a Box with finite bounds."""

    def __init__(self, settings: Settings, observations: ObservationSpec, actions: ActionSpec) -> None:
        super().__init__()
        is_box = actions.is_bounded
        if not is_box and actions.type != "discrete":
            raise CallError(
                f"{settings.environment} acts by {actions}; "
                "this recipe takes Discrete actions and a Box with finite bounds"
            )
        self.observation_spec, self.action_spec = observations, actions
        self.encoder, self.action_size = ObservationEncoder(observations, normalize=False), actions.size
        self.ensemble = Ensemble(
            settings.ensemble_size,
            self.encoder.width,
            self.action_size,
            settings.hidden,
            settings.activation,
        )
        self.low, self.high = (
            np.ravel(np.array(bound, np.float32)) if is_box else np.zeros(1, np.float32)
            for bound in (actions.low, actions.high)
        )
        bounds = torch.from_numpy(self.low), torch.from_numpy(self.high)
        plans: NormalPlans | CategoricalPlans = (
            NormalPlans(*bounds, settings.initial_std) if is_box else CategoricalPlans(self.action_size)
        )
        counts, elites = (settings.iterations, settings.population_size), settings.elites
        if settings.planner == "random_shooting":
            counts, elites = (1, settings.population_size * settings.iterations), 1
        base = base_samples((*counts, settings.horizon, self.action_size), not is_box, settings.correlation)
        self.planner = Planner(self.ensemble, plans, base, elites)

    def get_extra_state(self) -> dict[str, bool]:
        """What a state dict holds besides tensors."""
        return {"has_terminations": self.ensemble.has_terminations}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        """What `get_extra_state` gave."""
        self.ensemble.has_terminations = state["has_terminations"]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The first steps of plans, [B, w] to [B, n]."""
        first: torch.Tensor = self.planner(features)[0]
        return first

    @torch.no_grad()
    def plan(self, obs: np.ndarray) -> np.ndarray:
        """The first steps of plans, [B, n], at observations as the environment gives them."""
        first: np.ndarray = self(torch.from_numpy(self.encoder(obs))).numpy()
        return first

    def act(self, obs: np.ndarray) -> np.ndarray:
        """The planned actions."""
        return self.to_environment(self.plan(obs))

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Rows [B, n], as the model takes them, to actions of the environment."""
        if self.action_spec.type == "discrete":
            choices: np.ndarray = actions.argmax(1)
            return choices
        return actions.reshape(-1, *self.action_spec.shape)

    def build_graph(self) -> Policy:
        """The served graph, in eval mode, with a copy of the weights."""
        features = ObservationFeatures(self.observation_spec, None)
        return PlanningPolicy(features, copy.deepcopy(self.planner), self.action_spec).eval()


class Learner(Stateful):
    """Plans and learns; an iteration is some steps of all environments and a fit of the model after them."""

    loss_name, exploration_name = "error of the model", "exploration noise"
    state_parts: ClassVar = ("policy", "envs", "buffer")
    state_arrays: ClassVar = ("is_validation",)

    def __init__(
        self, settings: Settings, observations: ObservationSpec, actions: ActionSpec, seed: int
    ) -> None:
        self.settings, self.policy = settings, PlanningAgent(settings, observations, actions)
        self.trainer = EnsembleTrainer(self.policy.ensemble, settings.learning_rate, settings.batch_size)
        self.envs = TrainingEnvs(
            settings.environment, settings.num_envs, seed, settings.env_kwargs, settings.envpool
        )
        self.buffer = ReplayBuffer(settings.buffer_size, self.policy.encoder.width, self.policy.action_size)
        # by place in the buffer, drawn once
        is_validation = np.random.default_rng(seed).random(settings.buffer_size) < settings.validation_ratio
        is_validation[:2] = True, False
        self.is_validation = is_validation

    def iteration(self) -> tuple[float, float]:
        """(the model's error on validation transitions, the noise); before there are enough, NaN."""
        settings, rng = self.settings, self.envs.rng
        self.collect()
        if not self.has_started:
            return float("nan"), settings.exploration_noise
        is_validation = self.is_validation[: len(self.buffer)]
        error = self.trainer.fit(self.model_data(), is_validation, rng, settings.n_epochs, settings.patience)
        return error, settings.exploration_noise

    @property
    def has_started(self) -> bool:
        """Whether learning has: the buffer holds enough."""
        return self.buffer.num_added >= self.settings.learning_starts

    def collect(self) -> None:
        """`train_freq` steps of every environment, random at first; rows that only reset are left out."""
        envs, policy, rows = self.envs, self.policy, []
        features = policy.encoder(envs.obs)
        for _ in range(self.settings.train_freq):
            actions = self.explore(envs.obs) if self.has_started else self.random_actions(len(features))
            rewards, terminated, _, valid = envs.step(policy.to_environment(actions))
            next_features = policy.encoder(envs.obs)
            columns = (features, next_features, actions, rewards, terminated)
            rows.append(np.column_stack(columns)[valid].astype(np.float32))
            features = next_features
        self.buffer.add(torch.from_numpy(np.concatenate(rows)))

    def random_actions(self, count: int) -> np.ndarray:
        """Drawn uniformly, float32 [count, n]; one-hot of Discrete actions."""
        rng, policy = self.envs.rng, self.policy
        if policy.action_spec.type == "discrete":
            choices = rng.integers(policy.action_size, size=count)
            return np.eye(policy.action_size, dtype=np.float32)[choices]
        return rng.uniform(policy.low, policy.high, (count, policy.action_size)).astype(np.float32)

    def explore(self, obs: np.ndarray) -> np.ndarray:
        """Planned actions with exploration noise, [B, n]."""
        actions = self.policy.plan(obs)
        rng, policy, noise = self.envs.rng, self.policy, self.settings.exploration_noise
        if policy.action_spec.type == "discrete":
            is_random = rng.random((len(actions), 1)) < noise
            planned = np.eye(policy.action_size, dtype=np.float32)[actions.argmax(1)]
            return np.where(is_random, self.random_actions(len(actions)), planned)
        noisy = actions + noise * (policy.high - policy.low) / 2 * rng.standard_normal(actions.shape)
        clipped: np.ndarray = noisy.clip(policy.low, policy.high).astype(np.float32)
        return clipped

    def model_data(self) -> ModelData:
        """All transitions in the buffer."""
        obs, next_obs, actions, rewards, terminated = (column.numpy() for column in self.buffer.all())
        return ModelData(obs, next_obs, actions, rewards[:, 0], terminated[:, 0])


def train(settings: Settings, run: Run) -> Trained:
    """Learn until the target return is confirmed or the steps are used up; hand over the best policy.

    The same seed gives the same policy on the same machine. Raises CallError for an environment whose spaces
    don't fit.
    """
    return learning.train(settings, run, Learner)
