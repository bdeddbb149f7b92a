"""Files of stable-baselines3 policies: read without the library and without running code; unsupported ones
are refused.
"""

import base64
import io
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from marina.core import paths
from marina.core.errors import CallError
from tests.support.saved_policies import (
    SMALL,
    Imported,
    Payload,
    drop,
    put,
    repacked,
    with_data,
    with_weights,
)
from training.imports.baselines_zip import printed_bounds, printed_space, read_policy
from training.policies.envs.make import make
from training.recipes.imported_policy import Settings, train
from training.runs.run import Run

pytestmark = pytest.mark.usefixtures("registered")


def test_an_import_needs_no_stable_baselines3(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    one = imported("a2c-box-normalised")
    code = (
        "import sys, json; sys.modules['stable_baselines3'] = sys.modules['cloudpickle'] = None\n"
        "import marina; from pathlib import Path; from training.recipes.imported_policy import Settings, "
        "train\n"
        "from training.runs.run import Run\n"
        "print(train(Settings(**json.loads(sys.argv[1])), Run(Path(sys.argv[2]))).metrics['mean_return'])"
    )

    command = [sys.executable, "-c", code, one.settings.model_dump_json(), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=paths.SOURCE)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(one.trained.metrics["mean_return"], rel=1e-4)


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

    trained = train(
        Settings(source=str(in_data), environment="CartPole-v1", evaluation_episodes=2), Run(tmp_path)
    )
    for path in (in_weights, plain):
        with pytest.raises(CallError, match=r"policy.pth holds more than weights|is damaged"):
            train(Settings(source=str(path), environment="CartPole-v1"), Run(tmp_path))

    assert trained.metrics["mean_return"] > 0
    assert not written.exists()
    pickle.loads(base64.b64decode(payload))
    assert written.read_text() == "it ran", "the payload itself works"


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
        train(
            imported("ppo-discrete").settings.model_copy(update={"environment": environment}), Run(tmp_path)
        )


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        (
            "ppo-multi-discrete",
            "Levers-v0",
            r"action_space is MultiDiscrete \[3, 2, 4\], but Levers-v0 has Box",
        ),
        (
            "sac-normalised",
            "ShorterLevers-v0",
            r"bounded by \[1.0, 3.0, -4.0, 7.5\], those of ShorterLevers-v0 by \[1.0, 3.0, -4.0, 7.0\]",
        ),
        ("dqn-states", "Taxi-v4", r"observation_space is Discrete \[16\], but Taxi-v4 has Discrete\(500\)"),
    ],
)
def test_other_actions_and_other_bounds_are_refused(
    name: str, environment: str, message: str, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=message):
        train(imported(name).settings.model_copy(update={"environment": environment}), Run(tmp_path))


class OwnExtractor(FlattenExtractor):
    """Doubles what it flattens."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(observations)


@pytest.mark.parametrize(
    ("policy", "environment", "options", "message"),
    [
        (
            "CnnPolicy",
            "Pictures-v0",
            {},
            r"features_extractor.cnn.0.weight belongs to a features extractor that learns",
        ),
        ("MlpPolicy", "Pictures-v0", {}, "Pictures-v0 observes images"),
        ("MultiInputPolicy", "Named-v0", {}, "Named-v0 observes Dict"),
        ("MlpPolicy", "Bits-v0", {}, "Bits-v0 acts by MultiBinary"),
        (
            "MlpPolicy",
            "CartPole-v1",
            {"features_extractor_class": OwnExtractor},
            "features_extractor_class is .*OwnExtractor",
        ),
    ],
)
def test_policies_that_can_not_be_built_again_are_refused_naming_the_key(
    policy: str, environment: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    vector = DummyVecEnv([lambda: make(environment)])
    sb3.PPO(policy, vector, n_steps=64, policy_kwargs={**SMALL, **options}, device="cpu").save(
        tmp_path / "model"
    )

    with pytest.raises(CallError, match=message):
        train(Settings(source=str(tmp_path / "model.zip"), environment=environment), Run(tmp_path))


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
        (
            drop("mlp_extractor.policy_net.0.weight"),
            r"action_net.weight is \[2, 16\], but the spaces ask for \[2, 4\]",
        ),
        (
            put("mlp_extractor.policy_net.1.weight", torch.zeros(32)),
            "mlp_extractor.policy_net.1.weight belongs to no MlpPolicy",
        ),
        (
            put("mlp_extractor.shared_net.0.weight", torch.zeros(4, 4)),
            "mlp_extractor.shared_net.0.weight belongs to no MlpPolicy",
        ),
        (
            put("lstm_actor.weight_ih_l0", torch.zeros(4, 4)),
            "lstm_actor.weight_ih_l0 belongs to no MlpPolicy",
        ),
        (
            put("action_net.weight", torch.zeros(3, 16)),
            r"action_net.weight is \[3, 16\], but the spaces ask for \[2, 16\]",
        ),
        (put("action_net.weight", torch.zeros(2)), r"action_net.weight is \[2\]"),
        (put("action_net.bias", torch.zeros(3)), "action_net"),
        (put("value_net.weight", torch.full((1, 16), torch.nan)), "value_net.weight holds NaN"),
        (lambda weights: weights.clear(), "of no known policy"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Any, message: str, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    path = with_weights(Path(imported("ppo-discrete").settings.source), tmp_path / "changed.zip", change)

    with pytest.raises(CallError, match=message):
        train(Settings(source=str(path), environment="CartPole-v1"), Run(tmp_path))


def test_a_file_that_is_no_zip_of_stable_baselines3_is_refused(
    imported: Callable[[str], Imported], tmp_path: Path
) -> None:
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


def test_another_algorithm_than_asked_for_is_refused(
    imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    with pytest.raises(CallError, match="holds ppo, not dqn"):
        train(imported("ppo-discrete").settings.model_copy(update={"algorithm": "dqn"}), Run(tmp_path))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(
            np.array([-np.inf, -1e-3, 2.5], np.float32), np.array([np.inf, 1234567.0, 3e10], np.float32)
        ),
        spaces.Box(-1, 1, (17,), np.float32),
        spaces.Box(-0.4, 0.4, (2, 3), np.float64),
    ],
)
def test_printed_bounds_read_back_as_they_are(space: spaces.Box) -> None:
    model = {
        ":type:": str(type(space)),
        "_shape": [*space.shape],
        "low": str(space.low),
        "high": str(space.high),
    }

    low, high = printed_bounds(model)

    assert printed_space(model) == ("Box", [*space.shape])
    np.testing.assert_allclose(low, space.low.ravel(), rtol=1e-7)
    np.testing.assert_allclose(high, space.high.ravel(), rtol=1e-7)
