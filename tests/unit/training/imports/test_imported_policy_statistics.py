"""Observation statistics of imported policies: no pickle is run, plain files give the same policy."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from marina.core.errors import CallError
from tests.support.saved_policies import SMALL, Imported, Payload, observations_of
from training.imports.baselines_statistics import read_statistics
from training.policies.envs.make import make
from training.recipes.imported_policy import Settings, train
from training.runs.run import Run

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.parametrize("suffix", [".npz", ".json", ".safetensors"])
def test_statistics_without_a_pickle_give_the_same_policy(
    suffix: str, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    one = imported("ppo-box-normalised")
    running = one.vector.obs_rms
    arrays = {"mean": running.mean, "var": running.var, "epsilon": np.array(1e-6), "clip_obs": np.array(3.0)}
    path = tmp_path / f"statistics{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".json":
        path.write_text(
            json.dumps({name: array.tolist() for name, array in arrays.items()}), encoding="utf-8"
        )
    else:
        safetensors.numpy.save_file(arrays, path)
    settings = one.settings.model_copy(update={"statistics": str(path), "trust_pickle": False})

    trained = train(settings, Run(tmp_path))

    inputs = one.inputs(observations_of("Levers-v0", one.predict))
    with torch.no_grad():
        assert torch.equal(trained.module(*inputs)["action"], one.trained.module(*inputs)["action"])


@pytest.mark.parametrize("protocol", [4, 5])  # the defaults of Python 3.8 and 3.14
def test_trusted_statistics_are_read_from_any_protocol_of_pickle(
    protocol: int, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    vector = imported("ppo-box-normalised").vector
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps(vector, protocol))

    read = read_statistics(tmp_path / "vecnormalize.pkl", trust_pickle=True)

    assert read is not None
    assert np.array_equal(read.mean, vector.obs_rms.mean)
    assert np.array_equal(read.var, vector.obs_rms.var)
    assert (read.epsilon, read.clip) == (1e-6, 3.0)


def test_statistics_of_rewards_alone_leave_observations_as_they_are(tmp_path: Path) -> None:
    vector = VecNormalize(DummyVecEnv([lambda: make("Pendulum-v1")]), norm_obs=False)
    model = sb3.PPO("MlpPolicy", vector, n_steps=64, policy_kwargs=SMALL, device="cpu")
    model.learn(64)
    model.save(tmp_path / "model")
    vector.observation_space.sample()  # from now on its pickle holds a random generator
    vector.save(str(tmp_path / "vecnormalize.pkl"))
    settings = Settings(source=str(tmp_path / "model.zip"), environment="Pendulum-v1", evaluation_episodes=2)

    with pytest.raises(CallError, match="trained behind VecNormalize; set 'statistics'"):
        train(settings, Run(tmp_path))
    more = {"statistics": str(tmp_path / "vecnormalize.pkl"), "trust_pickle": True}
    trained = train(settings.model_copy(update=more), Run(tmp_path))

    assert not trained.training["observations_normalised"]


def test_pickled_statistics_need_trust_and_still_run_nothing(
    tmp_path: Path,
) -> None:
    """A pickle of statistics is refused unless it is trusted, and runs nothing even then."""
    path, written = tmp_path / "vecnormalize.pkl", tmp_path / "written"
    path.write_bytes(pickle.dumps(Payload(written)))

    with pytest.raises(CallError, match=r"is a pickle, which can run any code .*trust_pickle: true.*\.npz"):
        read_statistics(path, trust_pickle=False)
    with pytest.raises(CallError, match=r"asks for pathlib\.\w+.*nothing of it was run"):
        read_statistics(path, trust_pickle=True)

    assert not written.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "can't be read as observation statistics"),
        (b"", "can't be read as observation statistics"),
        (b"\x80\x05\x95", "can't be read as observation statistics"),
        (pickle.dumps({"mean": [0], "var": [1]}), "can't be read as observation statistics"),
        (pickle.dumps(spaces.Discrete(3)), "must hold the mean and var"),
    ],
)
def test_pickles_of_something_else_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "statistics.pkl").write_bytes(content)

    with pytest.raises(CallError, match=message):
        read_statistics(tmp_path / "statistics.pkl", trust_pickle=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": [0, 0]}, "must hold the mean and var"),
        ([1, 2], "must hold the mean and var"),
        ({"mean": [0, 0], "var": [1]}, "of one shape"),
        ({"mean": [0, "x"], "var": [1, 1]}, "can't be read as observation statistics: could not convert"),
        ({"mean": [0, 0], "var": [1, -1]}, "var not below 0"),
        ({"mean": [0, 0], "var": [1, 1], "clip_obs": 0}, "clip_obs above 0"),
        ({"mean": [0, float("nan")], "var": [1, 1]}, "must be finite"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(values: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "statistics.json").write_text(json.dumps(values), encoding="utf-8")

    with pytest.raises(CallError, match=message):
        read_statistics(tmp_path / "statistics.json", trust_pickle=False)


@pytest.mark.parametrize(("name", "mean"), [("a2c-box", [0.0] * 4), ("dqn-states", [0.0] * 16)])
def test_statistics_of_another_observation_are_refused(
    name: str, mean: list[float], imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    (tmp_path / "statistics.json").write_text(json.dumps({"mean": mean, "var": mean}), encoding="utf-8")
    settings = imported(name).settings.model_copy(update={"statistics": str(tmp_path / "statistics.json")})

    with pytest.raises(CallError, match=r"mean has the shape \[\d+\], but the observations"):
        train(settings, Run(tmp_path))
