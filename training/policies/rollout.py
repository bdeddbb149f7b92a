"""Policies in real gymnasium environments: what an environment takes and gives, and the returns that a policy earns in it.

`act` is any callable from observations [n, ...] to actions [n, ...]: a network in this process or requests to an endpoint. Where an
environment is made with action masks, it is also given those that are allowed, bool [n, choices].
What keeps a state between two calls is told by `played` which episode and step every observation is.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from marina.errors import CallError
from training.policies import environments
from training.trained import Sample

make, make_vector = environments.make, environments.make_vector


class Moment(NamedTuple):
    """One observation, with the numbers of its episode and its step, both from 0, and what is allowed then (None: everything)."""

    episode: int
    step: int
    observation: Any
    allowed: np.ndarray | None = None


Act = Callable[..., Any]
ActInEpisodes = Callable[[Sequence[Moment]], Any]
Finished = Callable[[int, float], None]

MOST_SAMPLES = 64  # a spec asks for no more

# Where an evaluation that is reported starts; training and the choice among its candidates stay below.
EVALUATION_SEED = 2**30

# Taken from the tables in gymnasium's documentation, which the spaces themselves don't carry.
OBSERVATION_NAMES = {
    "CartPole": ["cart position", "cart velocity", "pole angle", "pole angular velocity"],
    "MountainCar": ["car position", "car velocity"],
    "MountainCarContinuous": ["car position", "car velocity"],
    "InvertedPendulum": ["cart position", "pole angle", "cart velocity", "pole angular velocity"],
    "LunarLander": ["x", "y", "x velocity", "y velocity", "angle", "angular velocity", "left leg touches", "right leg touches"],
    "Acrobot": ["cos theta1", "sin theta1", "cos theta2", "sin theta2", "theta1 angular velocity", "theta2 angular velocity"],
}


def episode_returns(
    act: Act,
    environment: str,
    episodes: int,
    seed: int,
    copies: int = 64,
    finished: Finished | None = None,
    options: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Undiscounted returns, float64 [episodes], of episodes 0 to `episodes` - 1.

    Episode i starts from `reset(seed=seed + i)` of a plain `gymnasium.make(environment, **options)`, whatever `copies` is, and every
    episode is run to its end and counted: a place that gets free takes the next number, so that short episodes can't crowd
    out long ones. `act` sees at most `copies` observations at a time, only of episodes that still run. `finished(i, return)`
    is called as episodes end, for a progress bar.
    """

    def at_once(moments: Sequence[Moment]) -> Any:
        masks = [moment.allowed for moment in moments if moment.allowed is not None]
        return act(np.stack([moment.observation for moment in moments]), *([np.stack(masks)] if masks else []))

    return played(at_once, environment, episodes, seed, copies, finished, options)


def played(
    act: ActInEpisodes,
    environment: str,
    episodes: int,
    seed: int,
    copies: int = 64,
    finished: Finished | None = None,
    options: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """As `episode_returns`, with an `act` that is told of every observation where it stands."""
    returns, masked = np.zeros(episodes), environments.with_masks(options)
    waiting = iter(range(episodes))

    def moment_of(episode: int, step: int, observation: Any, info: Mapping[str, Any]) -> Moment:
        return Moment(episode, step, observation, info["action_mask"] if masked else None)

    envs = [make(environment, **(options or {})) for _ in range(min(copies, episodes))]
    running = [(env, moment_of(number, 0, *env.reset(seed=seed + number))) for env, number in zip(envs, waiting, strict=False)]
    while running:
        actions = act([moment for _, moment in running])
        going = []
        for (env, moment), action in zip(running, actions, strict=True):
            observation, reward, terminated, truncated, info = env.step(plain_action(env, action))
            returns[moment.episode] += float(reward)
            following = moment_of(moment.episode, moment.step + 1, observation, info)
            if terminated or truncated:
                if finished:
                    finished(moment.episode, float(returns[moment.episode]))
                number = next(waiting, -1)
                if number < 0:
                    env.close()
                    continue
                following = moment_of(number, 0, *env.reset(seed=seed + number))
            going.append((env, following))
        running = going
    return returns


def plain_action(env: gymnasium.Env[Any, Any], action: Any) -> Any:
    """An action from a row of an array or from JSON as `env.step` takes it: int, or an array of the space's dtype."""
    return int(action) if isinstance(env.action_space, spaces.Discrete) else np.asarray(action, env.action_space.dtype)


def quick_returns(act: Act, environment: str, episodes: int, seed: int, options: Mapping[str, Any] | None = None) -> np.ndarray:
    """Returns, float64 [episodes], of the first episode in each of `episodes` copies of the vector environment.

    Several times faster than `episode_returns` where the environment has a vector form of its own; that one draws all starts
    from one generator, so they depend on `episodes` too. For choosing among candidates while training.
    """
    vector = make_vector(environment, episodes, options)
    returns, running = np.zeros(episodes), np.ones(episodes, bool)
    masked = environments.with_masks(options)
    observations, infos = vector.reset(seed=seed)
    while running.any():
        actions = act(observations, infos["action_mask"]) if masked else act(observations)
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        returns += rewards * running  # a copy that has ended resets and goes on, uncounted
        running &= ~(terminated | truncated)
    vector.close()
    return returns


def observation_config(environment: str, any_box: bool = False, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """preprocess_config.json of a policy: shape, dtype and bounds (null where infinite) of one observation, and what it is made with.

    Takes Box observations with one axis (served as float32) or stacks of such, pictures (Box of uint8 from 0 to 255 with two or three
    axes, or stacks of them: served as uint8) and Discrete ones from 0 (int64, shape []); with `any_box` Box of any shape, where
    float64 is served as such. Raises CallError for others.
    """
    space, made_with = observation_space(environment, options), dict(options or {})
    wrappers = made_with.pop("wrappers", {})
    axes = len(space.shape or ()) - bool(wrappers.get("frame_stack"))
    if isinstance(space, spaces.Box) and not any_box and axes in (2, 3) and _holds_pixels(space):
        config: dict[str, Any] = {"shape": [*space.shape], "dtype": "uint8", "low": 0, "high": 255}
    elif isinstance(space, spaces.Box) and (any_box or axes == 1):
        dtype = "float64" if any_box and space.dtype == np.float64 else "float32"
        config = {"shape": [*space.shape], "dtype": dtype, "low": _bounds(space.low), "high": _bounds(space.high)}
    elif isinstance(space, spaces.Discrete) and space.start == 0:
        config = {"shape": [], "dtype": "int64", "low": 0, "high": int(space.n) - 1}
    else:
        taken = "Box" if any_box else "Box with one axis, pictures of uint8"
        raise CallError(f"{environment} observes {space}; taken are {taken}, and Discrete that starts at 0")
    changed = wrappers.keys() - {"action_masks"}
    names = None if changed else OBSERVATION_NAMES.get(environment.rpartition("/")[2].rpartition("-v")[0])
    more = {"names": names, "environment_options": made_with, "wrappers": wrappers}
    origin = {"environment": environment, "environment_version": gymnasium.__version__}
    return {"input": "observation", **config, **origin, **{key: value for key, value in more.items() if value}}


def _holds_pixels(space: spaces.Box) -> bool:
    return space.dtype == np.uint8 and not space.low.any() and bool((space.high == 255).all())


def action_config(environment: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The action space as postprocess_config.json describes it; bounds are null where infinite.

    {"type": "discrete", "n"}, {"type": "box", "shape", "low", "high"} or {"type": "multi_discrete", "nvec"}. Raises CallError
    for other spaces, for a Box of whole numbers, and where the first action is not 0.
    """
    space = action_space(environment, options)
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return {"type": "discrete", "n": int(space.n)}
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return {"type": "box", "shape": [*space.shape], "low": _bounds(space.low), "high": _bounds(space.high)}
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return {"type": "multi_discrete", "nvec": space.nvec.tolist()}
    raise CallError(f"{environment} acts by {space}; taken are Box of real numbers, and Discrete and MultiDiscrete that start at 0")


def observation_space(environment: str, options: Mapping[str, Any] | None = None) -> spaces.Space[Any]:
    """What an environment observes."""
    env = make(environment, **(options or {}))
    env.close()
    return env.observation_space


def action_space(environment: str, options: Mapping[str, Any] | None = None) -> spaces.Space[Any]:
    """What an environment takes."""
    env = make(environment, **(options or {}))
    env.close()
    return env.action_space


def _bounds(bounds: np.ndarray) -> Any:
    """Nested lists of numbers, None where infinite."""
    plain = bounds.astype(object)
    plain[~np.isfinite(bounds)] = None
    return plain.tolist()


def episode_observations(act: Act, environment: str, seed: int, options: Mapping[str, Any] | None = None) -> np.ndarray:
    """What is observed, [T, ...], in the episode that starts from `reset(seed=seed)`, before each of its T actions."""
    return watched_episode(act, environment, seed, options)[0]


def watched_episode(
    act: Act, environment: str, seed: int, options: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """(what is observed, [T, ...], what is allowed, bool [T, n], or None without masks) in that episode."""
    seen: list[tuple[np.ndarray, ...]] = []

    def watched(*situation: np.ndarray) -> Any:
        seen.append(situation)
        return act(*situation)

    episode_returns(watched, environment, episodes=1, seed=seed, options=options)
    columns = [np.concatenate(parts) for parts in zip(*seen, strict=True)]
    return columns[0], columns[1] if len(columns) > 1 else None


def golden_samples(observations: np.ndarray, actions: np.ndarray, clear: np.ndarray, allowed: np.ndarray | None = None) -> list[Sample]:
    """Up to 64 sample requests from the steps of an episode where `clear` (bool [T]) says that the action is beyond doubt.

    `actions` are whole numbers [T], or [T, ...] with several numbers per action; `allowed`, bool [T, n], is sent along if given.
    Any first few samples lie spread over the episode and, where an action is one whole number, take turns among the actions.
    """
    kinds = actions if actions.ndim == 1 and actions.dtype.kind in "iu" else np.zeros(len(actions))
    turns = [spread(np.flatnonzero(clear & (kinds == kind))) for kind in np.unique(kinds)]
    order = [steps[turn] for turn in range(max(map(len, turns))) for steps in turns if turn < len(steps)]
    samples = []
    for step in order[:MOST_SAMPLES]:
        numbers = [json.loads(str(number)) for number in np.ravel(observations[step])]  # the shortest that reads back the same
        nested = np.array(numbers, object).reshape(observations.shape[1:]).tolist()
        mask = {} if allowed is None else {"action_mask": allowed[step].astype(int).tolist()}
        body = json.dumps({"observation": nested, **mask}).encode()
        samples.append(Sample(f"step-{step}", body, "application/json", {"action": actions[step].tolist()}))
    return samples


def spread(steps: np.ndarray) -> list[int]:
    """The same steps in an order whose every beginning is spread over them: multiples of the golden section, modulo 1."""
    places = (np.arange(4 * len(steps)) * 0.6180339887 % 1 * len(steps)).astype(int)
    return [int(steps[place]) for place in dict.fromkeys(places.tolist())]
