"""Episodes of a policy in gymnasium environments, and their returns.

`act` is any callable from observations [n, ...] to actions [n, ...]: a network in this process or requests to
an endpoint. Where an environment is made with action masks, it is also given the mask, bool [n, choices]. An
`act` that keeps a state between two calls is told by `play_episodes` which episode and step every observation
is from.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from training.policies.envs.make import make, uses_action_masks
from training.policies.envs.vectorize import make_vec

# Where a reported evaluation starts; training and the selection among its candidates stay below.
EVALUATION_SEED = 2**30
SELECTION_SEED = EVALUATION_SEED // 2


class EpisodeStep(NamedTuple):
    """One observation with the numbers of its episode and step, both from 0, and its mask, if any."""

    episode: int
    step: int
    observation: Any
    action_mask: np.ndarray | None = None


Act = Callable[..., Any]
ActInEpisodes = Callable[[Sequence[EpisodeStep]], Any]
EnvKwargs = Mapping[str, Any] | None


def episode_returns(
    act: Act, environment: str, episodes: int, seed: int, num_envs: int = 64, env_kwargs: EnvKwargs = None
) -> np.ndarray:
    """Undiscounted returns, float64 [episodes], of episodes 0 to `episodes` - 1.

    Episode i starts from `reset(seed=seed + i)` of a plain `gymnasium.make(environment, **env_kwargs)`,
    whatever `num_envs` is, and every episode runs to its end and counts: an environment that has ended takes
    the next number, so that short episodes can't crowd out long ones. `act` gets at most `num_envs`
    observations at a time, only of running episodes.
    """

    def act_on_batch(steps: Sequence[EpisodeStep]) -> Any:
        masks = [step.action_mask for step in steps if step.action_mask is not None]
        return act(np.stack([step.observation for step in steps]), *([np.stack(masks)] if masks else []))

    return play_episodes(act_on_batch, environment, episodes, seed, num_envs, env_kwargs)


def play_episodes(
    act: ActInEpisodes,
    environment: str,
    episodes: int,
    seed: int,
    num_envs: int = 64,
    env_kwargs: EnvKwargs = None,
) -> np.ndarray:
    """As `episode_returns`, with an `act` that gets the episode and step of every observation."""
    returns, has_masks = np.zeros(episodes), uses_action_masks(env_kwargs)
    numbers = iter(range(episodes))

    def episode_step(episode: int, step: int, observation: Any, info: Mapping[str, Any]) -> EpisodeStep:
        return EpisodeStep(episode, step, observation, info["action_mask"] if has_masks else None)

    envs = [make(environment, **(env_kwargs or {})) for _ in range(min(num_envs, episodes))]
    running = [
        (env, episode_step(number, 0, *env.reset(seed=seed + number)))
        for env, number in zip(envs, numbers, strict=False)
    ]
    while running:
        actions = act([step for _, step in running])
        still_running = []
        for (env, current), action in zip(running, actions, strict=True):
            observation, reward, terminated, truncated, info = env.step(to_env_action(env, action))
            returns[current.episode] += float(reward)
            following = episode_step(current.episode, current.step + 1, observation, info)
            if terminated or truncated:
                number = next(numbers, -1)
                if number < 0:
                    env.close()
                    continue
                following = episode_step(number, 0, *env.reset(seed=seed + number))
            still_running.append((env, following))
        running = still_running
    return returns


def to_env_action(env: gymnasium.Env[Any, Any], action: Any) -> Any:
    """A row of an array, or JSON, as `env.step` takes it: int, or an array of the space's dtype."""
    if isinstance(env.action_space, spaces.Discrete):
        return int(action)
    return np.asarray(action, env.action_space.dtype)


def vector_returns(
    act: Act, environment: str, episodes: int, seed: int, env_kwargs: EnvKwargs = None
) -> np.ndarray:
    """Returns, float64 [episodes], of the first episode in each of `episodes` environments of a vector.

    Several times faster than `episode_returns` where the environment has a vectorized form, which draws all
    starts from one generator: they depend on `episodes` too. For selecting among candidates in training.
    """
    vector_env = make_vec(environment, episodes, env_kwargs)
    returns, running = np.zeros(episodes), np.ones(episodes, bool)
    has_masks = uses_action_masks(env_kwargs)
    obs, infos = vector_env.reset(seed=seed)
    while running.any():
        actions = act(obs, infos["action_mask"]) if has_masks else act(obs)
        obs, rewards, terminated, truncated, infos = vector_env.step(actions)
        returns += rewards * running  # an environment that has ended resets and runs on, uncounted
        running &= ~(terminated | truncated)
    vector_env.close()
    return returns


def random_returns(environment: str, episodes: int, seed: int, env_kwargs: EnvKwargs = None) -> np.ndarray:
    """Returns, float64 [episodes], of actions drawn from the environment's action space."""
    env = make(environment, **(env_kwargs or {}))
    env.close()
    env.action_space.seed(seed)

    def act(steps: Sequence[EpisodeStep]) -> list[Any]:
        return [env.action_space.sample() for _ in steps]

    return play_episodes(act, environment, episodes, seed, env_kwargs=env_kwargs)


def record_episode(
    act: Act, environment: str, seed: int, env_kwargs: EnvKwargs = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """(observations [T, ...], masks bool [T, n] or None) before each action of the episode of that seed."""
    recorded: list[tuple[np.ndarray, ...]] = []

    def act_and_record(*arguments: np.ndarray) -> Any:
        recorded.append(arguments)
        return act(*arguments)

    episode_returns(act_and_record, environment, episodes=1, seed=seed, env_kwargs=env_kwargs)
    columns = [np.concatenate(parts) for parts in zip(*recorded, strict=True)]
    return columns[0], columns[1] if len(columns) > 1 else None
