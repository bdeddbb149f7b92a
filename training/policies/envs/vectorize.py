"""Vector environments: `num_envs` environments in this process that step together."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from marina.core.errors import CallError
from training.policies.envs.checked import time_limit
from training.policies.envs.classic_control import TASKS
from training.policies.envs.envpool_vector import EnvPoolVectorEnv
from training.policies.envs.make import make, spec_of


def make_vec(
    environment: str, num_envs: int, env_kwargs: Mapping[str, Any] | None = None, envpool: bool = False
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Environments that reset on the step after an end: vectorized where such a form exists that truncates
    episodes, else one by one.

    With `envpool` they are EnvPool's. Raises CallError where it is missing or doesn't have the environment.
    """
    kwargs = env_kwargs or {}
    make(environment, **kwargs).close()  # raises our errors
    if envpool:
        return EnvPoolVectorEnv(environment, num_envs, kwargs)
    if environment in TASKS and not kwargs:
        return TASKS[environment](num_envs)
    spec = spec_of(environment)
    if not kwargs and spec.vector_entry_point is not None and spec.max_episode_steps is not None:
        with time_limit(environment):
            vector_env = gymnasium.make_vec(environment, num_envs, vectorization_mode="vector_entry_point")
        if vector_env.metadata.get("autoreset_mode") == gymnasium.vector.AutoresetMode.NEXT_STEP:
            return LimitedVectorEnv(vector_env, environment, spec.max_episode_steps)
        vector_env.close()
    return gymnasium.vector.SyncVectorEnv([lambda: make(environment, **kwargs) for _ in range(num_envs)])


class LimitedVectorEnv(gymnasium.vector.VectorWrapper):
    """An environment's own vectorized form, whose calls and episodes end.

    Raises CallError for a call that takes too long, and for an episode of more than `max_episode_steps`.
    """

    def __init__(
        self, env: gymnasium.vector.VectorEnv[Any, Any, Any], environment: str, max_episode_steps: int
    ) -> None:
        super().__init__(env)
        self.environment, self.max_episode_steps = environment, max_episode_steps
        self.time_limit = time_limit(environment)
        self.steps = np.zeros(env.num_envs, np.int64)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As the environments."""
        self.steps[:] = 0
        with self.time_limit:
            return self.env.reset(**options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environments."""
        with self.time_limit:
            observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self.steps = np.where(terminated | truncated, 0, self.steps + 1)
        if self.steps.max() > self.max_episode_steps:
            raise CallError(
                f"{self.environment}: an episode of its vectorized form has more than "
                f"{self.max_episode_steps:,} steps, its max_episode_steps; truncate it there"
            )
        return observations, rewards, terminated, truncated, infos
