"""Environments by their id: made with options of their own, wrapped in what turns a game's pictures into observations.

What an environment is made with travels as one mapping, also in preprocess_config.json ("environment_options" and "wrappers"), so
that whoever plays it later meets what training met.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from marina.errors import CallError
from training.policies.classic_control import TASKS
from training.policies.pooled import Pooled

ATARI = "ALE/"
EXTRAS = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco"}  # what brings the packages of these environments


def make(environment: str, wrappers: Mapping[str, Any] | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
    """One environment by its id, with options of its own.

    `wrappers` may hold {"atari_preprocessing": true} (Machado et al. 2018, section 3: up to 30 idle steps at the start, 4 frames per
    step, of which the last two are merged, 84 x 84 in grey), {"frame_stack": n} (the last n observations, oldest first; the first
    of an episode stands for those before it) and {"action_masks": true} (see `ActionMasks`). Raises CallError for an id that is
    unknown or lacks its packages, and for options and wrappers that it doesn't take.
    """
    wrappers, own = wrappers or {}, dict(options)
    if environment.startswith(ATARI):
        _need("ale_py", environment)
    if wrappers.get("atari_preprocessing"):
        _need("cv2", environment)
        own.setdefault("frameskip", 1)  # the wrapper skips
    try:
        env = gymnasium.make(environment, disable_env_checker=True, **own)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise _missing(environment, _extra(environment)) from error
    except gymnasium.error.Error as error:
        raise CallError(f"environment {environment!r} can't be made: {error}. Name a registered one, like CartPole-v1") from error
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        if not own:
            raise
        problem = f"environment_options: {environment!r} can't be made with {own}: {error}"
        raise CallError(f"{problem}. Leave out what it doesn't take") from error
    if wrappers.get("atari_preprocessing"):
        env = _atari(env, environment)
    if wrappers.get("frame_stack"):
        env = gymnasium.wrappers.FrameStackObservation(env, int(wrappers["frame_stack"]))
    return ActionMasks(env, environment) if wrappers.get("action_masks") else env


class ActionMasks(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sees to it that every observation comes with the actions that are allowed then: info["action_mask"], bool [n].

    n is the number of Discrete actions, or the sum of nvec, branch after branch, of MultiDiscrete ones. At the end of an episode
    everything counts as allowed where the environment says otherwise, or nothing. Raises CallError for other actions, and for
    masks that are missing, of another length, or leave nothing to do.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], environment: str) -> None:
        super().__init__(env)
        space, self.environment = env.action_space, environment
        if isinstance(space, gymnasium.spaces.Discrete):
            self.branches = [int(space.n)]
        elif isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
            self.branches = space.nvec.tolist()
        else:
            raise CallError(f"action_masks: {environment} acts by {space}; masks are of Discrete and MultiDiscrete actions; leave it out")

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment, with a mask."""
        observation, info = self.env.reset(**options)
        return observation, {**info, "action_mask": self._checked(info, False)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment, with a mask."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        mask = self._checked(info, terminated or truncated)
        return observation, reward, terminated, truncated, {**info, "action_mask": mask}

    def _checked(self, info: dict[str, Any], ended: bool) -> np.ndarray:
        mask, size = info.get("action_mask"), sum(self.branches)
        if mask is None and not ended:
            raise CallError(f"action_masks: {self.environment} gives none: info['action_mask'] is missing; leave it out")
        allowed = np.ones(size, bool) if mask is None else np.asarray(mask)
        if allowed.shape != (size,) or not np.isin(allowed, (0, 1)).all():
            raise CallError(
                f"action_masks: {self.environment} gives {mask!r} as info['action_mask'], not {size} values 0 or 1; leave it out"
            )
        allowed = allowed.astype(bool)
        starts = np.cumsum([0, *self.branches[:-1]])
        if not np.logical_or.reduceat(allowed, starts).all():
            if not ended:
                raise CallError(f"action_masks: {self.environment} gives {mask!r}, which leaves nothing to do; it must allow an action")
            allowed = np.ones(size, bool)
        return allowed


def make_vector(
    environment: str, copies: int, options: Mapping[str, Any] | None = None, envpool: bool = False
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """`copies` of an environment in this process that reset on the next step: in one arithmetic where there is one, else one by one.

    With `envpool` they are EnvPool's. Raises CallError where it is missing or hasn't got the environment.
    """
    made_with = options or {}
    make(environment, **made_with).close()  # its errors are ours
    if envpool:
        return Pooled(environment, copies, made_with)
    if environment in TASKS and not made_with:
        return TASKS[environment](copies)
    own = not made_with and gymnasium.spec(environment).vector_entry_point is not None
    if own:
        vector = gymnasium.make_vec(environment, copies, vectorization_mode="vector_entry_point")
        if vector.metadata.get("autoreset_mode") == gymnasium.vector.AutoresetMode.NEXT_STEP:
            return vector
        vector.close()
    return gymnasium.vector.SyncVectorEnv([lambda: make(environment, **made_with) for _ in range(copies)])


def with_masks(options: Mapping[str, Any] | None) -> bool:
    """Whether an environment made with these gives masks that are meant to be used."""
    return bool((options or {}).get("wrappers", {}).get("action_masks"))


def made_with(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `make` besides the id, from a policy's preprocess_config.json."""
    wrappers = {"wrappers": config["wrappers"]} if config.get("wrappers") else {}
    return {**config.get("environment_options", {}), **wrappers}


def _atari(env: gymnasium.Env[Any, Any], environment: str) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.wrappers.AtariPreprocessing(env)
    except (AttributeError, ValueError, AssertionError) as error:
        env.close()
        raise CallError(f"atari: {environment!r} is no game of the Arcade Learning Environment ({error}); leave it out") from error


def _extra(environment: str) -> str | None:
    """The extra that has what an environment is made of; none for those that aren't gymnasium's own."""
    origin = str(gymnasium.spec(environment).entry_point)
    return next((extra for folder, extra in EXTRAS.items() if origin.startswith(folder)), None)


def _missing(environment: str, extra: str | None) -> CallError:
    how = f"run: pip install 'marina[{extra}]'" if extra else "install what it comes with"
    return CallError(f"environment {environment!r} needs packages that are missing; {how}")


def _need(module: str, environment: str) -> None:
    """Games register themselves when their package is imported."""
    if importlib.util.find_spec(module) is None:
        raise _missing(environment, "atari")
    package = importlib.import_module(module)
    if module == "ale_py":  # it would tell its version every time
        package.ALEInterface.setLoggerMode(package.LoggerMode.Error)
