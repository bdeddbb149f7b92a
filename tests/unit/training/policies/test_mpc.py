"""Model predictive control: the ensemble against loops and autograd, a whole training, the served policy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from marina.core import spec
from marina.core.errors import CallError
from tests.support.policy_predictors import policy_predictor
from training.export.trained import Trained
from training.policies.envs.evaluate import EVALUATION_SEED, episode_returns
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.networks.dynamics import Ensemble, EnsembleTrainer, ModelData
from training.policies.networks.optim import seeded_single_thread
from training.policies.networks.reference_losses import dynamics_loss
from training.recipes import mpc
from training.runs.run import Run
from training.train import settings_of

SMALL: dict[str, Any] = {
    "population_size": 32,
    "horizon": 4,
    "iterations": 2,
    "elites": 4,
    "ensemble_size": 2,
    "hidden": (16,),
}
QUICK: dict[str, Any] = {
    **SMALL,
    "learning_starts": 40,
    "train_freq": 10,
    "eval_freq": 80,
    "n_eval_episodes": 5,
    "evaluation_episodes": 10,
}


class Point(gymnasium.Env[np.ndarray, Any]):
    """A point on a line that is to be brought to 0 within 8 steps; beyond 2 the episode terminates, and
    what is left is lost.
    """

    observation_space: spaces.Space[Any] = spaces.Box(-10, 10, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(np.float32(-3), np.float32(1), (1, 1), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1.5, 1.5), 0
        return np.array([self.place], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place, self.steps = self.place + 0.4 * self.push(action), self.steps + 1
        return (
            np.array([self.place], np.float32),
            1 - abs(self.place),
            abs(self.place) > 2,
            self.steps == 8,
            {},
        )

    def push(self, action: Any) -> float:
        assert self.action_space.contains(np.asarray(action, np.float32)), action
        return float(np.ravel(action)[0])


class Buttons(Point):
    """The same with three actions: to the right, none and to the left."""

    action_space: spaces.Space[Any] = spaces.Discrete(3)

    def push(self, action: Any) -> float:
        return 1.0 - int(action)


class Anywhere(Point):
    """The same without bounds."""

    action_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (1,), np.float32)


ENVIRONMENTS = {"Point-v0": Point, "Buttons-v0": Buttons}


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, made in {**ENVIRONMENTS, "Anywhere-v0": Anywhere}.items():
            patch.setitem(
                gymnasium.registry, name, gymnasium.envs.registration.EnvSpec(name, entry_point=made)
            )
        yield


def ensemble_of(terminates: bool, width: int = 3, actions: int = 2) -> Ensemble:
    """Made-up members with scales and bounds of their own."""
    with seeded_single_thread(0):
        ensemble = Ensemble(3, width, actions, (8, 6), "tanh")
        for part in ensemble.buffers():
            part.copy_(torch.rand_like(part) + 0.5)
    ensemble.low.fill_(-1.0)
    ensemble.high.fill_(1.5)
    ensemble.has_terminations = terminates
    return ensemble


@pytest.mark.parametrize("terminates", [False, True])
def test_plans_of_all_members_at_once_earn_what_they_do_one_by_one(terminates: bool) -> None:
    ensemble, random = ensemble_of(terminates), torch.Generator().manual_seed(0)
    observations, plans = torch.randn(4, 3, generator=random), torch.randn(4, 5, 6, 2, generator=random)
    expected, hit = torch.zeros(4, 5), 0
    for row, number, member in np.ndindex(4, 5, 3):
        state, going = observations[row], 1.0
        for action in plans[row, number]:
            inputs = (torch.cat((state, action)) - ensemble.mean) / ensemble.std
            outputs = ensemble.networks(inputs[None])[member, 0]
            change = outputs[:4] * ensemble.target_std + ensemble.target_mean
            expected[row, number] += going * change[3].item() / 3
            state = (state + change[:3]).clamp(ensemble.low, ensemble.high)
            hit += int((state == 1.5).any())
            going *= 1 - torch.sigmoid(outputs[4]).item() if terminates else 1

    torch.testing.assert_close(ensemble(observations, plans), expected, rtol=1e-4, atol=1e-5)
    assert hit > 0


def steps_of(count: int, terminate: bool = True) -> ModelData:
    """Transitions of a linear system with a constant among what it observes."""
    random = np.random.default_rng(0)
    observations, actions = (
        random.normal(2, 3, (count, 3)).astype(np.float32),
        random.normal(size=(count, 2)).astype(np.float32),
    )
    observations[:, 2] = 0.3
    following = observations + np.column_stack((actions, np.zeros(count, np.float32)))
    ends = (np.abs(following[:, 0]) > 4).astype(np.float32) * terminate
    return ModelData(observations, following, actions, observations[:, 1] - actions[:, 0], ends)


@pytest.mark.parametrize("terminate", [False, True])
def test_gradients_written_by_hand_are_those_of_autograd(
    terminate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(50, terminate)
    with seeded_single_thread(0):
        fitting = EnsembleTrainer(ensemble_of(terminate), 1e-3, 50)
        fitting.ensemble.set_normalization(steps)
    inputs, targets, ends = fitting._normalize(steps)
    found = fitting.ensemble.networks(torch.from_numpy(inputs))
    terminated = torch.from_numpy(ends).expand(3, -1) if terminate else None
    loss = dynamics_loss(found, torch.from_numpy(targets), terminated)
    (expected,) = torch.autograd.grad(loss, found)

    gradient = fitting.grad_outputs(found.detach().numpy(), targets, ends)

    assert fitting.errors(inputs, targets, ends).sum() == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(2 * gradient, expected.numpy(), rtol=1e-4, atol=1e-7)


def test_members_learn_apart_keep_their_best_and_stop_when_none_gains() -> None:
    steps, random = steps_of(400), np.random.default_rng(1)
    held_out = random.random(400) < 0.2
    with seeded_single_thread(0):
        fitting = EnsembleTrainer(Ensemble(3, 3, 2, (32,), "relu"), 3e-3, 32)
        errors = [fitting.fit(steps, held_out, random, epochs, 5) for epochs in (1, 10, 300)]
        before = fitting.flat.detach().clone()
        settled = [fitting.fit(steps, held_out, random, 300, 1) for _ in range(20)][-1]
    kept = [part[held_out] for part in fitting._normalize(steps)]

    assert errors[0] > errors[1] > errors[2] >= settled
    assert errors[2] < 0.2
    assert fitting.errors(*kept).mean() == pytest.approx(settled)  # the best weights are those that stay
    assert not torch.equal(before, fitting.flat)
    first = fitting.ensemble.networks.weights[0]
    assert not torch.allclose(first[0], first[1], atol=0.1)


def test_what_never_changes_is_foretold_to_stay() -> None:
    steps, random = steps_of(200), np.random.default_rng(0)
    with seeded_single_thread(0):
        fitting = EnsembleTrainer(Ensemble(2, 3, 2, (8,), "relu"), 1e-3, 32)
        fitting.fit(
            ModelData(
                steps.obs,
                steps.next_obs,
                steps.actions,
                np.full(200, 0.1, np.float32),
                steps.terminated * 0,
            ),
            np.arange(200) % 9 == 0,
            random,
            3,
            3,
        )

        earned = fitting.ensemble(torch.from_numpy(steps.obs[:9]), torch.randn(9, 4, 10, 2))

    np.testing.assert_allclose(earned.detach(), 1.0, atol=1e-3)


def learner_of(environment: str = "Point-v0", **options: Any) -> mpc.Learner:
    settings = mpc.Settings(environment=environment, **{**SMALL, **options})
    with seeded_single_thread(0):
        return mpc.Learner(settings, observation_spec(environment), action_spec(environment), 0)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_rows_that_only_reset_are_left_out_and_a_cut_is_no_end(environment: str) -> None:
    learner = learner_of(environment, num_envs=3, train_freq=40, learning_starts=1000)

    learner.collect()

    steps = learner.model_data()
    assert len(steps.rewards) == learner.envs.num_timesteps < 3 * 40
    np.testing.assert_allclose(steps.rewards, 1 - np.abs(steps.next_obs[:, 0]), atol=1e-5)
    np.testing.assert_array_equal(steps.terminated, np.abs(steps.next_obs[:, 0]) > 2)
    assert steps.terminated.any()
    assert learner.envs.num_episodes > steps.terminated.sum()  # the others were cut
    pushed = steps.actions[:, 0] if environment == "Point-v0" else 1 - steps.actions.argmax(1)
    np.testing.assert_allclose(steps.next_obs[:, 0] - steps.obs[:, 0], 0.4 * pushed, atol=1e-5)


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def brought(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training."""
    settings = mpc.Settings(environment=request.param, total_timesteps=240, **QUICK)
    return mpc.train(settings, Run(tmp_path_factory.mktemp("report")))


def test_few_steps_are_enough_to_bring_a_point_to_its_place(brought: Trained) -> None:
    # 8 is the most there is, without its way there; at random below 1
    assert brought.metrics["mean_return"] > 6.2
    assert brought.metrics["steps"] < 300


def test_the_exported_graph_plans_the_same_alone_and_in_company(brought: Trained, tmp_path: Path) -> None:
    observations = np.random.default_rng(0).uniform(-1.5, 1.5, (21, 1)).astype(np.float32)
    expected = brought.module(torch.from_numpy(observations))
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(
        torch.export.export(brought.module, brought.example, dynamic_shapes=({0: batch},), strict=False),
        tmp_path / "p.pt2",
    )

    loaded = torch.export.load(tmp_path / "p.pt2").module()

    alone = [loaded(row[None]) for row in torch.from_numpy(observations)]
    together = loaded(torch.from_numpy(observations))
    for name, value in expected.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), value, rtol=1e-4, atol=1e-4)


def test_the_handler_serves_the_reported_returns_step_for_step(brought: Trained, tmp_path: Path) -> None:
    handler = policy_predictor(brought, tmp_path)

    def act(observations: np.ndarray) -> np.ndarray:
        (found,) = handler.answer_rows(
            [({"body": json.dumps({"instances": observations.tolist()}).encode()}, {})]
        )
        assert all(0 < one["value"] < 5 for one in found["predictions"])  # of 4 steps
        return np.array([one["action"] for one in found["predictions"]])

    returns = episode_returns(act, brought.data["name"], 10, EVALUATION_SEED)

    assert returns.mean() == pytest.approx(brought.metrics["mean_return"], rel=1e-6)
    assert brought.postprocess["outputs"][-1] == "value"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_is_served_acts_as_what_learned(environment: str) -> None:
    learner, observations = (
        learner_of(environment),
        np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32),
    )

    served = learner.policy.build_graph()(torch.from_numpy(observations))["action"].detach().numpy()

    np.testing.assert_array_equal(served, learner.policy.act(observations))


def test_the_same_seed_learns_the_same_policy_and_another_seed_another(tmp_path: Path) -> None:
    few = {"planner": "random_shooting", "n_eval_episodes": 2, "evaluation_episodes": 2}
    settings = mpc.Settings(environment="Point-v0", total_timesteps=50, **{**QUICK, **few})

    first, again, other = (mpc.train(settings, Run(tmp_path, seed=seed)) for seed in (3, 3, 4))

    weights = [
        torch.cat([one.flatten() for one in trained.module.parameters()]) for trained in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_settings_that_cannot_be_are_named(home: Path, tmp_path: Path) -> None:
    def written(training: str) -> Any:
        (home / "models" / "one.yaml").write_text(
            f"# Plans.\nkind: policy\ntraining: {{recipe: mpc, {training}}}\nfloor: {{mean_return: 0}}\n"
        )
        return settings_of(spec.load("one"))

    for training, told in (
        ("elites: 32", r"elites \(32\) must be fewer than population_size \(32\)"),
        ("planner: best", "planner"),
        ("hidden: []", "hidden"),
    ):
        with pytest.raises(CallError, match=told):
            written(training)
    with pytest.raises(CallError, match="finite bounds"):
        mpc.train(mpc.Settings(environment="Anywhere-v0"), Run(tmp_path))
