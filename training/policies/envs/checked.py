"""What is asked of every environment: gymnasium's API, numbers for rewards, and an end of every episode and
of every call.
"""

import inspect
import math
from typing import Any

import gymnasium
import numpy as np

from marina.core.errors import CallError
from marina.core.time_limit import TimeLimit
from training import findings
from training.imports.user_code import raised

STEP_LIMIT = 1000  # of an episode, where the environment sets no max_episode_steps
CALL_SECONDS = 300.0  # of one call of an environment, where environment_options set no max_step_seconds
API = (
    "reset(seed=..., options=...) -> (observation, info) and "
    "step(action) -> (observation, reward, terminated, truncated, info)"
)


def time_limit(environment: str, seconds: float = CALL_SECONDS) -> TimeLimit:
    """The limit on one call of an environment."""
    return TimeLimit(
        seconds,
        f"{environment} took longer than {seconds:g} s for one call (make, reset, step, render or close); "
        "for a slower one: --set training.environment_options.max_step_seconds=N",
    )


class CheckedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose faults are CallErrors in words, and whose episodes and calls end.

    `step_limit` truncates an episode, which is said once; None: the environment has a limit of its own.
    A call that takes longer than `seconds` is a CallError too.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        environment: str,
        step_limit: int | None,
        seconds: float = CALL_SECONDS,
    ) -> None:
        super().__init__(env)
        self.environment, self.step_limit, self.steps = environment, step_limit, 0
        self.time_limit = time_limit(environment, seconds)
        space = env.observation_space
        self.shape = space.shape if isinstance(space, gymnasium.spaces.Box) else None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment. Raises CallError for what it raises, and where the result is another."""
        self.steps = 0
        try:
            with self.time_limit:
                result = self.env.reset(**options)
        except CallError:
            raise
        except Exception as error:
            parameters = inspect.signature(self.env.unwrapped.reset).parameters.values()
            if any(one.name == "seed" or one.kind is one.VAR_KEYWORD for one in parameters):
                raise raised(error, f"{self.environment}: reset") from error
            raise self._old_api() from error
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise self._old_api()
        self._check_shape(result[0])
        return result

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As the environment. Raises CallError for what it raises, and where the result is another."""
        try:
            with self.time_limit:
                observation, reward, terminated, truncated, info = self.env.step(action)
            reward = float(reward)
        except CallError:
            raise
        except Exception as error:
            raise self._step_error(error, action) from error
        if math.isnan(reward):
            raise CallError(f"{self.environment}: step gives the reward NaN; every reward must be a number")
        self._check_shape(observation)
        self.steps += 1
        if self.steps == self.step_limit and not (terminated or truncated):
            truncated = True
            _report_limit(self.environment, self.step_limit)
        return observation, reward, bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """As the environment."""
        with self.time_limit:
            return self.env.render()

    def close(self) -> None:
        """As the environment."""
        with self.time_limit:
            self.env.close()

    def _step_error(self, error: Exception, action: Any) -> CallError:
        """`error`, or that the API is an old one: wrappers in between only say that they can't unpack."""
        try:
            with self.time_limit:
                result = self.env.unwrapped.step(action)
        except CallError as again:
            return again
        except Exception:  # the same again
            return raised(error, f"{self.environment}: step")
        has_five = isinstance(result, tuple) and len(result) == 5
        return raised(error, f"{self.environment}: step") if has_five else self._old_api()

    def _old_api(self) -> CallError:
        return CallError(
            f"{self.environment} has the API of old gym: gymnasium's is {API}; change its reset and step, or "
            "wrap it with shimmy (GymV21CompatibilityV0, GymV26CompatibilityV0)"
        )

    def _check_shape(self, observation: Any) -> None:
        if self.shape is not None and np.shape(observation) != self.shape:
            raise CallError(
                f"{self.environment} gives an observation of the shape {[*np.shape(observation)]}, but its "
                f"observation_space is {self.observation_space}; correct one of them"
            )


def _report_limit(environment: str, limit: int) -> None:
    """Once in a run, at the first episode that is truncated: a strict run ends there."""
    of_run = findings.of_run()
    happened = (
        "sets no max_episode_steps (for another limit: --set "
        "training.environment_options.max_episode_steps=N), so that episodes are truncated"
    )
    if (environment, happened) not in {(known.things, known.happened) for known in of_run}:
        of_run.add(environment, happened, [f"after {limit:,} steps"])
        of_run.report()
