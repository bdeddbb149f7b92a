"""Whole trainings by policy gradients: what is learned, exported and served, and what Ctrl-C leaves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from marina.core.errors import CallError
from tests.support.policy_predictors import policy_predictor
from tests.support.seeds import check_seed_decides
from tests.support.toy_environments import Aim, Counting, CountingCut, registered
from training.export.trained import Trained
from training.policies.envs.evaluate import EVALUATION_SEED, episode_returns
from training.recipes import a2c, ppo, reinforce
from training.runs.run import Run


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with registered(Counting, CountingCut, Aim):
        yield


QUICK = {"n_eval_episodes": 5, "evaluation_episodes": 20}


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training by PPO."""
    report = tmp_path_factory.mktemp("report")
    return ppo.train(ppo.Settings(target_return=300, eval_freq=1024, **QUICK), Run(report, seed=4))


@pytest.fixture(scope="module")
def aiming(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same for continuous actions with bounds, and observations far from 0."""
    options = {
        "normalize_observations": True,
        "normalize_rewards": True,
        "log_std_init": -0.5,
        "learning_rate": 3e-3,
        **QUICK,
    }
    settings = ppo.Settings(
        environment="Aim-v0", total_timesteps=12_000, n_epochs=5, target_return=-0.02, **options
    )
    return ppo.train(settings, Run(tmp_path_factory.mktemp("report")))


def test_a_short_training_balances_for_long(cartpole: Trained) -> None:
    assert cartpole.metrics["mean_return"] > 300  # a random policy earns 22, 500 is the most
    assert cartpole.data["transitions"] == cartpole.metrics["steps"]


def test_continuous_actions_find_their_place_within_the_bounds(aiming: Trained) -> None:
    assert aiming.metrics["mean_return"] > -0.05  # the middle of the bounds earns -0.5
    assert aiming.postprocess["action_space"]["shape"] == [1, 2]


@pytest.mark.parametrize("name", ["cartpole", "aiming"])
def test_the_handler_earns_the_reported_returns(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    trained: Trained = request.getfixturevalue(name)
    handler = policy_predictor(trained, tmp_path)

    def act(observations: np.ndarray) -> np.ndarray:
        body = json.dumps({"instances": observations.tolist()}).encode()
        (answer,) = handler.answer_rows([({"body": body}, {})])
        assert isinstance(answer, dict), answer
        return np.array([one["action"] for one in answer["predictions"]])

    returns = episode_returns(act, trained.preprocess["environment"], 20, EVALUATION_SEED)

    assert returns.mean() == trained.metrics["mean_return"]


@pytest.mark.parametrize("name", ["cartpole", "aiming"])
def test_the_exported_graph_equals_the_trained_one_for_any_batch(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    trained: Trained = request.getfixturevalue(name)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(
        trained.module, trained.example, dynamic_shapes=tuple(batch for _ in trained.example), strict=False
    )
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()

    for size in (1, 3, 64):
        inputs = [
            torch.randn(size, *part.shape[1:]).to(part.dtype)
            if part.dtype != torch.bool
            else part[:1].expand(size, -1)
            for part in trained.example
        ]
        torch.testing.assert_close(trained.module(*inputs), loaded(*inputs), rtol=0, atol=1e-6)


def test_draws_of_the_graph_have_the_distribution_of_the_training(cartpole: Trained, aiming: Trained) -> None:
    random = np.random.default_rng(0)
    observation = torch.tensor([[0.01, 0.1, 0.02, -0.1]]).expand(20_000, -1)
    noise = torch.from_numpy(random.gumbel(size=(20_000, 2)).astype(np.float32))
    discrete = cartpole.module(observation, torch.ones(20_000, 2, dtype=torch.bool), noise)
    normal = torch.from_numpy(random.standard_normal((20_000, 2)).astype(np.float32))
    continuous = aiming.module(torch.full((20_000, 2), 5.0), normal)["action"].detach().reshape(-1, 2)
    mean = aiming.module(torch.full((1, 2), 5.0), torch.zeros(1, 2))["action"].detach().reshape(2)

    assert float(discrete["action"].float().mean()) == pytest.approx(
        discrete["probabilities"][0, 1].item(), abs=0.012
    )
    assert bool((continuous >= torch.tensor([-1, 0])).all())
    assert bool((continuous <= torch.tensor([1, 3])).all())
    assert continuous.median(0).values.tolist() == pytest.approx(mean.tolist(), abs=0.03)


@pytest.mark.parametrize("recipe", [ppo, a2c, reinforce])
def test_the_same_seed_learns_the_same_policy_and_another_seed_another(recipe: Any, tmp_path: Path) -> None:
    settings = recipe.Settings(
        total_timesteps=1000, eval_freq=10**6, n_eval_episodes=2, evaluation_episodes=2, num_envs=4
    )
    state = torch.get_rng_state()

    check_seed_decides(recipe, settings, tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "episode.png"}


@pytest.mark.parametrize(
    ("recipe", "options"), [(a2c, {}), (reinforce, {}), (reinforce, {"baseline": False})]
)
def test_the_simpler_gradients_do_better_than_chance(
    recipe: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    trained = recipe.train(
        recipe.Settings(total_timesteps=60_000, target_return=150, **options, **QUICK), Run(tmp_path)
    )

    assert trained.metrics["mean_return"] > 100  # a random policy earns 22


def test_ctrl_c_hands_over_the_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases, phase = [], ppo.Learner.iteration

    def interrupted(self: ppo.Learner) -> tuple[float, float]:
        phases.append(1)
        if len(phases) == 3:
            raise KeyboardInterrupt
        return phase(self)

    monkeypatch.setattr(ppo.Learner, "iteration", interrupted)

    trained = ppo.train(ppo.Settings(eval_freq=1, **QUICK), Run(tmp_path))

    assert trained.training["interrupted"]
    assert trained.metrics["steps"] < 3000


def test_ctrl_c_before_the_first_look_ends_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo.Learner, "iteration", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        ppo.train(ppo.Settings(**QUICK), Run(tmp_path))

    assert list(tmp_path.iterdir()) == []
    assert (torch.full((1,), 1e-40) * 1).item() > 0


def test_actions_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Counting, "action_space", spaces.MultiBinary(3))

    with pytest.raises(CallError, match="MultiDiscrete that start at 0"):
        ppo.train(ppo.Settings(environment="Counting-v0"), Run(tmp_path))
