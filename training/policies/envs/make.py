"""Environments by their id: made with options of their own, and wrapped.

What an environment is made with travels as one mapping, `env_kwargs`, and is kept in preprocess_config.json
("environment_options" and "wrappers"), so that evaluation later uses the same environment as training.
"""

import difflib
import functools
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from marina.core.errors import CallError
from training.imports.user_code import find_file, importable, load_module, raised
from training.policies.envs.checked import CALL_SECONDS, STEP_LIMIT, CheckedEnv, time_limit

ATARI = "ALE/"
# the extra that installs the packages of these environments
EXTRAS = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco"}


def make(
    environment: str, wrappers: Mapping[str, Any] | None = None, **options: Any
) -> gymnasium.Env[Any, Any]:
    """One environment by its id, with options of its own.

    `module:Id-v0` imports that module first, from the user's project or an installed package; `file.py:Id-v0`
    runs that file.

    `wrappers` may hold {"atari_preprocessing": true} (Machado et al. 2018, section 3: up to 30 no-ops at the
    start, 4 frames per step, of which the last two are merged, 84 x 84 in gray), {"frame_stack": n} (the last
    n observations, oldest first; the first of an episode is repeated at its start) and {"action_masks": true}
    (see `ActionMasks`). `max_step_seconds` in `options` is the limit on every call of the environment.

    Raises CallError for an id that is unknown or lacks its packages, and for options and wrappers that it
    doesn't take; what the environment itself raises later is one too (`CheckedEnv`).
    """
    wrappers, kwargs = wrappers or {}, dict(options)
    if environment.startswith(ATARI):
        _require("ale_py", environment)
    if wrappers.get("atari_preprocessing"):
        _require("cv2", environment)
        kwargs.setdefault("frameskip", 1)  # the wrapper skips
    env = _make_checked(environment, kwargs)
    if wrappers.get("atari_preprocessing"):
        env = _wrap_atari(env, environment)
    if wrappers.get("frame_stack"):
        env = gymnasium.wrappers.FrameStackObservation(env, int(wrappers["frame_stack"]))
    return ActionMasks(env, environment) if wrappers.get("action_masks") else env


def _make_checked(environment: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """With an end: at the environment's own limit, at `max_episode_steps` in `kwargs`, or at STEP_LIMIT."""
    steps, seconds = kwargs.get("max_episode_steps", 1), kwargs.pop("max_step_seconds", CALL_SECONDS)
    if not isinstance(steps, int) or steps < 1:
        raise CallError(f"environment_options: max_episode_steps is {steps!r}; it must be 1 or more")
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise CallError(f"environment_options: max_step_seconds is {seconds!r}; it must be above 0")
    place, _, name = environment.rpartition(":")
    if place.endswith(".py"):
        _load_file(find_file(place, "environment"))
    elif place:
        load_module(place, "environment")
    try:
        with importable(), time_limit(environment, seconds):
            env = gymnasium.make(name, disable_env_checker=True, **kwargs)
    except CallError:
        raise
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise _missing_packages(environment, _extra(environment), error) from error
    except gymnasium.error.Error as error:
        raise _unknown(environment, error) from error
    except Exception as error:
        if not kwargs:
            raise raised(error, f"environment {environment!r}") from error
        problem = f"environment_options: {environment!r} can't be made with {kwargs}: {error}"
        raise CallError(f"{problem}. Leave out what it doesn't take") from error
    return CheckedEnv(env, environment, None if _has_end(env, name) else STEP_LIMIT, seconds)


@functools.cache
def _load_file(path: Path) -> None:
    """Run a file that registers environments: once, as a module is."""
    load_module(str(path), "environment")


def _has_end(env: gymnasium.Env[Any, Any], name: str) -> bool:
    """Whether a wrapper of gymnasium, or the Arcade Learning Environment itself, truncates episodes."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return True
        env = env.env
    return name.startswith(ATARI)


def _unknown(environment: str, error: Exception) -> CallError:
    name = environment.rpartition(":")[2]
    close = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.7)
    hint = f"did you mean {', '.join(close)}? Else " if close else ""
    own = "" if ":" in environment else ", or one of your own with its module, like my_env:Walk-v0"
    reason = str(error).partition(". Did you mean")[0].rstrip(".")
    return CallError(
        f"environment {environment!r} can't be made: {reason}; {hint}name a registered one, like "
        f"CartPole-v1{own}"
    )


def spec_of(environment: str) -> gymnasium.envs.registration.EnvSpec:
    """Gymnasium's spec of an id; of `module:Id-v0` too, once the module is imported."""
    return gymnasium.spec(environment.rpartition(":")[2])


class ActionMasks(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Checks that every observation comes with a mask of the valid actions: info["action_mask"], bool [n].

    n is the number of Discrete actions, or the sum of nvec, branch after branch, of MultiDiscrete ones. At
    the end of an episode a missing or empty mask counts as all valid. Raises CallError for other actions, and
    for masks that are missing, of another length, or without a valid action.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], environment: str) -> None:
        super().__init__(env)
        space, self.environment = env.action_space, environment
        if isinstance(space, gymnasium.spaces.Discrete):
            self.branch_sizes = [int(space.n)]
        elif isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
            self.branch_sizes = space.nvec.tolist()
        else:
            raise CallError(
                f"action_masks: {environment} acts by {space}; "
                "masks are of Discrete and MultiDiscrete actions; leave it out"
            )

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment, with a mask."""
        observation, info = self.env.reset(**options)
        return observation, {**info, "action_mask": self._check_mask(info, False)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment, with a mask."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        mask = self._check_mask(info, terminated or truncated)
        return observation, reward, terminated, truncated, {**info, "action_mask": mask}

    def _check_mask(self, info: dict[str, Any], done: bool) -> np.ndarray:
        mask, size = info.get("action_mask"), sum(self.branch_sizes)
        if mask is None and not done:
            raise CallError(
                f"action_masks: {self.environment} gives none: info['action_mask'] is missing; leave it out"
            )
        is_valid = np.ones(size, bool) if mask is None else np.asarray(mask)
        if is_valid.shape != (size,) or not np.isin(is_valid, (0, 1)).all():
            raise CallError(
                f"action_masks: {self.environment} gives {mask!r} as info['action_mask'], "
                f"not {size} values 0 or 1; leave it out"
            )
        is_valid = is_valid.astype(bool)
        starts = np.cumsum([0, *self.branch_sizes[:-1]])
        if not np.logical_or.reduceat(is_valid, starts).all():
            if not done:
                raise CallError(
                    f"action_masks: {self.environment} gives {mask!r}, which has no valid action; "
                    "every mask needs one"
                )
            is_valid = np.ones(size, bool)
        return is_valid


def uses_action_masks(env_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether an environment made with these gives masks that are meant to be used."""
    return bool((env_kwargs or {}).get("wrappers", {}).get("action_masks"))


def _wrap_atari(env: gymnasium.Env[Any, Any], environment: str) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.wrappers.AtariPreprocessing(env)
    except (AttributeError, ValueError, AssertionError) as error:
        env.close()
        raise CallError(
            f"atari: {environment!r} is no game of the Arcade Learning Environment ({error}); leave it out"
        ) from error


def _extra(environment: str) -> str | None:
    """The extra of Marina that installs an environment's packages; None for those that aren't gymnasium's."""
    origin = str(spec_of(environment).entry_point)
    return next((extra for folder, extra in EXTRAS.items() if origin.startswith(folder)), None)


def _missing_packages(environment: str, extra: str | None, error: Exception | None = None) -> CallError:
    hint = f"run: pip install 'marina[{extra}]'" if extra else f"install what provides it ({error})"
    return CallError(f"environment {environment!r} needs packages that are missing; {hint}")


def _require(module: str, environment: str) -> None:
    """Import the package of a game, which registers its environments."""
    if importlib.util.find_spec(module) is None:
        raise _missing_packages(environment, "atari")
    package = importlib.import_module(module)
    if module == "ale_py":  # it would print its version every time
        package.ALEInterface.setLoggerMode(package.LoggerMode.Error)
