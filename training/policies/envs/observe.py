"""What an environment observes and takes: its spaces, and the specs that are made of them."""

from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium import spaces

from training.policies.envs.make import make
from training.policies.spaces import ActionSpec, ObservationSpec

# From the tables in gymnasium's documentation; the spaces themselves don't carry them.
OBSERVATION_NAMES = {
    "CartPole": ["cart position", "cart velocity", "pole angle", "pole angular velocity"],
    "MountainCar": ["car position", "car velocity"],
    "MountainCarContinuous": ["car position", "car velocity"],
    "InvertedPendulum": ["cart position", "pole angle", "cart velocity", "pole angular velocity"],
    "LunarLander": [
        "x",
        "y",
        "x velocity",
        "y velocity",
        "angle",
        "angular velocity",
        "left leg touches",
        "right leg touches",
    ],
    "Acrobot": [
        "cos theta1",
        "sin theta1",
        "cos theta2",
        "sin theta2",
        "theta1 angular velocity",
        "theta2 angular velocity",
    ],
}


def observation_spec(
    environment: str, any_box: bool = False, env_kwargs: Mapping[str, Any] | None = None
) -> ObservationSpec:
    """The observations of an environment that is made with `env_kwargs`.

    Raises CallError for spaces that `ObservationSpec.from_space` refuses.
    """
    options = dict(env_kwargs or {})
    wrappers = options.pop("wrappers", {})
    is_changed = wrappers.keys() - {"action_masks"}
    name = environment.rpartition("/")[2].rpartition("-v")[0]
    return ObservationSpec.from_space(
        observation_space(environment, env_kwargs),
        any_box=any_box,
        environment=environment,
        names=None if is_changed else OBSERVATION_NAMES.get(name),
        environment_options=options,
        wrappers=wrappers,
    )


def action_spec(environment: str, env_kwargs: Mapping[str, Any] | None = None) -> ActionSpec:
    """The actions of an environment. Raises CallError for spaces that `ActionSpec.from_space` refuses."""
    return ActionSpec.from_space(action_space(environment, env_kwargs), environment)


def observation_space(environment: str, env_kwargs: Mapping[str, Any] | None = None) -> spaces.Space[Any]:
    """Gymnasium's space of the observations."""
    return _spaces(environment, env_kwargs).observation_space


def action_space(environment: str, env_kwargs: Mapping[str, Any] | None = None) -> spaces.Space[Any]:
    """Gymnasium's space of the actions."""
    return _spaces(environment, env_kwargs).action_space


def _spaces(environment: str, env_kwargs: Mapping[str, Any] | None) -> gymnasium.Env[Any, Any]:
    env = make(environment, **(env_kwargs or {}))
    env.close()
    return env
