"""Prints the numbers of docs/tabular.md: the textbook's examples, and every method on four worlds.

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

from training.tabular import temporal_difference as td
from training.tabular import worlds
from training.tabular.control import double_q_learning, q_learning, sarsa
from training.tabular.copies import Learning
from training.tabular.episodes import play
from training.tabular.exploration import epsilon_greedy, mixed
from training.tabular.mdp import FiniteMDP, from_environment
from training.tabular.planning import policy_evaluation_exact, uniform, value_iteration
from training.tabular.replay import dyna_q
from training.tabular_policy import METHODS, Settings, train

WORLDS: dict[str, dict[str, Any]] = {
    "FrozenLake-v1": {},
    "Taxi-v4": {"alpha": 0.5, "power": 0, "steps": 400_000},
    "CliffWalking-v1": {"alpha": 0.5, "power": 0, "gamma": 1, "steps": 200_000, "evaluation_episodes": 100},
    "Blackjack-v1": {"gamma": 1, "copies": 256, "exploration": "glie", "half_visits": 200, "evaluation_episodes": 10_000},
}


def planning() -> None:
    """What the best policies expect at their starts."""
    for name, options, gammas in (
        ("FrozenLake-v1", {}, (0.9, 0.99, 1.0)),
        ("FrozenLake-v1", {"map_name": "8x8"}, (0.99,)),
        ("Taxi-v4", {}, (1.0,)),
        ("CliffWalking-v1", {}, (1.0,)),
    ):
        world = from_environment(gymnasium.make(name, **options))
        for gamma in gammas:
            print(f"{name} {options or ''} gamma {gamma}: {at_start(world, value_iteration(world, gamma)[0].max(1)):.6f}")
    for natural_wins in (True, False):
        game = worlds.blackjack(natural_wins)
        print(f"Blackjack, sab {natural_wins}: {at_start(game, value_iteration(game, 1)[0].max(1)):.4f}")


def at_start(world: FiniteMDP, values: np.ndarray) -> float:
    """What is expected before the first state is known."""
    return float(world.start @ values[:-1])


def random_walk() -> None:
    """Root mean square errors of 19 states over the first ten episodes of a hundred runs (figures 7.2 and 12.3)."""
    walk, random, true = worlds.random_walk(19, left=-1), np.random.default_rng(0), np.arange(-9, 10) / 10
    runs = [play(walk, uniform(walk), 100, random) for _ in range(10)]
    updates: dict[str, Callable[..., np.ndarray]] = {f"n-step, n = {n}": partial(td.n_step_td, n=n) for n in (1, 4, 16)}
    updates |= {f"TD({trace})": partial(td.td_lambda, trace=trace) for trace in (0.0, 0.8, 1.0)}
    updates |= {f"true online TD({trace})": partial(td.true_online_td_lambda, trace=trace) for trace in (0.8, 1.0)}
    for name, update in updates.items():
        found = {}
        for alpha in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8):
            values, errors = np.zeros((100, 20)), []
            with np.errstate(all="ignore"):
                for episodes in runs:
                    values = update(values, episodes, alpha, 1.0)
                    errors.append(np.sqrt(((values[:, :-1] - true) ** 2).mean(1)).mean())
            found[alpha] = float(np.mean(errors))
        best = min(found, key=lambda alpha: found[alpha] if np.isfinite(found[alpha]) else np.inf)
        print(f"{name}: {found[best]:.3f} at alpha {best}")


def control() -> None:
    """The cliff, the maze and the maximisation bias."""
    cliff = from_environment(gymnasium.make("CliffWalking-v1"))
    for method in (q_learning, sarsa):
        learned = method(cliff, Learning(epsilon_greedy(0.1), steps=20_000, alpha=0.5, copies=30, shared=False))
        exploring = [at_start(cliff, policy_evaluation_exact(cliff, mixed(q, np.full(49, 0.1)), 1)) for q in learned.q]
        print(f"{method.__name__} on the cliff with epsilon 0.1: {np.median(exploring):.1f} (median of 30)")
    for planned in (0, 5, 50):
        found = dyna_q(worlds.maze(), Learning(epsilon_greedy(0.1), steps=8000, gamma=0.95, copies=30, shared=False, planning=planned))
        first = [found.finished.length[found.finished.copy == copy][:8] for copy in range(30)]
        lengths = [int(np.median([row[episode] for row in first if len(row) > episode])) for episode in range(8)]
        print(f"Dyna maze, {planned} planning steps: steps of the first episodes (medians) {lengths}")
    for method in (q_learning, double_q_learning):
        found = method(worlds.maximisation_bias(), Learning(epsilon_greedy(0.1), steps=640, copies=4000, shared=False))
        lengths_of = found.finished.by_copy(found.finished.length, 4000)
        print(f"maximisation bias, {method.__name__}: left in {(lengths_of[:, 290:300] == 2).mean():.1%} of episodes 290 to 300")


def methods() -> None:
    """Mean returns of the greedy policies in the real environments: median, least and most of three seeds, and seconds each."""
    for environment, settings in WORLDS.items():
        for method in METHODS:
            started, returns = time.perf_counter(), []
            for seed in range(3):
                with tempfile.TemporaryDirectory() as folder:
                    one = Settings.model_validate({"environment": environment, "method": method, **settings})
                    returns.append(train(one, seed, Path(folder)).metrics["mean_return"])
            seconds = (time.perf_counter() - started) / 3
            print(
                f"{environment} {method}: {np.median(returns):.3f} ({min(returns):.3f} to {max(returns):.3f}), {seconds:.1f} s", flush=True
            )


if __name__ == "__main__":
    if sys.argv[1:] == ["methods"]:
        methods()
    else:
        planning()
        random_walk()
        control()
