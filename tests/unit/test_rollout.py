"""Policies in real environments: what is counted, and from where it starts."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from marina.errors import CallError
from training import rollout


def upright(observations: np.ndarray) -> np.ndarray:
    """Pushes to where the pole falls: a fair, not a perfect policy."""
    return (observations[:, 2] + 0.1 * observations[:, 3] > 0).astype(np.int64)


def alone(seed: int) -> float:
    """The same policy by gymnasium's own loop."""
    env, total, ended = gymnasium.make("CartPole-v1"), 0.0, False
    observation, _ = env.reset(seed=seed)
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(int(upright(observation[None])[0]))
        total, ended = total + float(reward), terminated or truncated
    env.close()
    return total


class Lasting(gymnasium.Env[np.ndarray, int]):
    """Every second episode lasts 2 steps, the others 40; each step earns 1."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 2 if seed is None or seed % 2 else 40
        return np.array([self.left], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.array([self.left], np.float32), 1.0, self.left == 0, False, {}


@pytest.fixture(autouse=True)
def _lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Lasting-v0", entry_point=Lasting)
    monkeypatch.setitem(gymnasium.registry, "Lasting-v0", spec)


@pytest.mark.parametrize("copies", [1, 3, 64])
def test_episode_i_is_the_one_that_gymnasium_plays_from_seed_plus_i_however_many_run_together(copies: int) -> None:
    returns = rollout.episode_returns(upright, "CartPole-v1", episodes=7, seed=11, copies=copies)

    assert returns.tolist() == [alone(11 + episode) for episode in range(7)]


def test_short_episodes_do_not_crowd_out_long_ones() -> None:
    returns = rollout.episode_returns(lambda seen: np.zeros(len(seen), int), "Lasting-v0", episodes=11, seed=0, copies=4)

    assert returns.tolist() == [40, 2, 40, 2, 40, 2, 40, 2, 40, 2, 40]


def test_only_running_episodes_are_asked_for_and_each_is_reported_once() -> None:
    asked, finished = [], {}

    def act(observations: np.ndarray) -> np.ndarray:
        asked.append(len(observations))
        return upright(observations)

    returns = rollout.episode_returns(act, "CartPole-v1", episodes=6, seed=2, copies=4, finished=finished.setdefault)

    assert sum(asked) == returns.sum()
    assert max(asked) == 4
    assert [finished[number] for number in range(6)] == returns.tolist()


def test_quick_returns_count_the_first_episode_of_every_copy_only() -> None:
    returns = rollout.quick_returns(lambda seen: np.zeros(len(seen), int), "Lasting-v0", episodes=4, seed=0)

    assert returns.tolist() == [40, 2, 40, 2]


def test_cartpoles_vector_form_gives_the_steps_returns_and_time_limit_of_the_plain_one() -> None:
    vector = rollout.make_vector("CartPole-v1", 5)
    assert not isinstance(vector, gymnasium.vector.SyncVectorEnv)
    observations, _ = vector.reset(seed=4)
    plain = [gymnasium.make("CartPole-v1") for _ in range(5)]
    for env, start in zip(plain, vector.state.T, strict=True):  # type: ignore[attr-defined]
        env.reset(seed=0)
        env.unwrapped.state = start.copy()  # type: ignore[attr-defined]
    running = np.ones(5, bool)
    clever = np.array([False, False, True, True, True])

    for _ in range(500):
        better = (observations @ np.array([0.05, 0.1, 1, 0.3], np.float32) > 0).astype(np.int64)
        actions = np.where(clever, better, upright(observations))
        observations, rewards, terminated, truncated, _ = vector.step(actions)
        for index in np.flatnonzero(running):
            seen, reward, over, cut, _ = plain[index].step(int(actions[index]))
            np.testing.assert_allclose(observations[index], seen, rtol=1e-5, atol=1e-6)
            assert (rewards[index], terminated[index], truncated[index]) == (reward, over, cut)
        running &= ~(terminated | truncated)

    assert not running.any()
    assert truncated[clever].all()


def test_observations_are_described_with_bounds_and_names() -> None:
    config = rollout.observation_config("CartPole-v1")

    assert config["input"] == "observation"
    assert (config["shape"], config["dtype"]) == ([4], "float32")
    assert config["low"][1] is None
    assert config["high"][0] == pytest.approx(4.8)
    assert config["names"][2] == "pole angle"
    assert (config["environment"], config["environment_version"]) == ("CartPole-v1", gymnasium.__version__)


def test_discrete_observations_are_whole_numbers_without_an_axis() -> None:
    config = rollout.observation_config("FrozenLake-v1")

    assert (config["shape"], config["dtype"], config["low"], config["high"]) == ([], "int64", 0, 15)


@pytest.mark.parametrize(("environment", "message"), [("Blackjack-v1", "taken are Box"), ("Nowhere-v0", "can't be made")])
def test_environments_that_do_not_fit_are_the_callers_mistake(environment: str, message: str) -> None:
    with pytest.raises(CallError, match=message):
        rollout.observation_config(environment)


def test_continuous_actions_are_refused_by_recipes_for_discrete_ones() -> None:
    with pytest.raises(CallError, match="takes Discrete actions"):
        rollout.discrete_actions("Pendulum-v1")


def test_any_beginning_of_a_spread_order_covers_the_whole() -> None:
    order = rollout.spread(np.arange(100))

    assert sorted(order) == list(range(100))
    assert max(np.diff(sorted([0, *order[:6], 99]))) <= 25
