"""Copies of an environment in EnvPool, which is no package of ours: most of this needs `pip install envpool`."""

import importlib.util

import gymnasium
import numpy as np
import pytest

from marina.errors import CallError
from training.policies.environments import make_vector
from training.policies.learning import Experience

HAS_ENVPOOL = importlib.util.find_spec("envpool") is not None
needs_envpool = pytest.mark.skipif(not HAS_ENVPOOL, reason="needs EnvPool: pip install envpool")


@pytest.mark.skipif(HAS_ENVPOOL, reason="EnvPool is here")
def test_where_envpool_is_missing_it_says_how_to_get_it() -> None:
    with pytest.raises(CallError, match=r"envpool: true needs EnvPool; run: pip install envpool .* or leave it out"):
        make_vector("CartPole-v1", 2, envpool=True)


@needs_envpool
def test_an_environment_that_envpool_lacks_and_options_are_refused() -> None:
    for environment, options in (("Taxi-v4", {}), ("Pendulum-v1", {"g": 9.81})):
        with pytest.raises(CallError, match=f"EnvPool has no {environment}.*; leave it out"):
            make_vector(environment, 2, options, envpool=True)


@needs_envpool
def test_episodes_are_gymnasiums_reset_on_the_next_step_and_come_again_with_their_seed() -> None:
    pytest.importorskip("Box2D")
    returns = {}
    for envpool in (True, False):
        experience = Experience("LunarLander-v3", 16, 0, envpool=envpool)
        again = Experience("LunarLander-v3", 16, 0, envpool=envpool)
        ended_before, found = np.zeros(16, bool), []
        assert np.array_equal(experience.observations, again.observations)
        while len(found) < 300:
            actions, total = experience.random.integers(4, size=16), experience.returns.copy()
            rewards, _, ended, real = experience.step(actions)
            found += [*(total + rewards)[ended]]
            assert np.array_equal(real, ~ended_before)
            assert not rewards[ended_before].any()
            ended_before = ended.copy()
        assert experience.observations.dtype == np.float32
        assert isinstance(experience.vector.single_action_space, gymnasium.spaces.Discrete)
        returns[envpool] = np.array(found)

    error = np.sqrt(sum(found.var() / len(found) for found in returns.values()))
    assert abs(returns[True].mean() - returns[False].mean()) < 4 * error
