"""How much processor time learning takes until a policy reaches a return, beside stable-baselines3 on the same core.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/policies.py ppo CartPole-v1 --threshold 475 --seeds 5
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/policies.py sac Pendulum-v1 --threshold -200 --seeds 3 --every 500

Every run of both learns until 100 episodes without exploration have the mean return `--threshold`, looked at every `--every`
environment steps; the looks themselves don't count. Both take turns, so that what else the machine does hits both. For
stable-baselines3 the settings are those of rl-baselines3-zoo; ours are the recipe's defaults but for `--set`.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import stable_baselines3
import torch
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from training.policies import rollout
from training.policies.learning import SELECTION_SEED, improve
from training.policies.small_networks import small_network_arithmetic


def falling(first: float) -> Callable[[float], float]:
    """The zoo's lin_...: from `first` to 0."""
    return lambda left: first * left


CARTPOLE_PPO = {"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0}
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
}
NOISE = stable_baselines3.common.noise.NormalActionNoise(np.zeros(1), np.full(1, 0.1))
PENDULUM_TD3 = {"gamma": 0.98, "buffer_size": 200_000, "learning_starts": 10_000, "action_noise": NOISE, "learning_rate": 1e-3}
ZOO: dict[tuple[str, str], tuple[int, int, dict[str, Any]]] = {  # environments that step together, steps in all, arguments
    ("ppo", "CartPole-v1"): (8, 100_000, {**CARTPOLE_PPO, "learning_rate": falling(1e-3), "clip_range": falling(0.2)}),
    ("dqn", "CartPole-v1"): (1, 50_000, CARTPOLE_DQN),
    ("a2c", "CartPole-v1"): (8, 500_000, {"ent_coef": 0.0}),
    ("ppo", "Pendulum-v1"): (4, 100_000, {**PENDULUM_PPO, "use_sde": True, "sde_sample_freq": 4}),
    ("sac", "Pendulum-v1"): (1, 20_000, {"learning_rate": 1e-3}),
    ("td3", "Pendulum-v1"): (1, 20_000, {**PENDULUM_TD3, "policy_kwargs": {"net_arch": [400, 300]}}),
}


@dataclass
class Run:
    """One training."""

    seed: int
    steps: int
    seconds: float  # of the processor
    reached: bool


class Watch:
    """A clock of processor time that stands still while the policy is looked at; ends a training at the threshold."""

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        self.arguments, self.seed = arguments, SELECTION_SEED + 10_000 * seed
        self.reached, self.started = False, time.process_time()
        self.seconds = 0.0

    def look(self, act: rollout.Act) -> tuple[float, bool]:
        """(mean return of 100 episodes, whether it is enough)."""
        self.seconds = time.process_time() - self.started
        self.seed += 100
        mean = float(rollout.quick_returns(act, self.arguments.environment, 100, self.seed).mean())
        self.reached = mean >= self.arguments.threshold
        self.started = time.process_time() - self.seconds
        return mean, self.reached

    def confirms(self, policy: Any) -> tuple[float, bool]:
        """As `learning.improve` asks."""
        return self.look(policy.act)


class Looking(BaseCallback):
    """The same looks for stable-baselines3: after a gradient step, before the next experience."""

    def __init__(self, watch: Watch, every: int) -> None:
        super().__init__()
        self.watch, self.every, self.next = watch, every, every

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.next:
            self.next = self.num_timesteps + self.every
            self.watch.look(lambda observations: self.model.predict(observations, deterministic=True)[0])

    def _on_step(self) -> bool:
        return not self.watch.reached


def ours(arguments: argparse.Namespace, seed: int) -> Run:
    """One training of our own."""
    recipe = importlib.import_module(f"training.{arguments.algorithm}")
    chosen = {key: yaml.safe_load(value) for key, value in (pair.split("=") for pair in arguments.set)}
    settings = recipe.Settings(environment=arguments.environment, screening_every=arguments.every, **chosen)
    environment, options = arguments.environment, settings.made_with
    spaces = rollout.observation_config(environment, options=options), rollout.action_config(environment, options)
    with small_network_arithmetic(seed):
        watch = Watch(arguments, seed)
        learner = recipe.Learner(settings, *spaces, seed)
        improve(learner, watch, settings)
    return Run(seed, learner.experience.transitions, watch.seconds, watch.reached)


def theirs(arguments: argparse.Namespace, seed: int) -> Run:
    """One training of stable-baselines3."""
    copies, steps, options = ZOO[arguments.algorithm, arguments.environment]
    watch = Watch(arguments, seed)
    vector = make_vec_env(arguments.environment, copies, seed=seed)
    model = getattr(stable_baselines3, arguments.algorithm.upper())("MlpPolicy", vector, seed=seed, device="cpu", **options)
    model.learn(steps, Looking(watch, arguments.every))
    return Run(seed, model.num_timesteps, watch.seconds, watch.reached)


def tell(name: str, runs: list[Run]) -> float:
    """One row of the table; returns the mean of the seconds."""
    seconds, steps = [run.seconds for run in runs], [run.steps for run in runs]
    deviation = statistics.stdev(seconds) if len(runs) > 1 else 0.0
    reached, rate = sum(run.reached for run in runs), sum(steps) / sum(seconds)
    spread = f"{min(steps):,} to {max(steps):,}"
    mean, least, most = statistics.mean(seconds), min(seconds), max(seconds)
    print(f"| {name} | {reached} of {len(runs)} | {spread} | {mean:.2f} ± {deviation:.2f} | {least:.2f} to {most:.2f} | {rate:,.0f} |")
    return mean


def main() -> None:
    """Read the arguments, learn in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=("dqn", "ppo", "sac", "a2c", "reinforce", "td3"))
    parser.add_argument("environment")
    parser.add_argument("--threshold", type=float, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1024, help="environment steps between two looks")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="settings of our recipe")
    parser.add_argument("--alone", action="store_true", help="without stable-baselines3")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    beside = not arguments.alone and (arguments.algorithm, arguments.environment) in ZOO
    own, other = [], []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        own.append(ours(arguments, seed))
        print(own[-1], flush=True)
        if beside:
            other.append(theirs(arguments, seed))
            print("stable-baselines3", other[-1], flush=True)
    print("\n| | reached | environment steps | CPU seconds | from, to | steps per CPU second |\n|---|---|---|---|---|---|")
    mean = tell("this recipe", own)
    if other:
        print(f"\nratio of the means: {tell(f'stable-baselines3 {stable_baselines3.__version__}', other) / mean:.1f}")


if __name__ == "__main__":
    main()
