"""The numbers of docs/benchmarks/policies.md: the textbook's examples, and every method on four worlds.

.venv/bin/python benchmarks/tabular.py              the textbook's examples (half a minute)
.venv/bin/python benchmarks/tabular.py methods      every method on four worlds, three seeds (ten minutes)
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from training.policies.tabular import temporal_difference as td
from training.policies.tabular import worlds
from training.policies.tabular.control import double_q_learning, q_learning, sarsa
from training.policies.tabular.episodes import play
from training.policies.tabular.exploration import epsilon_greedy, epsilon_soft
from training.policies.tabular.mdp import FiniteMDP, from_environment
from training.policies.tabular.planning import policy_evaluation_exact, uniform, value_iteration
from training.policies.tabular.replay import dyna_q
from training.policies.tabular.vector_mdp import ControlConfig
from training.recipes.tabular_policy import METHODS, Settings, train
from training.runs.run import Run

WORLDS: dict[str, dict[str, Any]] = {
    "FrozenLake-v1": {},
    "Taxi-v4": {"alpha": 0.5, "power": 0, "total_timesteps": 400_000},
    "CliffWalking-v1": {
        "alpha": 0.5,
        "power": 0,
        "gamma": 1,
        "total_timesteps": 200_000,
        "evaluation_episodes": 100,
    },
    "Blackjack-v1": {
        "gamma": 1,
        "num_envs": 256,
        "exploration": "glie",
        "half_visits": 200,
        "evaluation_episodes": 10_000,
    },
}


def planning() -> None:
    """What the best policies expect at their starts."""
    problems: list[tuple[str, dict[str, Any], tuple[float, ...]]] = [
        ("FrozenLake-v1", {}, (0.9, 0.99, 1.0)),
        ("FrozenLake-v1", {"map_name": "8x8"}, (0.99,)),
        ("Taxi-v4", {}, (1.0,)),
        ("CliffWalking-v1", {}, (1.0,)),
    ]
    for name, options, gammas in problems:
        world = from_environment(gymnasium.make(name, **options))
        for gamma in gammas:
            print(
                f"{name} {options or ''} gamma {gamma}: "
                f"{at_start(world, value_iteration(world, gamma)[0].max(1)):.6f}"
            )
    for natural_wins in (True, False):
        game = worlds.blackjack(natural_wins)
        print(f"Blackjack, sab {natural_wins}: {at_start(game, value_iteration(game, 1)[0].max(1)):.4f}")


def at_start(world: FiniteMDP, values: np.ndarray) -> float:
    """What is expected before the first state is known."""
    return float(world.start @ values[:-1])


def random_walk() -> None:
    """Root mean square errors of 19 states over the first ten episodes of 100 runs (figures 7.2, 12.3)."""
    walk, rng, true = worlds.random_walk(19, left=-1), np.random.default_rng(0), np.arange(-9, 10) / 10
    runs = [play(walk, uniform(walk), 100, rng) for _ in range(10)]
    updates: dict[str, Callable[..., np.ndarray]] = {
        f"n-step, n = {n}": partial(td.n_step_td, n=n) for n in (1, 4, 16)
    }
    updates |= {f"TD({trace})": partial(td.td_lambda, trace=trace) for trace in (0.0, 0.8, 1.0)}
    updates |= {
        f"true online TD({trace})": partial(td.true_online_td_lambda, trace=trace) for trace in (0.8, 1.0)
    }
    for name, update in updates.items():
        rms = {}
        for alpha in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8):
            values, errors = np.zeros((100, 20)), []
            with np.errstate(all="ignore"):
                for episodes in runs:
                    values = update(values, episodes, alpha, 1.0)
                    errors.append(np.sqrt(((values[:, :-1] - true) ** 2).mean(1)).mean())
            rms[alpha] = float(np.mean(errors))
        best = min(rms, key=lambda alpha: rms[alpha] if np.isfinite(rms[alpha]) else np.inf)
        print(f"{name}: {rms[best]:.3f} at alpha {best}")


def control() -> None:
    """The cliff, the maze and the maximisation bias."""
    cliff = from_environment(gymnasium.make("CliffWalking-v1"))
    for method in (q_learning, sarsa):
        learned = method(
            cliff, ControlConfig(epsilon_greedy(0.1), steps=20_000, alpha=0.5, num_envs=30, shared=False)
        )
        exploring = [
            at_start(cliff, policy_evaluation_exact(cliff, epsilon_soft(q, np.full(49, 0.1)), 1))
            for q in learned.q
        ]
        print(f"{method.__name__} on the cliff with epsilon 0.1: {np.median(exploring):.1f} (median of 30)")
    for planned in (0, 5, 50):
        result = dyna_q(
            worlds.maze(),
            ControlConfig(
                epsilon_greedy(0.1), steps=8000, gamma=0.95, num_envs=30, shared=False, planning_steps=planned
            ),
        )
        first = [result.episodes.length[result.episodes.env == copy][:8] for copy in range(30)]
        lengths = [
            int(np.median([row[episode] for row in first if len(row) > episode])) for episode in range(8)
        ]
        print(f"Dyna maze, {planned} planning steps: steps of the first episodes (medians) {lengths}")
    for method in (q_learning, double_q_learning):
        result = method(
            worlds.maximization_bias(),
            ControlConfig(epsilon_greedy(0.1), steps=640, num_envs=4000, shared=False),
        )
        lengths_of = result.episodes.by_env(result.episodes.length, 4000)
        print(
            f"maximisation bias, {method.__name__}: left in {(lengths_of[:, 290:300] == 2).mean():.1%} of "
            "episodes 290 to 300"
        )


def methods() -> None:
    """Mean returns of the greedy policies in the real environments.

    Printed are median, minimum and maximum of three seeds, and seconds per run.
    """
    for environment, settings in WORLDS.items():
        for method in METHODS:
            started, returns = time.perf_counter(), []
            for seed in range(3):
                with tempfile.TemporaryDirectory() as folder:
                    options = Settings.model_validate(
                        {"environment": environment, "method": method, **settings}
                    )
                    returns.append(train(options, Run(Path(folder), seed)).metrics["mean_return"])
            seconds = (time.perf_counter() - started) / 3
            print(
                f"{environment} {method}: {np.median(returns):.3f} ({min(returns):.3f} to "
                f"{max(returns):.3f}), {seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:] == ["methods"]:
        methods()
    else:
        planning()
        random_walk()
        control()
