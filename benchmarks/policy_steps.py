"""What one step of a policy's training costs: of its environment, of a rollout, of its gradient.

    marina bench steps
    marina bench steps --rounds 3 --only dqn

Each row has a limit, what the leanest code that was written for this one case took, and a yardstick that was
timed with it: stable-baselines3 with the settings of rl-baselines3-zoo, or gymnasium. Here the yardstick and
Marina take turns on one core, and the limit is scaled by how fast the yardstick is here. Printed are
microseconds of the processor, medians of the rounds.

The limits: gymnasium's own vector form of CartPole-v1 and EnvPool for the other environments, a rollout and
gradients written by hand for these sizes, for sac one compiled step. sac's yardstick has networks of 256-256,
its limit and Marina 64-64.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
from rich.console import Console
from rich.progress import track
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from benchmarks.policy_plan import CARTPOLE_DQN, CARTPOLE_PPO
from marina.core.errors import CallError
from training.policies.envs.make import make
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.envs.training_envs import TrainingEnvs
from training.policies.networks.optim import seeded_single_thread

Sample = Callable[[], float]  # one more measurement, in microseconds per step


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `limit` and `yardstick` are microseconds, timed together with torch 2.14 on one core.
    """

    name: str
    yardstick: float
    limit: float
    measure_yardstick: Callable[[], Sample]
    measure: Callable[[], Sample]


def seconds_of(work: Callable[[], Any]) -> float:
    """Of the processor."""
    started = time.process_time()
    work()
    return time.process_time() - started


def random_actions(space: gymnasium.spaces.Space[Any], num_envs: int) -> np.ndarray:
    """Drawn beforehand: [50, num_envs, ...]."""
    random = np.random.default_rng(0)
    if isinstance(space, gymnasium.spaces.Discrete):
        return random.integers(space.n, size=(50, num_envs))
    return random.uniform(-1, 1, (50, num_envs, *(space.shape or ()))).astype(np.float32)


def stepping(step: Callable[[np.ndarray], Any], actions: np.ndarray, steps: int = 500) -> Sample:
    """Per step of one copy."""
    num_envs = actions.shape[1]

    def work() -> None:
        for number in range(steps):
            step(actions[number % len(actions)])

    return lambda: seconds_of(work) / steps / num_envs * 1e6


def one_by_one(environment: str, num_envs: int) -> Sample:
    """Gymnasium's num_envs, one after the other."""
    vector = gymnasium.vector.SyncVectorEnv([lambda: make(environment)] * num_envs)
    vector.reset(seed=0)
    return stepping(vector.step, random_actions(vector.single_action_space, num_envs), 50)


def experience(environment: str, num_envs: int, steps: int = 500, envpool: bool = False) -> Sample:
    """What a learner steps."""
    gathered = TrainingEnvs(environment, num_envs, 0, envpool=envpool)
    return stepping(gathered.step, random_actions(gathered.vector_env.single_action_space, num_envs), steps)


class Clock(BaseCallback):
    """Processor time of stable-baselines3's rollouts and of the updates between them, and their steps."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.rollouts, self.updates = 0.0, 0.0, 0.0
        self.is_running = False

    def _on_rollout_start(self) -> None:
        now = time.process_time()
        self.updates += now - self.last if self.is_running else 0.0
        self.last, self.is_running = now, True

    def _on_rollout_end(self) -> None:
        now = time.process_time()
        self.rollouts += now - self.last
        self.last = now

    def _on_training_end(self) -> None:
        self.updates += time.process_time() - self.last

    def _on_step(self) -> bool:
        return True


def theirs(
    algorithm: str, environment: str, num_envs: int, steps: int, updates: int | None, options: dict[str, Any]
) -> Sample:
    """Time stable-baselines3, per gradient step or per environment step.

    `steps` environment steps make `updates` gradient steps; None for `updates` times environment steps.
    """
    model = getattr(stable_baselines3, algorithm)(
        "MlpPolicy", make_vec_env(environment, num_envs), device="cpu", seed=0, **options
    )
    model.set_logger(Logger(None, []))  # its own leaves a folder SB3-… in the one for temporary files
    model.learn(2 * steps)  # fills what has to be filled

    def sample() -> float:
        clock = Clock()
        model.learn(steps, clock, reset_num_timesteps=False)
        return (clock.rollouts / steps if updates is None else clock.updates / updates) * 1e6

    return sample


def ours(recipe: str, collects: str, adam: str, iterations: int, updates: bool, **options: Any) -> Sample:
    """Time a recipe's learner, per step of `adam`, or without it per environment step.

    `collects` is the learner's attribute that gathers experience.
    """
    module = importlib.import_module(f"training.recipes.{recipe}")
    settings = module.Settings(**options)
    specs = observation_spec(settings.environment), action_spec(settings.environment)
    learner = module.Learner(settings, *specs, 0)
    *owner, name = collects.split(".")
    holder, optimizer = (
        reduce(getattr, owner, learner),
        reduce(getattr, adam.split("."), learner),
    )
    collect, spent = getattr(holder, name), [0.0]

    def timed(*arguments: Any) -> Any:
        started = time.process_time()
        rollout = collect(*arguments)
        spent[0] += time.process_time() - started
        return rollout

    setattr(holder, name, timed)
    while learner.envs.num_timesteps < 2000:
        learner.iteration()

    def sample() -> float:
        spent[0], transitions, steps = 0.0, learner.envs.num_timesteps, optimizer.num_steps
        whole = seconds_of(lambda: [learner.iteration() for _ in range(iterations)])
        if updates:
            return (whole - spent[0]) / int(optimizer.num_steps - steps) * 1e6
        return spent[0] / int(learner.envs.num_timesteps - transitions) * 1e6

    return sample


def environment_row(environment: str, steps_per_second: float) -> Row:
    """64 environments beside gymnasium's CartPole-v1: 64 of those made 157,000 steps per second in a loop."""
    ours_here = partial(experience, environment, 64)
    return Row(
        f"environment step: {environment}, 64 environments",
        1e6 / 157_000,
        1e6 / steps_per_second,
        YARDSTICK,
        ours_here,
    )


HAS_ENVPOOL = importlib.util.find_spec("envpool") is not None
YARDSTICK = partial(one_by_one, "CartPole-v1", 64)
PPO = partial(
    ours,
    "ppo",
    "rollouts.collect",
    "optimizer.adam",
    20,
    environment="CartPole-v1",
    num_envs=8,
    n_steps=128,
    batch_size=256,
)
THEIR_PPO = partial(theirs, "PPO", "CartPole-v1", 8, 2048, options=CARTPOLE_PPO)
THEIR_DQN = partial(
    theirs, "DQN", "CartPole-v1", 1, 1024, options={**CARTPOLE_DQN, "policy_kwargs": {"net_arch": [128, 128]}}
)
THEIR_SAC = partial(theirs, "SAC", "Pendulum-v1", 1, 200, options={"learning_rate": 1e-3})
SAC = partial(ours, "sac", "collector.collect", "critics.adam", 60)
ROWS = (
    environment_row("CartPole-v1", 1_700_000),
    environment_row("Pendulum-v1", 780_000),
    environment_row("Acrobot-v1", 660_000),
    environment_row("MountainCar-v0", 810_000),
    Row(
        "environment step: LunarLander-v3, 64 environments "
        f"{'in EnvPool' if HAS_ENVPOOL else 'one by one: no EnvPool here'}",
        1e6 / 31_000,
        1e6 / 75_000,
        partial(one_by_one, "LunarLander-v3", 64),
        partial(experience, "LunarLander-v3", 64, steps=100, envpool=HAS_ENVPOOL),
    ),
    Row(
        "ppo: step of a rollout, CartPole-v1, 8 environments",
        50,
        3.8,
        partial(THEIR_PPO, None),
        partial(PPO, False),
    ),
    Row("ppo: gradient step, 256 x 4-64-64", 2000, 350, partial(THEIR_PPO, 160), partial(PPO, True)),
    Row(
        "dqn: gradient step, 64 x 4-128-128",
        1230,
        195,
        partial(THEIR_DQN, 512),
        partial(ours, "dqn", "collect_step", "numpy_steps.adam", 40, True),
    ),
    Row(
        "sac: gradient step, 256 x 3-64-64, yardstick 256-256",
        10_000,
        950,
        partial(THEIR_SAC, 200),
        partial(SAC, True),
    ),
)


def measured(row: Row, rounds: int) -> tuple[Row, float, float]:
    """(row, the yardstick's microseconds here, Marina's), in turns."""
    yardstick, own = row.measure_yardstick(), row.measure()
    times = [(yardstick(), own()) for _ in range(rounds)]
    yardsticks, owns = zip(*times, strict=True)
    return row, statistics.median(yardsticks), statistics.median(owns)


def table(results: list[tuple[Row, float, float]]) -> str:
    """Markdown."""
    lines = [
        "| step | yardstick there, here | limit there, here | Marina | of the limit |",
        "|---|---|---|---|---|",
    ]
    for row, yardstick, own in results:
        limit = row.limit * yardstick / row.yardstick
        cells = (
            f"{_number(row.yardstick)}, {_number(yardstick)}",
            f"{_number(row.limit)}, {_number(limit)}",
            _number(own),
            f"{own / limit:.2f}",
        )
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(microseconds: float) -> str:
    return f"{microseconds:,.2f}" if microseconds < 10 else f"{microseconds:,.0f}"


def main(words: list[str] | None = None) -> None:
    """Read the arguments (default: the command line's), measure, print the table."""
    parser = argparse.ArgumentParser(
        prog="marina bench steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="of which the medians are taken")
    parser.add_argument("--only", default="", metavar="WORD", help="rows with this word in their name")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows there, as JSON")
    arguments = parser.parse_args(words)
    rows = [row for row in ROWS if arguments.only in row.name]
    if not rows:
        raise SystemExit(
            f"error: --only {arguments.only}: no such row; there are: " + "; ".join(row.name for row in ROWS)
        )
    results, console = [], Console(stderr=True)
    with seeded_single_thread(0):
        for row in track(rows, "measuring", console=console):
            try:
                results.append(measured(row, max(arguments.rounds, 1)))
            except CallError as error:
                console.print(f"left out: {error}")
    print(table(results))
    if arguments.out:
        keys = ("step", "yardstick_us", "marina_us")
        content = [dict(zip(keys, (row.name, *times), strict=True)) for row, *times in results]
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
