"""The rows of `marina bench rl`.

They are recipes of docs/recipes, each beside stable-baselines3 with the settings of rl-baselines3-zoo.

A recipe says its algorithm, environment, settings, budget and, as its floor, the return to be reached. Rows
stand in the order of what they cost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from marina.core import paths
from marina.core.spec import Spec, parse


def falling(first: float) -> Callable[[float], float]:
    """The zoo's lin_...: from `first` to 0."""
    return lambda left: first * left


@dataclass(frozen=True)
class Counterpart:
    """A training of stable-baselines3, or of sb3-contrib for TRPO."""

    algorithm: str  # the class
    num_envs: int  # environments that step together
    steps: int  # environment steps at most
    options: dict[str, Any] = field(default_factory=dict)
    normalised: bool = False  # observations and rewards, by VecNormalize
    noise: float | None = None  # deviation of the normal noise on actions
    seeds: int = 5  # at most: fewer where one takes minutes


@dataclass(frozen=True)
class Row:
    """One line of the table for us, one for them."""

    recipe: str  # in docs/recipes
    counterpart: Counterpart | None = None  # none: they have no such algorithm, or it stands in another row
    quick: bool = False  # within a few minutes

    @cached_property
    def spec(self) -> Spec:
        """The recipe. Raises CallError as `marina.spec.parse` does."""
        path = paths.SOURCE / "docs" / "recipes" / f"{self.recipe}.yaml"
        return parse(path.read_text(encoding="utf-8"), self.recipe, str(path))


CARTPOLE_PPO = {
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 20,
    "ent_coef": 0.0,
}
CARTPOLE_TRPO = {
    "n_steps": 512,
    "batch_size": 512,
    "cg_damping": 1e-3,
    "gae_lambda": 0.98,
    "gamma": 0.99,
    "n_critic_updates": 20,
}
CARTPOLE_DQN = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}
PENDULUM_PPO = {
    "n_steps": 1024,
    "gae_lambda": 0.95,
    "gamma": 0.9,
    "n_epochs": 10,
    "ent_coef": 0.0,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
    "use_sde": True,
    "sde_sample_freq": 4,
}
PENDULUM_TRPO = {"n_steps": 1024, "gamma": 0.9, "n_critic_updates": 15, "use_sde": True, "sde_sample_freq": 4}
PENDULUM_TD3 = {"gamma": 0.98, "buffer_size": 200_000, "learning_starts": 10_000, "learning_rate": 1e-3}
ACROBOT_PPO = {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0}
MOUNTAIN_CAR_PPO = {"n_steps": 16, "gae_lambda": 0.98, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0}
MOUNTAIN_CAR_SAC = {
    "learning_rate": 3e-4,
    "buffer_size": 50_000,
    "batch_size": 512,
    "ent_coef": 0.1,
    "train_freq": 32,
    "gradient_steps": 32,
    "gamma": 0.9999,
    "tau": 0.01,
    "learning_starts": 0,
    "use_sde": True,
    "policy_kwargs": {"log_std_init": -3.67, "net_arch": [64, 64]},
}
INVERTED_PENDULUM_PPO = {
    "batch_size": 64,
    "n_steps": 32,
    "gamma": 0.999,
    "learning_rate": 0.000222425,
    "ent_coef": 1.37976e-07,
    "clip_range": 0.4,
    "n_epochs": 5,
    "gae_lambda": 0.9,
    "max_grad_norm": 0.3,
    "vf_coef": 0.19816,
}
LUNAR_LANDER_DQN = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
    "policy_kwargs": {"net_arch": [256, 256]},
}

PLAN = (
    Row(
        "cartpole-ppo",
        Counterpart(
            "PPO", 8, 100_000, {**CARTPOLE_PPO, "learning_rate": falling(1e-3), "clip_range": falling(0.2)}
        ),
        quick=True,
    ),
    Row("cartpole-a2c", Counterpart("A2C", 8, 500_000, {"ent_coef": 0.0}), quick=True),
    Row("cartpole-reinforce", quick=True),
    Row(
        "cartpole-trpo", Counterpart("TRPO", 2, 100_000, {**CARTPOLE_TRPO, "learning_rate": 1e-3}), quick=True
    ),
    Row("acrobot", Counterpart("PPO", 16, 1_000_000, ACROBOT_PPO, normalised=True), quick=True),
    Row("pendulum-ppo", Counterpart("PPO", 4, 100_000, PENDULUM_PPO), quick=True),
    Row("pendulum-trpo", Counterpart("TRPO", 2, 100_000, PENDULUM_TRPO)),
    Row("inverted-pendulum", Counterpart("PPO", 1, 1_000_000, INVERTED_PENDULUM_PPO, normalised=True)),
    Row("mountain-car", Counterpart("PPO", 16, 1_000_000, MOUNTAIN_CAR_PPO, normalised=True)),
    Row("cartpole-dqn", Counterpart("DQN", 1, 50_000, CARTPOLE_DQN)),
    Row("cartpole-rainbow"),
    Row("pendulum", Counterpart("SAC", 1, 20_000, {"learning_rate": 1e-3})),
    Row(
        "pendulum-td3",
        Counterpart("TD3", 1, 20_000, {**PENDULUM_TD3, "policy_kwargs": {"net_arch": [400, 300]}}, noise=0.1),
    ),
    Row(
        "pendulum-ddpg",
        Counterpart(
            "DDPG", 1, 20_000, {**PENDULUM_TD3, "policy_kwargs": {"net_arch": [400, 300]}}, noise=0.1
        ),
    ),
    Row("pendulum-mpc"),
    Row("mountain-car-continuous", Counterpart("SAC", 1, 50_000, MOUNTAIN_CAR_SAC)),
    Row("lunar-lander", Counterpart("DQN", 1, 100_000, LUNAR_LANDER_DQN, seeds=3)),
)


def select_rows(only: list[str], quick: bool) -> list[Row]:
    """The rows with a recipe, algorithm or environment in `only` (empty: all), `quick`: short ones."""
    rows = [row for row in PLAN if row.quick or not quick]
    return [
        row
        for row in rows
        if not only
        or {row.recipe, row.spec.training.recipe, row.spec.training.settings["environment"]} & {*only}
    ]
