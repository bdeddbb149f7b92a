"""The files of stable-baselines3's policies: read without it and without running anything; what can't be taken is refused."""

import base64
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from marina import paths
from marina.errors import CallError
from tests.saved_policies import SMALL, Imported, Payload, drop, observations_of, put, repacked, with_data, with_weights
from training.imported_policy import Settings, train
from training.imports.baselines_zip import printed_bounds, printed_space, read_policy, read_statistics
from training.policies import rollout

pytestmark = pytest.mark.usefixtures("registered")


def test_an_import_needs_no_stable_baselines3(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    one = imported("a2c-box-normalised")
    code = (
        "import sys, json; sys.modules['stable_baselines3'] = sys.modules['cloudpickle'] = None\n"
        "import marina; from pathlib import Path; from training.imported_policy import Settings, train\n"
        "print(train(Settings(**json.loads(sys.argv[1])), 0, Path(sys.argv[2])).metrics['mean_return'])"
    )

    command = [sys.executable, "-c", code, one.settings.model_dump_json(), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=paths.SOURCE)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(one.trained.metrics["mean_return"], rel=1e-4)


@pytest.mark.parametrize("suffix", [".npz", ".json", ".safetensors"])
def test_statistics_without_a_pickle_give_the_same_policy(suffix: str, imported: Callable[[str], Imported], tmp_path: Path) -> None:
    one = imported("ppo-box-normalised")
    running = one.vector.obs_rms
    arrays = {"mean": running.mean, "var": running.var, "epsilon": np.array(1e-6), "clip_obs": np.array(3.0)}
    path = tmp_path / f"statistics{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".json":
        path.write_text(json.dumps({name: array.tolist() for name, array in arrays.items()}), encoding="utf-8")
    else:
        safetensors.numpy.save_file(arrays, path)
    settings = one.settings.model_copy(update={"statistics": str(path), "trust_pickle": False})

    trained = train(settings, 0, tmp_path)

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
    vector = VecNormalize(DummyVecEnv([lambda: rollout.make("Pendulum-v1")]), norm_obs=False)
    model = sb3.PPO("MlpPolicy", vector, n_steps=64, policy_kwargs=SMALL, device="cpu")
    model.learn(64)
    model.save(tmp_path / "model")
    vector.observation_space.sample()  # from now on its pickle holds a random generator
    vector.save(str(tmp_path / "vecnormalize.pkl"))
    settings = Settings(source=str(tmp_path / "model.zip"), environment="Pendulum-v1", evaluation_episodes=2)

    with pytest.raises(CallError, match="trained behind VecNormalize; say 'statistics'"):
        train(settings, 0, tmp_path)
    more = {"statistics": str(tmp_path / "vecnormalize.pkl"), "trust_pickle": True}
    trained = train(settings.model_copy(update=more), 0, tmp_path)

    assert not trained.training["observations_normalised"]


def test_no_pickle_in_a_zip_is_run(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    source, written = Path(imported("ppo-discrete").settings.source), tmp_path / "written"
    payload = base64.b64encode(pickle.dumps(Payload(written))).decode()

    def poison(data: dict[str, Any]) -> None:
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = payload

    in_data = with_data(source, tmp_path / "data.zip", poison)
    buffer = io.BytesIO()
    torch.save({"action_net.weight": Payload(written)}, buffer)
    in_weights = repacked(source, tmp_path / "weights.zip", {"policy.pth": buffer.getvalue()})
    plain = repacked(source, tmp_path / "plain.zip", {"policy.pth": pickle.dumps(Payload(written))})

    trained = train(Settings(source=str(in_data), environment="CartPole-v1", evaluation_episodes=2), 0, tmp_path)
    for path in (in_weights, plain):
        with pytest.raises(CallError, match=r"policy.pth holds more than weights|is damaged"):
            train(Settings(source=str(path), environment="CartPole-v1"), 0, tmp_path)

    assert trained.metrics["mean_return"] > 0
    assert not written.exists()
    pickle.loads(base64.b64decode(payload))
    assert written.read_text() == "it ran", "the payload itself works"


def test_a_pickle_of_statistics_is_refused_unless_it_is_trusted_and_runs_nothing_even_then(tmp_path: Path) -> None:
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
        train(settings, 0, tmp_path)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("Acrobot-v1", r"observation_space is Box \[4\], but Acrobot-v1 has Box.*\(6,\)"),
        ("FrozenLake-v1", r"observation_space is Box \[4\], but FrozenLake-v1 has Discrete\(16\)"),
        ("Named-v0", r"observation_space is Box \[4\], but Named-v0 has Dict"),
        ("Nowhere-v0", "can't be made"),
    ],
)
def test_another_environment_is_refused_with_both_spaces(
    environment: str, message: str, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=message):
        train(imported("ppo-discrete").settings.model_copy(update={"environment": environment}), 0, tmp_path)


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("ppo-multi-discrete", "Levers-v0", r"action_space is MultiDiscrete \[3, 2, 4\], but Levers-v0 has Box"),
        ("sac-normalised", "ShorterLevers-v0", r"bounded by \[1.0, 3.0, -4.0, 7.5\], those of ShorterLevers-v0 by \[1.0, 3.0, -4.0, 7.0\]"),
        ("dqn-states", "Taxi-v4", r"observation_space is Discrete \[16\], but Taxi-v4 has Discrete\(500\)"),
    ],
)
def test_other_actions_and_other_bounds_are_refused(
    name: str, environment: str, message: str, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=message):
        train(imported(name).settings.model_copy(update={"environment": environment}), 0, tmp_path)


class OwnExtractor(FlattenExtractor):
    """Doubles what it flattens."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(observations)


@pytest.mark.parametrize(
    ("policy", "environment", "options", "message"),
    [
        ("CnnPolicy", "Pictures-v0", {}, r"features_extractor.cnn.0.weight belongs to a features extractor that learns"),
        ("MlpPolicy", "Pictures-v0", {}, "Pictures-v0 observes pictures"),
        ("MultiInputPolicy", "Named-v0", {}, "Named-v0 observes Dict"),
        ("MlpPolicy", "Bits-v0", {}, "Bits-v0 acts by MultiBinary"),
        ("MlpPolicy", "CartPole-v1", {"features_extractor_class": OwnExtractor}, "features_extractor_class is .*OwnExtractor"),
    ],
)
def test_policies_that_can_not_be_built_again_are_refused_naming_the_key(
    policy: str, environment: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    vector = DummyVecEnv([lambda: rollout.make(environment)])
    sb3.PPO(policy, vector, n_steps=64, policy_kwargs={**SMALL, **options}, device="cpu").save(tmp_path / "model")

    with pytest.raises(CallError, match=message):
        train(Settings(source=str(tmp_path / "model.zip"), environment=environment), 0, tmp_path)


def test_a_policy_class_of_ones_own_is_refused_by_its_module(tmp_path: Path) -> None:
    class OwnPolicy(sb3.ppo.MlpPolicy):
        pass

    sb3.PPO(OwnPolicy, "CartPole-v1", n_steps=64, device="cpu").save(tmp_path / "model")

    with pytest.raises(CallError, match=r"policy_class comes from .*test_imported_policy"):
        read_policy(tmp_path / "model.zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("action_net.bias"), "the weight action_net.bias is missing"),
        (drop("mlp_extractor.policy_net.0.weight"), r"action_net.weight is \[2, 16\], but the spaces ask for \[2, 4\]"),
        (put("mlp_extractor.policy_net.1.weight", torch.zeros(32)), "mlp_extractor.policy_net.1.weight belongs to no MlpPolicy"),
        (put("mlp_extractor.shared_net.0.weight", torch.zeros(4, 4)), "mlp_extractor.shared_net.0.weight belongs to no MlpPolicy"),
        (put("lstm_actor.weight_ih_l0", torch.zeros(4, 4)), "lstm_actor.weight_ih_l0 belongs to no MlpPolicy"),
        (put("action_net.weight", torch.zeros(3, 16)), r"action_net.weight is \[3, 16\], but the spaces ask for \[2, 16\]"),
        (put("action_net.weight", torch.zeros(2)), r"action_net.weight is \[2\]"),
        (put("action_net.bias", torch.zeros(3)), "action_net"),
        (put("value_net.weight", torch.full((1, 16), torch.nan)), "value_net.weight holds NaN"),
        (lambda weights: weights.clear(), "of no known policy"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, message: str, imported: Callable[[str], Imported], tmp_path: Path) -> None:
    path = with_weights(Path(imported("ppo-discrete").settings.source), tmp_path / "changed.zip", change)

    with pytest.raises(CallError, match=message):
        train(Settings(source=str(path), environment="CartPole-v1"), 0, tmp_path)


def test_a_file_that_is_no_zip_of_stable_baselines3_is_refused(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    one = imported("ppo-discrete")
    content = Path(one.settings.source).read_bytes()
    torch.save(one.model.policy.state_dict(), tmp_path / "torch.pt")
    (tmp_path / "whole.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "written")))
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.zip").write_text("hello")
    damaged = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        damaged[archive.getinfo("data").header_offset + 100] ^= 255
    (tmp_path / "damaged.zip").write_bytes(bytes(damaged))
    repacked(Path(one.settings.source), tmp_path / "other.zip", {"data": b"[]"})
    refusals = {
        "torch.pt": r"lacks data and policy\.pth",
        "whole.pkl": "a pickle could run any code",
        "cut.zip": "or not all of it",
        "text.zip": "is no zip",
        "damaged.zip": "is damaged: Bad CRC",
        "other.zip": "its data must hold policy_class",
        "nothing.zip": "no file",
    }

    for name, message in refusals.items():
        with pytest.raises(CallError, match=message):
            read_policy(tmp_path / name)

    assert not (tmp_path / "written").exists()


def test_another_algorithm_than_asked_for_is_refused(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    with pytest.raises(CallError, match="holds ppo, not dqn"):
        train(imported("ppo-discrete").settings.model_copy(update={"algorithm": "dqn"}), 0, tmp_path)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-np.inf, -1e-3, 2.5], np.float32), np.array([np.inf, 1234567.0, 3e10], np.float32)),
        spaces.Box(-1, 1, (17,), np.float32),
        spaces.Box(-0.4, 0.4, (2, 3), np.float64),
    ],
)
def test_printed_bounds_read_back_as_they_are(space: spaces.Box) -> None:
    model = {":type:": str(type(space)), "_shape": [*space.shape], "low": str(space.low), "high": str(space.high)}

    low, high = printed_bounds(model)

    assert printed_space(model) == ("Box", [*space.shape])
    np.testing.assert_allclose(low, space.low.ravel(), rtol=1e-7)
    np.testing.assert_allclose(high, space.high.ravel(), rtol=1e-7)
