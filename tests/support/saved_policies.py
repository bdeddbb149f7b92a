"""Policies that stable-baselines3 trains for a moment and saves, on environments that are made for it; and
ways to spoil their files.
"""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from training.export.trained import Trained
from training.policies.envs.evaluate import record_episode
from training.policies.envs.make import make as make_env
from training.policies.envs.observe import observation_space
from training.recipes.imported_policy import Settings, train
from training.runs.run import Run


class Switches(gymnasium.Env[np.ndarray, Any]):
    """Observes noise of a shape and a precision that the classic environments don't have, on top of a large
    number; acts by several switches.
    """

    observation_space: spaces.Space[Any] = spaces.Box(-3, 2000, (2, 3), np.float64)
    action_space: spaces.Space[Any] = spaces.MultiDiscrete([3, 2, 4])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observe(), float(np.sum(action)), False, self.steps == 20, {}

    def observe(self) -> np.ndarray:
        space = self.observation_space
        noise = self.np_random.uniform(0, 3, space.shape)
        noise.flat[0] = 1000 + noise.flat[0] / 300  # which float32 knows to 0.00006
        return noise.astype(space.dtype)


class Levers(Switches):
    """Acts by a matrix of levers, each with bounds of its own."""

    action_space = spaces.Box(
        np.array([[-1, 0], [-5, 2]], np.float32), np.array([[1, 3], [-4, 7.5]], np.float32)
    )


class ShorterLevers(Levers):
    action_space = spaces.Box(
        np.array([[-1, 0], [-5, 2]], np.float32), np.array([[1, 3], [-4, 7]], np.float32)
    )


class Pictures(Switches):
    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(2)


class Bits(Switches):
    action_space = spaces.MultiBinary(3)


class Named(Switches):
    observation_space = spaces.Dict({"place": spaces.Box(-3, 3, (2,), np.float32)})
    action_space = spaces.Discrete(2)

    def observe(self) -> Any:
        return {"place": self.np_random.uniform(0, 3, 2).astype(np.float32)}


ENVIRONMENTS = (Switches, Levers, ShorterLevers, Pictures, Bits, Named)
SMALL = {"net_arch": [32, 16]}
ON = {"n_steps": 128}
OFF = {"learning_starts": 64}
SEARCH = {"n_delta": 2, "delta_std": 0.5}


@dataclass(frozen=True)
class Case:
    """A model to be trained: algorithm, environment, arguments, policy_kwargs, and whether VecNormalize
    stands before it.
    """

    algorithm: type[BaseAlgorithm]
    environment: str
    arguments: dict[str, Any]
    policy: dict[str, Any]
    normalised: bool = False
    name: str = "MlpPolicy"

    @property
    def steps(self) -> int:
        """Few: that the weights are no longer the first ones is enough."""
        greedy = self.algorithm in (sb3.DQN, sb3_contrib.QRDQN)
        return 128 if "learning_starts" in self.arguments and not greedy else 256


CASES = {
    "ppo-discrete": Case(sb3.PPO, "CartPole-v1", ON, SMALL),
    "ppo-discrete-normalised": Case(sb3.PPO, "CartPole-v1", ON, SMALL, True),
    "ppo-box": Case(
        sb3.PPO, "Pendulum-v1", ON, {"activation_fn": nn.ELU, "net_arch": {"pi": [16, 8], "vf": [12]}}
    ),
    "ppo-box-normalised": Case(sb3.PPO, "Levers-v0", ON, SMALL, True),
    "ppo-states": Case(sb3.PPO, "FrozenLake-v1", ON, SMALL),
    "ppo-multi-discrete": Case(sb3.PPO, "Switches-v0", ON, SMALL, True),
    "ppo-gsde": Case(sb3.PPO, "Pendulum-v1", {**ON, "use_sde": True}, SMALL),
    "ppo-gsde-squashed": Case(
        sb3.PPO,
        "Levers-v0",
        {**ON, "use_sde": True},
        {**SMALL, "squash_output": True, "use_expln": True, "full_std": False, "log_std_init": 0.5},
    ),
    "a2c-discrete": Case(sb3.A2C, "CartPole-v1", {}, SMALL),
    "a2c-box": Case(sb3.A2C, "Pendulum-v1", {}, SMALL),
    "a2c-box-normalised": Case(sb3.A2C, "Pendulum-v1", {}, SMALL, True),
    "a2c-multi-discrete-linear": Case(sb3.A2C, "Switches-v0", {}, {"net_arch": []}),
    "dqn": Case(sb3.DQN, "CartPole-v1", {**OFF, "learning_rate": 1e-2, "target_update_interval": 20}, SMALL),
    "dqn-normalised": Case(
        sb3.DQN, "CartPole-v1", {**OFF, "learning_rate": 1e-2, "target_update_interval": 20}, SMALL, True
    ),
    "dqn-states": Case(sb3.DQN, "FrozenLake-v1", OFF, {**SMALL, "activation_fn": nn.Tanh}),
    "sac": Case(sb3.SAC, "Pendulum-v1", OFF, SMALL),
    "sac-normalised": Case(sb3.SAC, "Levers-v0", OFF, SMALL, True),
    "sac-gsde": Case(sb3.SAC, "Levers-v0", {**OFF, "use_sde": True}, {**SMALL, "clip_mean": 0.5}),
    "sac-gsde-unclipped": Case(
        sb3.SAC,
        "Pendulum-v1",
        {**OFF, "use_sde": True},
        {**SMALL, "clip_mean": 0.0, "use_expln": True, "log_std_init": 0.5},
    ),
    "td3": Case(sb3.TD3, "Pendulum-v1", OFF, SMALL),
    "td3-normalised": Case(sb3.TD3, "Levers-v0", OFF, {"net_arch": []}, True),
    "ddpg": Case(sb3.DDPG, "Pendulum-v1", OFF, SMALL),
    "tqc": Case(sb3_contrib.TQC, "Pendulum-v1", OFF, SMALL),
    "tqc-gsde": Case(sb3_contrib.TQC, "Levers-v0", {**OFF, "use_sde": True}, SMALL),
    "qrdqn": Case(
        sb3_contrib.QRDQN,
        "FrozenLake-v1",
        {**OFF, "learning_rate": 1e-2, "target_update_interval": 20},
        {**SMALL, "n_quantiles": 7},
    ),
    "trpo": Case(sb3_contrib.TRPO, "CartPole-v1", ON, SMALL),
    "ars": Case(sb3_contrib.ARS, "Levers-v0", SEARCH, SMALL),
    "ars-discrete-normalised": Case(
        sb3_contrib.ARS, "CartPole-v1", {**SEARCH, "delta_std": 3.0}, {"net_arch": []}, True
    ),
    "ars-linear": Case(sb3_contrib.ARS, "Pendulum-v1", SEARCH, {}, name="LinearPolicy"),
    "ddpg-normalised": Case(sb3.DDPG, "Pendulum-v1", OFF, SMALL, True),
}


@dataclass
class Imported:
    """A model of stable-baselines3 with what was saved of it, and what the import made of that."""

    case: Case
    model: BaseAlgorithm
    vector: Any
    settings: Settings
    trained: Trained

    def predict(self, observations: np.ndarray) -> np.ndarray:
        """Actions of stable-baselines3 itself, from observations as the environment gives them."""
        seen = self.vector.normalize_obs(observations) if self.case.normalised else observations
        return self.model.predict(seen, deterministic=True)[0]

    def inputs(self, observations: np.ndarray) -> tuple[torch.Tensor, ...]:
        """What the graph takes: everything is allowed, no noise."""
        dtype = getattr(torch, self.trained.preprocess["dtype"])
        rest = (part[:1].expand(len(observations), -1) for part in self.trained.example[1:])
        return torch.from_numpy(observations).to(dtype), *rest


def make(case: Case, folder: Path) -> Imported:
    torch.set_num_threads(1)
    vector: Any = DummyVecEnv([lambda: make_env(case.environment)])
    if case.normalised:
        vector = VecNormalize(vector, clip_obs=3.0, epsilon=1e-6)
    model = case.algorithm(
        case.name, vector, policy_kwargs=dict(case.policy), seed=1, device="cpu", **case.arguments
    )
    model.learn(case.steps)
    model.save(folder / "model")
    settings: dict[str, Any] = {
        "source": str(folder / "model.zip"),
        "environment": case.environment,
        "evaluation_episodes": 3,
    }
    if case.normalised:
        vector.training = False
        vector.save(str(folder / "vecnormalize.pkl"))
        settings |= {"statistics": str(folder / "vecnormalize.pkl"), "trust_pickle": True}
    chosen = Settings(**settings)
    return Imported(case, model, vector, chosen, train(chosen, Run(folder)))


def observations_of(environment: str, act: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """10,000: drawn over the space, far outside of it, and met while acting."""
    space, random = observation_space(environment), np.random.default_rng(0)
    if isinstance(space, spaces.Discrete):
        return random.integers(0, int(space.n), 10_000)
    assert isinstance(space, spaces.Box)
    low, high = np.clip(space.low, -5, 5), np.clip(space.high, -5, 5)
    met = record_episode(act, environment, 5)[0][:1000]
    inside, outside = (10_000 - len(met)) // 2, 10_000 - len(met) - (10_000 - len(met)) // 2
    drawn = (random.uniform(low, high, (inside, *space.shape)), random.normal(0, 50, (outside, *space.shape)))
    return np.concatenate([*drawn, met]).astype(space.dtype)


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "it ran")


def repacked(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """A copy of the zip with other contents, None for none, of some members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in {**dict.fromkeys(old.namelist()), **changes}:
            content = changes[name] if name in changes else old.read(name)
            if content is not None:
                new.writestr(name, content)
    return target


def with_data(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of the zip whose `data` was changed in place."""
    with zipfile.ZipFile(source) as archive:
        data = json.loads(archive.read("data"))
    change(data)
    return repacked(source, target, {"data": json.dumps(data).encode()})


def with_weights(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of the zip whose state dict was changed in place."""
    with zipfile.ZipFile(source) as archive:
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    change(weights)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return repacked(source, target, {"policy.pth": buffer.getvalue()})


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights.pop(name)


def put(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights.__setitem__(name, value)
