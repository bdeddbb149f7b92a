"""Copies of an environment in EnvPool (Weng et al. 2022, "EnvPool: A Highly Parallel Reinforcement Learning Environment Execution Engine").

It has gymnasium's physics again in C++, for where gymnasium's own step is what a training waits for. Its packages are large, so
that they are no extra of ours: `pip install envpool` brings them.
"""

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from marina.errors import CallError


class Pooled(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`copies` in this process and thread, which reset on the step after an end. Raises CallError as `make_vector` does."""

    def __init__(self, environment: str, copies: int, options: Mapping[str, Any]) -> None:
        try:
            import envpool  # type: ignore[import-not-found]
        except ImportError as error:
            raise CallError("envpool: true needs EnvPool; run: pip install envpool (about 900 MB), or leave it out") from error
        if environment not in envpool.list_all_envs() or options:
            what = f"{environment} with {dict(options)}" if options else environment
            raise CallError(f"envpool: true: EnvPool has no {what}; leave it out")
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        single = gymnasium.make(environment)  # EnvPool tells other bounds
        self.spec, self.num_envs = single.spec, copies
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        self.observation_space, self.action_space = (
            batch_space(space, copies) for space in (single.observation_space, single.action_space)
        )
        single.close()
        self._make = functools.partial(envpool.make, environment, env_type="gymnasium", num_envs=copies, num_threads=1)
        self._pool: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes in all copies."""
        if seed is not None or self._pool is None:
            self._pool = self._make(seed=seed or 0)
        observations, _ = self._pool.reset()
        return np.array(observations, self.single_observation_space.dtype), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """(observations, rewards, terminated, truncated, nothing more to tell)."""
        observations, rewards, terminated, truncated, _ = self._pool.step(actions)
        return np.array(observations, self.single_observation_space.dtype), np.array(rewards, np.float64), terminated, truncated, {}
