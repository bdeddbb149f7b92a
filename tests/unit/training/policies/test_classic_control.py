"""Vectorized classic control equals gymnasium's, step for step."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from training.policies.envs.classic_control import TASKS, ClassicControl
from training.policies.envs.vectorize import make_vec

NUM_ENVS = 16
# of states to start from
LIMITS = {"Acrobot-v1": np.array([3, 3, 12, 28]), "CartPole-v1": np.array([2.5, 4, 0.25, 4])}


def drawn(vector: ClassicControl, random: np.random.Generator) -> np.ndarray:
    """Actions, also beyond the bounds."""
    if isinstance(vector.single_action_space, gymnasium.spaces.Discrete):
        return random.integers(vector.single_action_space.n, size=NUM_ENVS)
    return random.uniform(-3, 3, (NUM_ENVS, 1)).astype(np.float32)


def plain(action: Any) -> Any:
    return action if np.ndim(action) else int(action)


@pytest.mark.parametrize("environment", TASKS)
def test_a_step_is_that_of_gymnasiums_environment_in_the_same_state(environment: str) -> None:
    vector, random, single = (
        TASKS[environment](NUM_ENVS),
        np.random.default_rng(0),
        gymnasium.make(environment).unwrapped,
    )
    vector.reset(seed=1)
    single.reset(seed=1)
    episodes = 0
    for step in range(400):
        if step % 50 == 0 and environment != "Pendulum-v1":  # states that random actions rarely reach
            limits = LIMITS.get(environment, vector.single_observation_space.high)
            vector.state = (random.uniform(-1, 1, (NUM_ENVS, len(vector.state))) * limits).T.astype(
                vector.state.dtype
            )
        before, actions, running = vector.state.copy(), drawn(vector, random), ~vector.dones

        observations, rewards, terminated, truncated, _ = vector.step(actions)

        for copy in np.flatnonzero(running):
            single.state, single.steps_beyond_terminated = before[:, copy].copy(), None
            observation, reward, ended, _, _ = single.step(plain(actions[copy]))
            np.testing.assert_allclose(observations[copy], observation, rtol=1e-6, atol=1e-6)
            assert rewards[copy] == pytest.approx(reward, rel=1e-6, abs=1e-6)
            assert terminated[copy] == ended
        assert not (terminated | truncated)[~running].any()
        episodes += int((terminated | truncated).sum())
    assert episodes >= NUM_ENVS


def test_cartpole_gives_the_same_numbers_as_gymnasiums_own_vector_form() -> None:
    vector, random = TASKS["CartPole-v1"](64), np.random.default_rng(0)
    theirs = gymnasium.make_vec("CartPole-v1", 64, vectorization_mode="vector_entry_point")
    assert np.array_equal(vector.reset(seed=5)[0], theirs.reset(seed=5)[0])

    observations, truncations = vector.observe(), 0
    for _ in range(1000):
        actions = random.integers(2, size=64)
        actions[:32] = observations[:32, 2:] @ [1.0, 1.0] > 0  # these stay up to the time limit
        for ours, expected in zip(vector.step(actions)[:4], theirs.step(actions)[:4], strict=True):
            assert np.array_equal(ours, expected)
        observations, truncations = vector.observe(), truncations + int(vector.steps.max() == 500)
    assert truncations


@pytest.mark.parametrize("environment", sorted(TASKS.keys() - {"CartPole-v1"}))
def test_spaces_dtypes_starts_and_the_time_limit_are_gymnasiums(environment: str) -> None:
    vector = make_vec(environment, 300)
    theirs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(environment)] * 300)
    (ours, _), (expected, _) = vector.reset(seed=3), theirs.reset(seed=3)
    still = (
        np.full(300, 1)
        if isinstance(vector.single_action_space, gymnasium.spaces.Discrete)
        else np.zeros((300, 1), np.float32)
    )

    rows = [vector.step(still) for _ in range(gymnasium.spec(environment).max_episode_steps or 0)]

    assert isinstance(vector, ClassicControl)
    assert (vector.single_observation_space, vector.single_action_space) == (
        theirs.single_observation_space,
        theirs.single_action_space,
    )
    assert vector.observation_space.contains(ours)
    assert ours.dtype == expected.dtype
    for column in range(ours.shape[1]):
        np.testing.assert_allclose(
            np.quantile(ours[:, column], [0, 0.1, 0.5, 0.9, 1]),
            np.quantile(expected[:, column], [0, 0.1, 0.5, 0.9, 1]),
            atol=0.3,
        )
    assert not any(truncated.any() for *_, truncated, _ in rows[:-1])
    assert rows[-1][3].all()
    before = vector.state.copy()
    _, rewards, terminated, truncated, _ = vector.step(still)
    assert not np.array_equal(before, vector.state)
    assert not (rewards.any() | terminated | truncated).any()
    assert (vector.steps == 0).all()


def test_same_seed_gives_same_episodes_and_options_use_gymnasium() -> None:
    """The same seed gives the same episodes; with options, gymnasium's own copies are used."""
    first, second = TASKS["Acrobot-v1"](5), TASKS["Acrobot-v1"](5)

    assert np.array_equal(first.reset(seed=7)[0], second.reset(seed=7)[0])
    assert not np.array_equal(first.reset(seed=8)[0], second.reset()[0])
    assert isinstance(make_vec("Pendulum-v1", 2, {"g": 9.81}), gymnasium.vector.SyncVectorEnv)
