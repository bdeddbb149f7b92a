"""A policy that is a table, for few states and few actions, by any method of policies/tabular.

The environment's transition table becomes arrays. Value iteration plans with them; the other methods use them
to step many environments at once, not as a model. The greedy policy is evaluated in the real environment.

Covered are environments with a transition table, FrozenLake, Taxi and CliffWalking among them, and Blackjack,
whose three numbers the served graph turns into a row of the table. Not covered: others with discrete
observations, which dqn learns.

The whole story is in this file (settings, policy, report) and in policies/tabular: mdp.py (the model),
vector_mdp.py (environments and table), and one short file per method.
"""

import hashlib
import time
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pydantic import Field
from torch import nn

from marina.core.errors import CallError
from marina.core.spec import Section
from training.export.trained import Trained
from training.policies.envs.checked import STEP_LIMIT
from training.policies.envs.evaluate import EVALUATION_SEED, episode_returns, record_episode
from training.policies.envs.make import make
from training.policies.graphs.export import golden_samples
from training.policies.loops.learning import RETURN_METRICS, returns_summary
from training.policies.loops.settings import RENAMED, Environment
from training.policies.spaces import ActionSpec, ObservationSpec
from training.policies.tabular import control, exploration, monte_carlo, planning, replay, traces, worlds
from training.policies.tabular.mdp import FiniteMDP, from_environment
from training.policies.tabular.plots import plot_table
from training.policies.tabular.vector_mdp import ControlConfig, ControlResult, EpisodeLog
from training.runs.run import Run

METRICS = RETURN_METRICS


def value_iteration(world: FiniteMDP, config: ControlConfig) -> ControlResult:
    """Planning, with the signature of the methods that learn."""
    empty = np.zeros(0, np.int64)
    q, _ = planning.value_iteration(world, config.gamma)
    return ControlResult(q[None], EpisodeLog(empty, empty, empty, np.zeros(0)))


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
OBSERVATION_NAMES = {"Blackjack": ["own sum", "dealer's card", "usable ace"]}


class Settings(Section):
    """Defaults are tuned for FrozenLake-v1."""

    renamed: ClassVar[dict[str, str]] = RENAMED

    environment: Environment = "FrozenLake-v1"
    environment_options: dict[str, Any] = Field(
        default={}, description="arguments of the environment, like {map_name: 8x8, is_slippery: true}"
    )
    method: Literal[tuple(METHODS)] = Field(  # type: ignore[valid-type]
        default="q_learning", description="how it learns; value_iteration uses the model"
    )
    total_timesteps: int = Field(
        default=500_000, ge=1, description="environment steps, of all environments together"
    )
    num_envs: int = Field(
        default=16, ge=1, le=10_000, description="environments that step together and fill one table"
    )
    gamma: float = Field(default=0.99, gt=0, le=1, description="discount per step")
    alpha: float = Field(
        default=1.0, gt=0, le=1, description="step size, divided by visits^power; monte_carlo uses means"
    )
    power: float = Field(
        default=0.6, ge=0, le=1, description="0: constant, best if deterministic; else above 0.5 converges"
    )
    exploration: Literal["epsilon_greedy", "glie", "boltzmann"] = Field(
        default="epsilon_greedy", description="how actions are explored"
    )
    epsilon: float = Field(default=0.1, ge=0, le=1, description="share of random actions (epsilon_greedy)")
    half_visits: float = Field(
        default=1000, gt=0, description="visits of a state after which half of its actions are random (glie)"
    )
    temperature: float = Field(default=0.1, gt=0, description="of the softmax over action values (boltzmann)")
    initial: float = Field(
        default=0.0,
        description="initial action value; above every return (optimistic), all actions are tried",
    )
    trace: float = Field(default=0.9, ge=0, le=1, description="lambda (sarsa_lambda, watkins_q)")
    planning_steps: int = Field(default=5, ge=0, description="updates by the learned model per step (dyna_q)")
    evaluation_episodes: int = Field(default=1000, ge=2, description="episodes of the reported return")


class TablePolicy(nn.Module):
    """Observations int64 [B], or [B, n] of `sizes`, to the best action and its row of the table.

    Gives {"action": int64 [B], "q_values": float32 [B, actions]}.
    """

    def __init__(self, q: np.ndarray, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.from_numpy(q.astype(np.float32)), requires_grad=False)
        self.strides: torch.Tensor
        strides = [int(np.prod(sizes[axis + 1 :])) for axis in range(len(sizes))]
        self.register_buffer("strides", torch.tensor(strides))

    def forward(self, obs: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The best valid action by `action_mask` (bool [B, actions]), and the action values."""
        q_values = self.q[(obs.reshape(-1, len(self.strides)) * self.strides).sum(1)]
        return {"action": q_values.masked_fill(~action_mask, -torch.inf).argmax(1), "q_values": q_values}

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Greedy actions, int64 [B], as evaluations ask for them."""
        mask = torch.ones(len(obs), self.q.shape[1], dtype=torch.bool)
        actions: np.ndarray = self(torch.from_numpy(obs.astype(np.int64)), mask)["action"].numpy()
        return actions


def train(settings: Settings, run: Run) -> Trained:
    """Fill the table and hand over its greedy policy, measured over `evaluation_episodes`.

    The same seed gives the same table. Raises CallError for an environment that has no table or can't be made
    with these options.
    """
    started, started_cpu = time.perf_counter(), time.process_time()
    if "render_mode" in settings.environment_options:
        raise CallError(
            "environment_options: render_mode: training doesn't draw; leave it out, and see marina play --gif"
        )
    env = make(settings.environment, **settings.environment_options)
    env.close()
    sizes, world = observation_sizes(env), model_of(env)
    options, limit = settings.environment_options, (env.spec and env.spec.max_episode_steps) or STEP_LIMIT
    result = learn_table(settings, run.seed, world, limit)
    policy = TablePolicy(result.q[0][: int(np.prod(sizes))], sizes).eval()
    returns = episode_returns(
        policy.act, settings.environment, settings.evaluation_episodes, EVALUATION_SEED, env_kwargs=options
    )
    obs = visited_observations(policy, settings.environment, options)
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - started_cpu}
    plot_table(env, policy.q.numpy(), result.episodes, settings.num_envs, run.report)
    arrays = (world.probability, world.next_states, world.rewards, world.start)
    num_episodes = len(result.episodes.step)
    return Trained(
        **describe_table(settings, policy, env, sizes, world, options),
        metrics=returns_summary(returns),
        samples=golden_samples(obs, policy.act(obs), np.ones(len(obs), bool)),
        data={
            "name": settings.environment,
            "source": f"gymnasium {gymnasium.__version__}",
            "licence": "MIT",
            "fingerprint": hashlib.sha256(b"".join(part.tobytes() for part in arrays)).hexdigest(),
            "states": world.states,
            "episodes": num_episodes,
        },
        training={"episodes_done": num_episodes, **spent},
    )


def describe_table(
    settings: Settings,
    policy: TablePolicy,
    env: gymnasium.Env[Any, Any],
    sizes: tuple[int, ...],
    world: FiniteMDP,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Fields of `Trained` that describe the policy: module, example, and configuration for the handler."""
    is_single = isinstance(env.observation_space, spaces.Discrete)
    shape = () if is_single else (len(sizes),)
    observations = ObservationSpec(
        shape,
        "int64",
        low=0 if is_single else [0] * len(sizes),
        high=sizes[0] - 1 if is_single else [size - 1 for size in sizes],
        environment=settings.environment,
        names=OBSERVATION_NAMES.get(env.spec.name) if env.spec else None,
    )
    return {
        "kind": "policy",
        "module": policy,
        "example": (
            torch.zeros(2, *shape, dtype=torch.int64),
            torch.ones(2, world.actions, dtype=torch.bool),
        ),
        "preprocess": {
            **observations.to_json(),
            "inputs": ["observation", "action_mask"],
            "environment_options": options,
        },
        "postprocess": {
            "type": "policy",
            "action_space": ActionSpec.discrete(world.actions).to_json(),
            "deterministic": True,
            "outputs": ["q_values"],
        },
    }


def observation_sizes(env: gymnasium.Env[Any, Any]) -> tuple[int, ...]:
    """How many values each number of an observation has.

    Raises CallError unless it is Discrete or a Tuple of such, from 0.
    """
    space = env.observation_space
    parts = space.spaces if isinstance(space, spaces.Tuple) else [space]
    if not all(isinstance(part, spaces.Discrete) and part.start == 0 for part in parts):
        raise CallError(
            f"{env.spec and env.spec.id} observes {space}; "
            "a table takes Discrete and Tuples of it that start at 0; see dqn"
        )
    return tuple(int(part.n) for part in parts)  # type: ignore[attr-defined]


def model_of(env: gymnasium.Env[Any, Any]) -> FiniteMDP:
    """The environment's model. Raises CallError where there is none."""
    if env.spec and env.spec.name == "Blackjack" and not env.spec.namespace:
        if env.spec.kwargs.get("natural"):
            raise CallError(
                "environment_options: natural: a natural that pays 1.5 is not in the model of Blackjack; "
                "leave it out"
            )
        return worlds.blackjack(natural_wins=bool(env.spec.kwargs.get("sab")))
    return from_environment(env)


def learn_table(settings: Settings, seed: int, world: FiniteMDP, limit: int) -> ControlResult:
    """One table float64 [1, S + 1, A] by the method that is set, and the episodes that it took."""
    explore = {
        "epsilon_greedy": exploration.epsilon_greedy(settings.epsilon),
        "glie": exploration.glie(settings.half_visits),
        "boltzmann": exploration.boltzmann(settings.temperature),
    }[settings.exploration]
    same = {"alpha", "power", "gamma", "initial", "num_envs", "trace", "planning_steps"}
    config = ControlConfig(
        explore,
        steps=-(-settings.total_timesteps // settings.num_envs),
        limit=limit,
        seed=seed,
        **settings.model_dump(include=same),
    )
    return METHODS[settings.method](world, config)


def visited_observations(policy: TablePolicy, environment: str, options: dict[str, Any]) -> np.ndarray:
    """Different observations, int64 [n] or [n, numbers], of a few evaluation episodes, in their order."""
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + 16)
    visited = np.concatenate([record_episode(policy.act, environment, seed, options)[0] for seed in seeds])
    first = np.unique(visited, axis=0, return_index=True)[1]
    obs: np.ndarray = visited[np.sort(first)]
    return obs
