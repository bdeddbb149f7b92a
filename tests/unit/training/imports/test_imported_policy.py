"""Policies saved by stable-baselines3: imported, they act as its own `predict` does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from torch import nn

from marina.core.errors import CallError
from tests.support.saved_policies import CASES, SMALL, Imported, observations_of
from training.policies.graphs.export import make_act
from training.recipes.imported_policy import Settings, train
from training.runs.run import Run

SCORED = ("ppo-discrete", "ppo-discrete-normalised", "a2c-discrete", "ppo-states", "dqn-normalised")

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.parametrize("name", CASES)
def test_actions_equal_predicts_on_ten_thousand_observations(
    name: str, imported: Callable[[str], Imported]
) -> None:
    one = imported(name)
    observations = observations_of(one.case.environment, one.predict)
    inputs = one.inputs(observations)
    batch = torch.export.Dim("batch", min=1, max=20_000)
    example, shapes = one.trained.example, tuple({0: batch} for _ in one.trained.example)
    program = torch.export.export(one.trained.module, example, dynamic_shapes=shapes, strict=False).module()

    expected = one.predict(observations)

    assert len(observations) == 10_000
    for graph in (one.trained.module, program):
        with torch.no_grad():
            actions = graph(*inputs)["action"].numpy()
        assert actions.shape == expected.shape
        if expected.dtype.kind == "i":
            assert actions.dtype == np.int64
            assert np.array_equal(actions, expected)  # ties included: both take the first of equal ones
        else:
            assert actions.dtype == np.float32
            np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)
    assert len(np.unique(expected)) > 1, "a policy that always does the same proves nothing"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ppo-discrete", "ppo"),
        ("a2c-box", "a2c"),
        ("dqn", "dqn"),
        ("sac", "sac"),
        ("td3", "td3"),
        ("ddpg", "ddpg"),
        ("tqc", "tqc"),
        ("qrdqn", "qrdqn"),
        ("ars", "ars"),
    ],
)
def test_the_algorithm_is_found_in_the_file(
    name: str, kind: str, imported: Callable[[str], Imported]
) -> None:
    one = imported(name)

    assert one.trained.training["algorithm"] == kind
    assert one.trained.data["transitions"] == one.model.num_timesteps


@pytest.mark.parametrize("name", SCORED)
def test_scores_and_values_are_those_of_baselines3(name: str, imported: Callable[[str], Imported]) -> None:
    one = imported(name)
    observations = observations_of(one.case.environment, one.predict)
    policy: Any = one.model.policy

    with torch.no_grad():
        outputs = one.trained.module(*one.inputs(observations))
        seen = torch.from_numpy(
            one.vector.normalize_obs(observations) if one.case.normalised else observations
        )
        if name.startswith("dqn"):
            expected = {"q_values": policy.q_net(seen)}
        else:
            expected = {
                "probabilities": policy.get_distribution(seen).distribution.probs,
                "value": policy.predict_values(seen).flatten(),
            }

    assert outputs.keys() == {"action", *expected}
    for key, values in expected.items():
        torch.testing.assert_close(outputs[key], values, rtol=0, atol=1e-6)


def test_tied_probabilities_go_to_the_first_action_as_in_predict(
    imported: Callable[[str], Imported],
) -> None:
    """An exact tie of probabilities goes to the first action as in `predict`, even if the logits differ."""
    one = imported("ppo-discrete")
    policy: Any = one.model.policy
    logits = torch.tensor([[0.01, 0.010000001, -5.0]])
    assert logits.argmax(1).item() == 1
    distribution = policy.action_dist.proba_distribution(logits)

    module = type(one.trained.module)(nn.Identity(), nn.Linear(3, 1))

    found = module(logits, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3))
    assert found["action"].tolist() == distribution.mode().tolist() == [0]


@pytest.mark.parametrize("name", ["ppo-discrete", "ppo-multi-discrete"])
def test_gumbel_noise_draws_actions_as_often_as_the_policy_says(
    name: str, imported: Callable[[str], Imported]
) -> None:
    one, draws = imported(name), 20_000
    observation = one.trained.example[0][:1] + 0.5
    noise = np.random.default_rng(0).gumbel(size=(draws, one.trained.example[-1].shape[1])).astype(np.float32)
    masks = tuple(part[:1].expand(draws, -1) for part in one.trained.example[1:-1])
    seen = (
        torch.from_numpy(one.vector.normalize_obs(observation.numpy()))
        if one.case.normalised
        else observation
    )
    policy: Any = one.model.policy

    with torch.no_grad():
        found = one.trained.module(
            observation.expand(draws, *observation.shape[1:]), *masks, torch.from_numpy(noise)
        )["action"]
        distribution = policy.get_distribution(seen).distribution

    branches = distribution if isinstance(distribution, list) else [distribution]
    for branch, actions in zip(branches, found.reshape(draws, -1).T, strict=True):
        share = torch.bincount(actions, minlength=branch.probs.shape[1]) / draws
        torch.testing.assert_close(share, branch.probs[0], rtol=0, atol=0.02)  # 5 standard errors


@pytest.mark.parametrize(
    "name",
    [
        "ppo-box",
        "a2c-box-normalised",
        "ppo-gsde",
        "ppo-gsde-squashed",
        "sac",
        "sac-gsde",
        "sac-gsde-unclipped",
    ],
)
def test_normal_noise_moves_the_mean_by_the_policys_own_deviation(
    name: str, imported: Callable[[str], Imported]
) -> None:
    one = imported(name)
    observations = observations_of(one.case.environment, one.predict)[::50]
    seen = torch.from_numpy(one.vector.normalize_obs(observations) if one.case.normalised else observations)
    noise = torch.randn(
        len(observations), one.trained.example[1].shape[1], generator=torch.Generator().manual_seed(0)
    )
    policy: Any = one.model.policy

    with torch.no_grad():
        found = one.trained.module(one.inputs(observations)[0], noise)["action"]
        if hasattr(policy, "actor"):
            mean, log_std, more = policy.actor.get_action_dist_params(seen.float())
            distribution = policy.actor.action_dist.proba_distribution(mean, log_std, **more).distribution
        else:
            distribution = policy.get_distribution(seen).distribution

    raw = distribution.mean + distribution.stddev * noise
    space: Any = one.model.action_space
    raw = raw.reshape(-1, *space.shape).numpy()
    expected = (
        policy.unscale_action(np.tanh(raw)) if policy.squash_output else np.clip(raw, space.low, space.high)
    )
    # gSDE adds 1e-6 to its variance there
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-4)
    assert not np.allclose(found.numpy(), one.predict(observations), atol=1e-2)


def test_an_action_mask_forbids_actions_and_shares_their_probability_out(
    imported: Callable[[str], Imported],
) -> None:
    one = imported("ppo-states")
    states = torch.arange(16)
    allowed = torch.tensor([True, False, True, False]).expand(16, -1)

    with torch.no_grad():
        free = one.trained.module(states, torch.ones(16, 4, dtype=torch.bool), torch.zeros(16, 4))
        found = one.trained.module(states, allowed, torch.full((16, 4), 0.1))

    rest = free["probabilities"] * allowed
    torch.testing.assert_close(found["probabilities"], rest / rest.sum(1, keepdim=True))
    assert set(found["action"].tolist()) <= {0, 2}


def test_the_activation_is_read_from_the_file_else_the_algorithms_own(
    imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    named, default = imported("ppo-box"), imported("sac")

    assert (named.trained.training["activation"], named.trained.training["activation_known_by"]) == (
        "elu",
        "file",
    )
    assert (default.trained.training["activation"], default.trained.training["activation_known_by"]) == (
        "relu",
        "default",
    )
    with pytest.raises(CallError, match=r"activation_fn is .*ELU.*, not tanh; leave 'activation' out"):
        train(named.settings.model_copy(update={"activation": "tanh"}), Run(tmp_path))


def test_an_activation_of_ones_own_must_be_named(tmp_path: Path) -> None:
    class Swish(nn.SiLU):
        pass

    model = sb3.PPO(
        "MlpPolicy", "CartPole-v1", n_steps=64, policy_kwargs={**SMALL, "activation_fn": Swish}, device="cpu"
    )
    model.save(tmp_path / "model")
    settings = Settings(source=str(tmp_path / "model.zip"), environment="CartPole-v1", evaluation_episodes=2)

    with pytest.raises(
        CallError, match=r"activation_fn is .*Swish.*; if it does the same as one of tanh, relu"
    ):
        train(settings, Run(tmp_path))
    trained = train(settings.model_copy(update={"activation": "silu"}), Run(tmp_path))

    observations = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    actions = make_act(trained.module, trained.example)(observations)  # type: ignore[arg-type]
    assert np.array_equal(actions, model.predict(observations, deterministic=True)[0])
    assert trained.training["activation_known_by"] == "setting"
