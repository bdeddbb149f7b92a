"""Environments in EnvPool, which is an optional package: most of this needs `pip install envpool`."""

import importlib.util
import os
import sys

import gymnasium
import numpy as np
import pytest

from marina.core.errors import CallError
from training.policies.envs.training_envs import TrainingEnvs
from training.policies.envs.vectorize import make_vec


@pytest.fixture
def envpool(monkeypatch: pytest.MonkeyPatch) -> None:
    """EnvPool, installed or in the folder `ENVPOOL_PATH`, where CI puts it."""
    if folder := os.environ.get("ENVPOOL_PATH"):
        monkeypatch.syspath_prepend(folder)
    if importlib.util.find_spec("envpool") is None:
        pytest.skip("needs EnvPool: pip install envpool")


def test_where_envpool_is_missing_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(
        CallError, match=r"envpool: true needs EnvPool; run: pip install envpool .* or leave it out"
    ):
        make_vec("CartPole-v1", 2, envpool=True)


@pytest.mark.usefixtures("envpool")
def test_an_environment_that_envpool_lacks_and_options_are_refused() -> None:
    for environment, options in (("Taxi-v4", {}), ("Pendulum-v1", {"g": 9.81})):
        with pytest.raises(CallError, match=f"EnvPool has no {environment}.*; leave it out"):
            make_vec(environment, 2, options, envpool=True)


@pytest.mark.usefixtures("envpool")
def test_envpool_episodes_equal_gymnasiums_and_repeat_with_the_seed() -> None:
    """Episodes are gymnasium's, reset on the next step, and repeat with their seed."""
    pytest.importorskip("Box2D")
    returns = {}
    for envpool in (True, False):
        envs = TrainingEnvs("LunarLander-v3", 16, 0, envpool=envpool)
        again = TrainingEnvs("LunarLander-v3", 16, 0, envpool=envpool)
        ended_before, found = np.zeros(16, bool), []
        assert np.array_equal(envs.obs, again.obs)
        while len(found) < 300:
            actions, total = envs.rng.integers(4, size=16), envs.episode_returns.copy()
            rewards, _, ended, real = envs.step(actions)
            found += [*(total + rewards)[ended]]
            assert np.array_equal(real, ~ended_before)
            assert not rewards[ended_before].any()
            ended_before = ended.copy()
        assert envs.obs.dtype == np.float32
        assert isinstance(envs.vector_env.single_action_space, gymnasium.spaces.Discrete)
        returns[envpool] = np.array(found)

    error = np.sqrt(sum(found.var() / len(found) for found in returns.values()))
    assert abs(returns[True].mean() - returns[False].mean()) < 4 * error
