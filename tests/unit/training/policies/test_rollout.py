"""Policies in real environments: which rewards and steps count, and the start of each episode."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest

from marina.core.errors import CallError
from training.policies.envs.evaluate import episode_returns, vector_returns
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.envs.vectorize import make_vec
from training.policies.graphs.export import golden_samples, spread
from training.policies.spaces import ActionSpec, ObservationSpec


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
    register(monkeypatch, "Lasting-v0", Lasting)


def register(monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Lasting]) -> None:
    monkeypatch.setitem(gymnasium.registry, name, gymnasium.envs.registration.EnvSpec(name, entry_point=kind))


def spaced(observation: gymnasium.Space[Any], action: gymnasium.Space[Any]) -> type[Lasting]:
    """An environment of these spaces."""
    return type("Spaced", (Lasting,), {"observation_space": observation, "action_space": action})


@pytest.mark.parametrize("num_envs", [1, 3, 64])
def test_episode_i_is_gymnasiums_of_seed_plus_i_for_any_num_envs(
    num_envs: int,
) -> None:
    """Episode i is the one that gymnasium plays from seed + i, however many run together."""
    returns = episode_returns(upright, "CartPole-v1", episodes=7, seed=11, num_envs=num_envs)

    assert returns.tolist() == [alone(11 + episode) for episode in range(7)]


def test_short_episodes_do_not_crowd_out_long_ones() -> None:
    returns = episode_returns(
        lambda seen: np.zeros(len(seen), int), "Lasting-v0", episodes=11, seed=0, num_envs=4
    )

    assert returns.tolist() == [40, 2, 40, 2, 40, 2, 40, 2, 40, 2, 40]


def test_only_running_episodes_are_asked_for() -> None:
    asked = []

    def act(observations: np.ndarray) -> np.ndarray:
        asked.append(len(observations))
        return upright(observations)

    returns = episode_returns(act, "CartPole-v1", episodes=6, seed=2, num_envs=4)

    assert sum(asked) == returns.sum()
    assert max(asked) == 4


def test_quick_returns_count_the_first_episode_of_every_copy_only() -> None:
    returns = vector_returns(lambda seen: np.zeros(len(seen), int), "Lasting-v0", episodes=4, seed=0)

    assert returns.tolist() == [40, 2, 40, 2]


def test_vector_cartpole_equals_the_plain_one() -> None:
    """CartPole's vector form gives the steps, returns and time limit of the plain one."""
    vector = make_vec("CartPole-v1", 5)
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
    config = observation_spec("CartPole-v1")

    assert config.to_json()["input"] == "observation"
    assert (config.shape, config.dtype) == ((4,), "float32")
    assert config.low[1] is None
    assert config.high[0] == pytest.approx(4.8)
    assert config.names[2] == "pole angle"
    assert (config.environment, config.environment_version) == ("CartPole-v1", gymnasium.__version__)


def test_discrete_observations_are_whole_numbers_without_an_axis() -> None:
    config = observation_spec("FrozenLake-v1")

    assert (config.shape, config.dtype, config.low, config.high) == ((), "int64", 0, 15)


@pytest.mark.parametrize(
    ("environment", "message"), [("Blackjack-v1", "accepted are Box"), ("Nowhere-v0", "can't be made")]
)
def test_environments_that_do_not_fit_are_the_callers_mistake(environment: str, message: str) -> None:
    with pytest.raises(CallError, match=message):
        observation_spec(environment)


@pytest.mark.parametrize(
    ("dtype", "served", "high"),
    [(np.float64, "float64", np.inf), (np.float32, "float32", 3), (np.uint8, "float32", 3)],
)
def test_observations_of_any_shape_are_described_where_they_are_taken(
    dtype: type, served: str, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = gymnasium.spaces.Box(0, np.full((2, 3), high, np.float64).astype(dtype), (2, 3), dtype)
    register(monkeypatch, "Shaped-v0", spaced(observation, Lasting.action_space))

    config = observation_spec("Shaped-v0", any_box=True)

    assert (config.shape, config.dtype) == ((2, 3), served)
    assert config.low == [[0, 0, 0]] * 2
    assert config.high == [[None if high == np.inf else high] * 3] * 2
    assert ObservationSpec.from_json(json.loads(json.dumps(config.to_json(), allow_nan=False))) == config
    with pytest.raises(CallError, match="accepted are Box with one axis"):
        observation_spec("Shaped-v0")


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (gymnasium.spaces.Discrete(4), {"type": "discrete", "n": 4}),
        (gymnasium.spaces.MultiDiscrete([3, 2]), {"type": "multi_discrete", "nvec": [3, 2]}),
        (
            gymnasium.spaces.Box(np.array([-1, -np.inf], np.float32), np.array([0.1, 2], np.float32)),
            {"type": "box", "shape": [2], "low": [-1, None], "high": [float(np.float32(0.1)), 2]},
        ),
        (
            gymnasium.spaces.Box(-2, 2, (1, 2), np.float64),
            {"type": "box", "shape": [1, 2], "low": [[-2, -2]], "high": [[2, 2]]},
        ),
    ],
)
def test_actions_are_described_with_their_bounds(
    space: gymnasium.Space[Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "Acting-v0", spaced(Lasting.observation_space, space))

    config = action_spec("Acting-v0")

    assert config.to_json() == expected
    assert ActionSpec.from_json(json.loads(json.dumps(config.to_json(), allow_nan=False))) == config


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(3, start=1),
        gymnasium.spaces.MultiDiscrete([3, 2], start=[0, 1]),
        gymnasium.spaces.MultiDiscrete(np.array([[3, 2]])),
        gymnasium.spaces.MultiBinary(3),
        gymnasium.spaces.Box(0, 9, (2,), np.int64),
        gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2)]),
    ],
    ids=str,
)
def test_actions_that_no_policy_here_takes_are_refused_with_those_that_do(
    space: gymnasium.Space[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "Acting-v0", spaced(Lasting.observation_space, space))

    with pytest.raises(CallError, match=r"Acting-v0 acts by .*; accepted are Box of real numbers"):
        action_spec("Acting-v0")


def test_continuous_actions_reach_the_environment_as_they_are() -> None:
    env = gymnasium.make("Pendulum-v1")
    env.reset(seed=8)
    total = 0.0
    for step in range(200):
        total += float(env.step(np.array([1.5 if step % 2 else -0.7], np.float32))[1])
    calls = iter(range(200))

    returns = episode_returns(
        lambda seen: [[1.5 if next(calls) % 2 else -0.7]], "Pendulum-v1", episodes=1, seed=8
    )

    assert returns.tolist() == [total]


def test_samples_of_vector_actions_are_spread_and_keep_their_shapes() -> None:
    """Samples with several numbers per action are spread over the episode and keep their shapes."""
    random = np.random.default_rng(0)
    observations, actions = random.normal(size=(100, 2, 3)), random.normal(size=(100, 2)).astype(np.float32)
    clear = np.arange(100) % 2 == 0

    samples = golden_samples(observations, actions, clear)

    steps = [int(sample.name.removeprefix("step-")) for sample in samples]
    assert len(set(steps)) == len(steps) == 50
    assert max(np.diff(sorted([0, *steps[:6], 99]))) <= 30
    for step, sample in zip(steps, samples, strict=True):
        assert clear[step]
        assert np.array_equal(json.loads(sample.body)["observation"], observations[step])
        assert np.array_equal(sample.expect["action"], actions[step])


def test_any_beginning_of_a_spread_order_covers_the_whole() -> None:
    order = spread(np.arange(100))

    assert sorted(order) == list(range(100))
    assert max(np.diff(sorted([0, *order[:6], 99]))) <= 25
