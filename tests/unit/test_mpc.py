"""Model predictive control: planners against exact solutions, the ensemble against loops and autograd, what is served against both."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from marina import spec
from marina.errors import CallError
from training import mpc
from training.policies import rollout
from training.policies.dynamics import Ensemble, Fitting, Steps
from training.policies.planning import CategoricalPlans, NormalPlans, Planner, base_samples, elite_weights
from training.policies.small_networks import small_network_arithmetic
from training.train import settings_of
from training.trained import Trained

from policy_handler import PolicyHandler

SMALL: dict[str, Any] = {"plans": 32, "horizon": 4, "iterations": 2, "elites": 4, "members": 2, "hidden": (16,)}
QUICK: dict[str, Any] = {
    **SMALL,
    "warmup_steps": 40,
    "phase_steps": 10,
    "screening_every": 80,
    "screening_episodes": 5,
    "evaluation_episodes": 10,
}


class Point(gymnasium.Env[np.ndarray, Any]):
    """A point on a line that is to be brought to 0 within 8 steps; beyond 2 the episode terminates, and what is left is lost."""

    observation_space: spaces.Space[Any] = spaces.Box(-10, 10, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(np.float32(-3), np.float32(1), (1, 1), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1.5, 1.5), 0
        return np.array([self.place], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place, self.steps = self.place + 0.4 * self.push(action), self.steps + 1
        return np.array([self.place], np.float32), 1 - abs(self.place), abs(self.place) > 2, self.steps == 8, {}

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
            patch.setitem(gymnasium.registry, name, gymnasium.envs.registration.EnvSpec(name, entry_point=made))
        yield


MOVES = np.array([[1, 0.2], [0, 1]]), np.array([[0.02], [0.2]])  # a mass on a line: place and speed, pushed
COSTS = np.diag([1.0, 0.1]), np.array([[0.05]])  # of the squares of the state that follows and of the push


class Linear(nn.Module):
    """The exact model of that mass."""

    def forward(self, observations: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        (moved, pushed), (of_states, of_pushes) = ([torch.from_numpy(part).float() for part in pair] for pair in (MOVES, COSTS))
        states, earned = observations[:, None].expand(-1, plans.shape[1], -1), torch.zeros(())
        for action in plans.unbind(2):
            states = states @ moved.T + action @ pushed.T
            earned = earned - ((states @ of_states) * states).sum(2) - ((action @ of_pushes) * action).sum(2)
        return earned


def riccati(horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, P) of the first step: the best push is -K state, and the least cost state^T P state."""
    (moved, pushed), (of_states, of_pushes) = MOVES, COSTS
    cost = np.zeros((2, 2))
    for _ in range(horizon):
        after = of_states + cost
        gain = np.linalg.solve(of_pushes + pushed.T @ after @ pushed, pushed.T @ after @ moved)
        cost = moved.T @ after @ (moved - pushed @ gain)
    return gain, cost


def planned(kind: str, starts: np.ndarray, horizon: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """First pushes and values of 1,600 plans per start, within -8..8."""
    shooting = kind == "random_shooting"
    counts = (1, 1600) if shooting else (8, 200)
    with small_network_arithmetic(0):
        base = base_samples((*counts, horizon, 1))
    planner = Planner(Linear(), NormalPlans(torch.full((1,), -8.0), torch.full((1,), 8.0), 0.5), base, elites=1 if shooting else 20)
    first, value = planner(torch.from_numpy(starts).float())
    return first[:, 0].numpy(), value.numpy()


def test_the_cross_entropy_method_finds_what_the_riccati_equation_says_and_random_shooting_comes_less_near() -> None:
    starts = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    gain, cost = riccati(6)
    best, least = -(starts @ gain.T)[:, 0], np.einsum("bi,ij,bj->b", starts, cost, starts)
    assert np.abs(best).max() < 6

    (near, value), (far, poor) = planned("cem", starts), planned("random_shooting", starts)

    assert np.abs(near - best).max() < 0.05
    np.testing.assert_allclose(-value, least, rtol=0.01, atol=1e-3)
    assert np.abs(far - best).mean() > 20 * np.abs(near - best).mean()
    assert (-poor - least).mean() > 20 * (-value - least).mean() > 0


def test_plans_that_all_lie_on_a_bound_can_be_explained() -> None:
    bound, start = torch.full((1,), 0.5), torch.tensor([[9.0, 1.0]], requires_grad=True)
    planner = Planner(Linear(), NormalPlans(-bound, bound, 1e9), base_samples((3, 32, 1, 1)), elites=5)

    first, value = planner(start)
    (gradient,) = torch.autograd.grad(first.sum() + value.sum(), start)

    assert first.tolist() == [[-0.5]]
    assert bool(gradient.isfinite().all())


def test_no_rounding_leads_out_of_the_bounds() -> None:
    low, high = torch.full((1,), -0.1), torch.full((1,), 0.3)
    planner = Planner(Linear(), NormalPlans(low, high, 1e9), base_samples((3, 41, 2, 1)), elites=5)

    first, _ = planner(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * 9)

    assert float(first.min()) == pytest.approx(-0.1)
    assert bool(((first >= low) & (first <= high)).all())


class Lock(nn.Module):
    """Pays for every digit of a number that is right."""

    digits = (2, 0, 1, 2, 1)

    def forward(self, observations: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        return plans[:, :, range(len(self.digits)), self.digits].sum(2) + observations


def test_discrete_plans_close_in_on_the_best_sequence() -> None:
    with small_network_arithmetic(0):
        base = base_samples((6, 40, 5, 3), discrete=True)

    chances, value = Planner(Lock(), CategoricalPlans(3), base, elites=5)(torch.zeros(2, 1))

    assert chances.argmax(1).tolist() == [2, 2]
    assert chances[:, 2].min() > 0.95
    assert value.tolist() == pytest.approx([5, 5], abs=0.1)


def test_discrete_base_samples_draw_actions_by_their_chances() -> None:
    plans, chances = CategoricalPlans(3), torch.tensor([[[[0.7, 0.3, 0.0]]]])
    with small_network_arithmetic(0):
        drawn = plans.draw((chances,), base_samples((1, 30_000, 1, 3), discrete=True)[0])

    assert bool((drawn.sum(-1) == 1).all())
    np.testing.assert_allclose(drawn.mean((0, 1, 2)), 0.9 * chances.flatten() + 0.1 / 3, atol=0.01)


def test_elites_share_by_how_far_they_lead_and_alike_where_they_earn_the_same() -> None:
    weights = elite_weights(torch.tensor([[0.0, 5.0, 1.0, 3.0], [-7.0, -7.0, -7.0, -7.0], [1.0, 0.0, 1.0, 1.0]]), 2)

    torch.testing.assert_close(weights, torch.tensor([[0, 4 / 6, 0, 2 / 6], [1 / 4] * 4, [1 / 3, 0, 1 / 3, 1 / 3]]), atol=1e-4, rtol=0)


def test_rounding_that_makes_two_plans_change_places_hardly_moves_the_weights() -> None:
    returns = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    ordered = returns.argsort(1, descending=True)
    returns.scatter_(1, ordered[:, 5:6], returns.gather(1, ordered[:, 4:5]) - 1e-6)  # the best that is no elite, next to the last that is
    moved = returns.scatter(1, ordered[:, 5:6], returns.gather(1, ordered[:, 4:5]) + 1e-6)

    assert (elite_weights(returns, 5) - elite_weights(moved, 5)).abs().max() < 1e-4


def test_normal_samples_come_in_pairs_and_correlate_from_step_to_step() -> None:
    with small_network_arithmetic(0):
        samples = base_samples((2, 4000, 5, 1), correlation=0.6)

    torch.testing.assert_close(samples[:, :2000], -samples[:, 2000:])
    np.testing.assert_allclose(samples.std((0, 1)), 1, atol=0.05)
    assert float((samples[:, :, 3] * samples[:, :, 4]).mean()) == pytest.approx(0.6, abs=0.05)


def ensemble_of(terminates: bool, width: int = 3, actions: int = 2) -> Ensemble:
    """Made-up members with scales and bounds of their own."""
    with small_network_arithmetic(0):
        ensemble = Ensemble(3, width, actions, (8, 6), "tanh")
        for part in ensemble.buffers():
            part.copy_(torch.rand_like(part) + 0.5)
    ensemble.low.fill_(-1.0)
    ensemble.high.fill_(1.5)
    ensemble.terminates = terminates
    return ensemble


@pytest.mark.parametrize("terminates", [False, True])
def test_plans_of_all_members_at_once_earn_what_they_do_one_by_one(terminates: bool) -> None:
    ensemble, random = ensemble_of(terminates), torch.Generator().manual_seed(0)
    observations, plans = torch.randn(4, 3, generator=random), torch.randn(4, 5, 6, 2, generator=random)
    expected, hit = torch.zeros(4, 5), 0
    for row, number, member in np.ndindex(4, 5, 3):
        state, going = observations[row], 1.0
        for action in plans[row, number]:
            inputs = (torch.cat((state, action)) - ensemble.mean) / ensemble.deviation
            outputs = ensemble.networks(inputs[None])[member, 0]
            change = outputs[:4] * ensemble.target_deviation + ensemble.target_mean
            expected[row, number] += going * change[3].item() / 3
            state = (state + change[:3]).clamp(ensemble.low, ensemble.high)
            hit += int((state == 1.5).any())
            going *= 1 - torch.sigmoid(outputs[4]).item() if terminates else 1

    torch.testing.assert_close(ensemble(observations, plans), expected, rtol=1e-4, atol=1e-5)
    assert hit > 0


def steps_of(count: int, terminate: bool = True) -> Steps:
    """Transitions of a linear system with a constant among what it observes."""
    random = np.random.default_rng(0)
    observations, actions = random.normal(2, 3, (count, 3)).astype(np.float32), random.normal(size=(count, 2)).astype(np.float32)
    observations[:, 2] = 0.3
    following = observations + np.column_stack((actions, np.zeros(count, np.float32)))
    ends = (np.abs(following[:, 0]) > 4).astype(np.float32) * terminate
    return Steps(observations, following, actions, observations[:, 1] - actions[:, 0], ends)


@pytest.mark.parametrize("terminate", [False, True])
def test_gradients_written_by_hand_are_those_of_autograd(terminate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = steps_of(50, terminate)
    with small_network_arithmetic(0):
        fitting = Fitting(ensemble_of(terminate), 1e-3, 50)
        fitting.ensemble.scale(steps)
    inputs, targets, ends = fitting._normalised(steps)
    found = fitting.ensemble.networks(torch.from_numpy(inputs))
    losses = (found[:, :, :4] - torch.from_numpy(targets)).square().mean((1, 2))
    if terminate:
        wanted = torch.from_numpy(ends).expand(3, -1)
        losses = losses + nn.functional.binary_cross_entropy_with_logits(found[:, :, 4], wanted, reduction="none").mean(1)
    (expected,) = torch.autograd.grad(losses.sum(), found)

    gradient = fitting.by_outputs(found.detach().numpy(), targets, ends)

    np.testing.assert_allclose(fitting.errors(inputs, targets, ends), losses.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(2 * gradient, expected.numpy(), rtol=1e-4, atol=1e-7)


def test_members_learn_apart_keep_their_best_and_stop_when_none_gains() -> None:
    steps, random = steps_of(400), np.random.default_rng(1)
    held_out = random.random(400) < 0.2
    with small_network_arithmetic(0):
        fitting = Fitting(Ensemble(3, 3, 2, (32,), "relu"), 3e-3, 32)
        errors = [fitting.fit(steps, held_out, random, epochs, 5) for epochs in (1, 10, 300)]
        before = fitting.flat.detach().clone()
        settled = [fitting.fit(steps, held_out, random, 300, 1) for _ in range(20)][-1]
    kept = [part[held_out] for part in fitting._normalised(steps)]

    assert errors[0] > errors[1] > errors[2] >= settled
    assert errors[2] < 0.2
    assert fitting.errors(*kept).mean() == pytest.approx(settled)  # the best weights are those that stay
    assert not torch.equal(before, fitting.flat)
    first = fitting.ensemble.networks.weights[0]
    assert not torch.allclose(first[0], first[1], atol=0.1)


def test_what_never_changes_is_foretold_to_stay() -> None:
    steps, random = steps_of(200), np.random.default_rng(0)
    with small_network_arithmetic(0):
        fitting = Fitting(Ensemble(2, 3, 2, (8,), "relu"), 1e-3, 32)
        fitting.fit(
            Steps(steps.observations, steps.following, steps.actions, np.full(200, 0.1, np.float32), steps.terminated * 0),
            np.arange(200) % 9 == 0,
            random,
            3,
            3,
        )

        earned = fitting.ensemble(torch.from_numpy(steps.observations[:9]), torch.randn(9, 4, 10, 2))

    np.testing.assert_allclose(earned.detach(), 1.0, atol=1e-3)


def learner_of(environment: str = "Point-v0", **options: Any) -> mpc.Learner:
    settings = mpc.Settings(environment=environment, **{**SMALL, **options})
    with small_network_arithmetic(0):
        return mpc.Learner(settings, rollout.observation_config(environment), rollout.action_config(environment), 0)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_rows_that_only_reset_are_left_out_and_a_cut_is_no_end(environment: str) -> None:
    learner = learner_of(environment, copies=3, phase_steps=40, warmup_steps=1000)

    learner.collect()

    steps = learner.steps()
    assert len(steps.rewards) == learner.experience.transitions < 3 * 40
    np.testing.assert_allclose(steps.rewards, 1 - np.abs(steps.following[:, 0]), atol=1e-5)
    np.testing.assert_array_equal(steps.terminated, np.abs(steps.following[:, 0]) > 2)
    assert steps.terminated.any()
    assert learner.experience.episodes > steps.terminated.sum()  # the others were cut
    pushed = steps.actions[:, 0] if environment == "Point-v0" else 1 - steps.actions.argmax(1)
    np.testing.assert_allclose(steps.following[:, 0] - steps.observations[:, 0], 0.4 * pushed, atol=1e-5)


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def brought(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training."""
    settings = mpc.Settings(environment=request.param, steps=240, **QUICK)
    return mpc.train(settings, 0, tmp_path_factory.mktemp("report"))


def test_few_steps_are_enough_to_bring_a_point_to_its_place(brought: Trained) -> None:
    assert brought.metrics["mean_return"] > 6.2  # 8 is the most there is, without its way there; at random below 1
    assert brought.metrics["steps"] < 300


def test_the_exported_graph_plans_the_same_alone_and_in_company(brought: Trained, tmp_path: Path) -> None:
    observations = np.random.default_rng(0).uniform(-1.5, 1.5, (21, 1)).astype(np.float32)
    expected = brought.module(torch.from_numpy(observations))
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(brought.module, brought.example, dynamic_shapes=({0: batch},), strict=False), tmp_path / "p.pt2")

    loaded = torch.export.load(tmp_path / "p.pt2").module()

    alone = [loaded(row[None]) for row in torch.from_numpy(observations)]
    together = loaded(torch.from_numpy(observations))
    for name, value in expected.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), value, rtol=1e-4, atol=1e-4)


def test_the_handler_serves_the_reported_returns_step_for_step(brought: Trained, tmp_path: Path) -> None:
    for name, content in (("preprocess", brought.preprocess), ("postprocess", brought.postprocess)):
        (tmp_path / f"{name}_config.json").write_text(json.dumps(content))
    (tmp_path / "model_metadata.json").write_text('{"name": "policy", "version": "1.0", "max_batch": 64}')
    handler = PolicyHandler()
    handler.read_configs(tmp_path)
    handler.model = brought.module  # type: ignore[assignment]

    def act(observations: np.ndarray) -> np.ndarray:
        (found,) = handler.answer_rows([({"body": json.dumps({"instances": observations.tolist()}).encode()}, {})])
        assert all(0 < one["value"] < 5 for one in found["predictions"])  # of 4 steps
        return np.array([one["action"] for one in found["predictions"]])

    returns = rollout.episode_returns(act, brought.data["name"], 10, rollout.EVALUATION_SEED)

    assert returns.mean() == pytest.approx(brought.metrics["mean_return"], rel=1e-6)
    assert brought.postprocess["outputs"][-1] == "value"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_is_served_acts_as_what_learned(environment: str) -> None:
    learner, observations = learner_of(environment), np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)

    served = learner.policy.served()(torch.from_numpy(observations))["action"].detach().numpy()

    np.testing.assert_array_equal(served, learner.policy.act(observations))


def test_the_same_seed_learns_the_same_policy_and_another_seed_another(tmp_path: Path) -> None:
    few = {"planner": "random_shooting", "screening_episodes": 2, "evaluation_episodes": 2}
    settings = mpc.Settings(environment="Point-v0", steps=50, **{**QUICK, **few})

    first, again, other = (mpc.train(settings, seed, tmp_path) for seed in (3, 3, 4))

    weights = [torch.cat([one.flatten() for one in trained.module.parameters()]) for trained in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_settings_that_cannot_be_are_named(home: Path, tmp_path: Path) -> None:
    def written(training: str) -> Any:
        (home / "models" / "one.yaml").write_text(
            f"# Plans.\nkind: policy\ntraining: {{recipe: mpc, {training}}}\nfloor: {{mean_return: 0}}\n"
        )
        return settings_of(spec.load("one"))

    for training, told in (
        ("elites: 32", r"elites \(32\) must be fewer than plans \(32\)"),
        ("planner: best", "planner"),
        ("hidden: []", "hidden"),
    ):
        with pytest.raises(CallError, match=told):
            written(training)
    with pytest.raises(CallError, match="finite bounds"):
        mpc.train(mpc.Settings(environment="Anywhere-v0"), 0, tmp_path)


@pytest.mark.slow
def test_pendulum_is_held_up(tmp_path: Path) -> None:
    trained = mpc.train(mpc.Settings(steps=3000, target_return=-200), 0, tmp_path)

    assert trained.metrics["mean_return"] > -200
