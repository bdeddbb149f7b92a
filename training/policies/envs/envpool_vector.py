"""Environments in EnvPool, for training that waits for the environment's step.

Weng et al. 2022, "EnvPool: A Highly Parallel Reinforcement Learning Environment Execution Engine": it
implements gymnasium's physics in C++. Its packages are too large for an extra of Marina: `pip install
envpool` installs them.
"""

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from marina.core.errors import CallError


class EnvPoolVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` in this process and thread, which reset on the step after an end.

    Raises CallError as `make_vec` does.
    """

    def __init__(self, environment: str, num_envs: int, env_kwargs: Mapping[str, Any]) -> None:
        try:
            import envpool  # type: ignore[import-not-found]
        except ImportError as error:
            raise CallError(
                "envpool: true needs EnvPool; run: pip install envpool (about 900 MB), or leave it out"
            ) from error
        if environment not in envpool.list_all_envs() or env_kwargs:
            name = f"{environment} with {dict(env_kwargs)}" if env_kwargs else environment
            raise CallError(f"envpool: true: EnvPool has no {name}; leave it out")
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        env = gymnasium.make(environment)  # EnvPool reports other bounds
        self.spec, self.num_envs = env.spec, num_envs
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        env.close()
        self._make_pool = functools.partial(
            envpool.make, environment, env_type="gymnasium", num_envs=num_envs, num_threads=1
        )
        self._pool: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes in all environments."""
        if seed is not None or self._pool is None:
            self._pool = self._make_pool(seed=seed or 0)
        observations, _ = self._pool.reset()
        return np.array(observations, self.single_observation_space.dtype), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """(observations, rewards, terminated, truncated, {})."""
        observations, rewards, terminated, truncated, _ = self._pool.step(actions)
        return (
            np.array(observations, self.single_observation_space.dtype),
            np.array(rewards, np.float64),
            terminated,
            truncated,
            {},
        )
