"""A policy that is a table: for environments with few states and few actions, by any method of training/tabular.

The environment's transition table becomes arrays (tabular/mdp). Planning sums over them; the other methods don't look into
them, but let many copies step through them at once. Reported and served is the greedy policy, in the real environment.

Covered are environments that carry a table, FrozenLake, Taxi and CliffWalking among them, and Blackjack, whose three numbers
the served graph turns into a row of the table. Not covered: others with discrete observations, which dqn learns.
"""

import hashlib
import time
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pydantic import Field
from torch import nn

from marina.errors import CallError
from marina.spec import Section
from training.policies import rollout
from training.tabular import control, drawing, exploration, monte_carlo, planning, replay, traces, worlds
from training.tabular.copies import Finished, Learned, Learning
from training.tabular.mdp import FiniteMDP, from_environment
from training.trained import Trained


def value_iteration(world: FiniteMDP, how: Learning) -> Learned:
    """Planning, in the form of the methods that learn."""
    nothing = np.zeros(0, np.int64)
    return Learned(planning.value_iteration(world, how.gamma)[0][None], Finished(nothing, nothing, nothing, np.zeros(0)))


METHODS = {
    "value_iteration": value_iteration,
    "q_learning": control.q_learning,
    "sarsa": control.sarsa,
    "expected_sarsa": control.expected_sarsa,
    "double_q_learning": control.double_q_learning,
    "sarsa_lambda": traces.sarsa_lambda,
    "watkins_q": traces.watkins_q,
    "monte_carlo": monte_carlo.control,
    "dyna_q": replay.dyna_q,
}
LIMIT = 1000  # steps of an episode where the environment has no limit: a policy that walks in a circle must end too


class Settings(Section):
    """Defaults are tuned for FrozenLake-v1."""

    environment: str = Field(default="FrozenLake-v1", description="a gymnasium environment's id")
    environment_options: dict[str, Any] = Field(default={}, description="what it is made with, like {map_name: 8x8, is_slippery: true}")
    method: Literal[tuple(METHODS)] = Field(  # type: ignore[valid-type]
        default="q_learning", description="how it learns; value_iteration is given the model"
    )
    steps: int = Field(default=500_000, ge=1, description="environment steps, of all copies together")
    copies: int = Field(default=16, ge=1, le=10_000, description="environments that step together and fill one table")
    gamma: float = Field(default=0.99, gt=0, le=1, description="discount per step")
    alpha: float = Field(default=1.0, gt=0, le=1, description="step size of an update, divided by visits^power; monte_carlo takes means")
    power: float = Field(default=0.6, ge=0, le=1, description="0 keeps the step size: best without chance; above 0.5 it converges with it")
    exploration: Literal["epsilon_greedy", "glie", "boltzmann"] = Field(default="epsilon_greedy", description="how actions are tried")
    epsilon: float = Field(default=0.1, ge=0, le=1, description="share of random actions (epsilon_greedy)")
    half_visits: float = Field(default=1000, gt=0, description="visits of a state after which half of its actions are random (glie)")
    temperature: float = Field(default=0.1, gt=0, description="differences of value that still count (boltzmann)")
    initial: float = Field(default=0.0, description="first value of every action; above what can be earned, all are tried")
    trace: float = Field(default=0.9, ge=0, le=1, description="lambda (sarsa_lambda, watkins_q)")
    planning: int = Field(default=5, ge=0, description="updates by the learned model per step (dyna_q)")
    evaluation_episodes: int = Field(default=1000, ge=2, description="episodes whose returns are reported")


class TablePolicy(nn.Module):
    """What is served: observations int64 [B], or [B, n] of `sizes`, to {"action": int64 [B], "q_values": float32 [B, actions]}."""

    def __init__(self, q: np.ndarray, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.from_numpy(q.astype(np.float32)), requires_grad=False)
        self.strides: torch.Tensor
        strides = [int(np.prod(sizes[place + 1 :])) for place in range(len(sizes))]
        self.register_buffer("strides", torch.tensor(strides))

    def forward(self, observations: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The best action of those that `action_mask` (bool [B, actions]) allows, and what decided."""
        values = self.q[(observations.reshape(-1, len(self.strides)) * self.strides).sum(1)]
        return {"action": values.masked_fill(~action_mask, -torch.inf).argmax(1), "q_values": values}

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Greedy actions, int64 [B], as `rollout` asks for them."""
        mask = torch.ones(len(observations), self.q.shape[1], dtype=torch.bool)
        actions: np.ndarray = self(torch.from_numpy(observations.astype(np.int64)), mask)["action"].numpy()
        return actions


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Fill the table and hand over its greedy policy; metrics mean_return and std_return over `evaluation_episodes`.

    The same seed gives the same table. Raises CallError for an environment that has no table or isn't made with these options.
    """
    started, cpu = time.perf_counter(), time.process_time()
    if "render_mode" in settings.environment_options:
        raise CallError("environment_options: render_mode: training doesn't draw; leave it out, and see marina play --gif")
    env = rollout.make(settings.environment, **settings.environment_options)
    env.close()
    sizes, world = observation_sizes(env), world_of(env)
    options, limit = dict(settings.environment_options), (env.spec and env.spec.max_episode_steps) or 0
    if limit < 1:
        options["max_episode_steps"] = limit = LIMIT
    q, finished = learned(settings, seed, world, limit)
    policy = TablePolicy(q[: int(np.prod(sizes))], sizes).eval()
    returns = rollout.episode_returns(
        policy.act, settings.environment, settings.evaluation_episodes, rollout.EVALUATION_SEED, options=options
    )
    observations = met(policy, settings.environment, options)
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    drawing.draw(env, policy.q.numpy(), finished, settings.copies, report)
    digest = hashlib.sha256(b"".join(part.tobytes() for part in (world.probability, world.following, world.rewards, world.start)))
    single = isinstance(env.observation_space, spaces.Discrete)
    return Trained(
        kind="policy",
        module=policy,
        example=(torch.zeros((2,) if single else (2, len(sizes)), dtype=torch.int64), torch.ones(2, world.actions, dtype=torch.bool)),
        metrics={"mean_return": float(returns.mean()), "std_return": float(returns.std(ddof=1)), "episodes": len(returns)},
        preprocess={
            "input": "observation",
            "inputs": ["observation", "action_mask"],
            "shape": [] if single else [len(sizes)],
            "dtype": "int64",
            "low": 0 if single else [0] * len(sizes),
            "high": sizes[0] - 1 if single else [size - 1 for size in sizes],
            **({"names": NAMES[env.spec.name]} if env.spec and env.spec.name in NAMES else {}),
            "environment": settings.environment,
            "environment_version": gymnasium.__version__,
            "environment_options": options,
        },
        postprocess={
            "type": "policy",
            "action_space": {"type": "discrete", "n": world.actions},
            "deterministic": True,
            "outputs": ["q_values"],
        },
        samples=rollout.golden_samples(observations, policy.act(observations), np.ones(len(observations), bool)),
        data={
            "name": settings.environment,
            "source": f"gymnasium {gymnasium.__version__}",
            "licence": "MIT",
            "fingerprint": digest.hexdigest(),
            "states": world.states,
            "episodes": len(finished.step),
        },
        training={"episodes_done": len(finished.step), **spent},
    )


NAMES = {"Blackjack": ["own sum", "dealer's card", "usable ace"]}


def observation_sizes(env: gymnasium.Env[Any, Any]) -> tuple[int, ...]:
    """How many values each number of an observation has. Raises CallError unless it is Discrete or a Tuple of such, from 0."""
    space = env.observation_space
    parts = space.spaces if isinstance(space, spaces.Tuple) else [space]
    if not all(isinstance(part, spaces.Discrete) and part.start == 0 for part in parts):
        raise CallError(f"{env.spec and env.spec.id} observes {space}; a table takes Discrete and Tuples of it that start at 0; see dqn")
    return tuple(int(part.n) for part in parts)  # type: ignore[attr-defined]


def world_of(env: gymnasium.Env[Any, Any]) -> FiniteMDP:
    """The environment's model. Raises CallError where there is none."""
    if env.spec and env.spec.name == "Blackjack" and not env.spec.namespace:
        if env.spec.kwargs.get("natural"):
            raise CallError("environment_options: natural: a natural that pays 1.5 is not in the model of Blackjack; leave it out")
        return worlds.blackjack(natural_wins=bool(env.spec.kwargs.get("sab")))
    return from_environment(env)


def learned(settings: Settings, seed: int, world: FiniteMDP, limit: int) -> tuple[np.ndarray, Finished]:
    """(q float64 [S + 1, A], the episodes that it took) by the method that is set."""
    explore = {
        "epsilon_greedy": exploration.epsilon_greedy(settings.epsilon),
        "glie": exploration.glie(settings.half_visits),
        "boltzmann": exploration.boltzmann(settings.temperature),
    }[settings.exploration]
    how = Learning(
        explore,
        steps=-(-settings.steps // settings.copies),
        limit=limit,
        seed=seed,
        **settings.model_dump(include={"alpha", "power", "gamma", "initial", "copies", "trace", "planning"}),
    )
    found = METHODS[settings.method](world, how)
    return found.q[0], found.finished


def met(policy: TablePolicy, environment: str, options: dict[str, Any]) -> np.ndarray:
    """Different observations, int64 [n] or [n, numbers], of a few evaluation episodes, in the order they are met."""
    seeds = range(rollout.EVALUATION_SEED, rollout.EVALUATION_SEED + 16)
    seen = np.concatenate([rollout.episode_observations(policy.act, environment, seed, options) for seed in seeds])
    first = np.unique(seen, axis=0, return_index=True)[1]
    observations: np.ndarray = seen[np.sort(first)]
    return observations
