"""Small environments whose returns are known exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces


@contextmanager
def registered(*environments: type[gymnasium.Env[Any, Any]], **options: Any) -> Iterator[None]:
    """Each can be made by its name and -v0; `options` are EnvSpec's."""
    with pytest.MonkeyPatch.context() as patch:
        for environment in environments:
            name = f"{environment.__name__}-v0"
            spec = gymnasium.envs.registration.EnvSpec(name, entry_point=environment, **options)
            patch.setitem(gymnasium.registry, name, spec)
        yield


class Counting(gymnasium.Env[np.ndarray, Any]):
    """Observes the step that it is in; every step earns 1. Ends after 3 steps by itself, or is cut off
    there.
    """

    observation_space: spaces.Space[Any] = spaces.Box(-10, 10, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    cut = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        done = self.steps == 3
        return np.full(1, self.steps, np.float32), 1.0, done and not self.cut, done and self.cut, {}


class CountingCut(Counting):
    cut = True


class Aim(Counting):
    """One step long: earns minus the squared distance of the action, a matrix with bounds of its own, from
    a place in it.
    """

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(np.array([[-1, 0]], np.float32), np.array([[1, 3]], np.float32))
    place = np.array([[0.5, 2.0]])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.normal(5, 2, 2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return np.zeros(2, np.float32), -float(np.square(action - self.place).sum()), True, False, {}


class Aiming(gymnasium.Env[np.ndarray, Any]):
    """Earns minus the squared distance of the action, a matrix with bounds of its own, from a place in it;
    4 steps, then a cut.
    """

    observation_space: spaces.Space[Any] = spaces.Box(-10, 10, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(
        np.array([[-1, 0]], np.float32), np.array([[1, 3]], np.float32)
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, np.float32)), action
        self.steps += 1
        earned = -float(np.square(action - np.array([[0.5, 2.0]])).sum())
        return self.np_random.normal(size=2).astype(np.float32), earned, False, self.steps == 4, {}
