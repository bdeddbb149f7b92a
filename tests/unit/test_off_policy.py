"""SAC and TD3: densities and targets against slow references, bounds, and what is handed over."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from marina.errors import CallError
from training import sac, td3
from training.policies import rollout
from training.policies.replay import Transitions
from training.policies.small_networks import Perceptrons, answer, flatten, small_network_arithmetic
from training.trained import Trained

from bundle_runtimes import TorchRuntime
from policy_handler import PolicyHandler

RECIPES = [sac, td3]
DDPG = {"critics": 1, "policy_delay": 1, "smoothing": 0.0}


class Aim(gymnasium.Env[np.ndarray, Any]):
    """Earns minus the squared distance of the action, a matrix with bounds of its own, from a place in it; 4 steps, then a cut."""

    observation_space: spaces.Space[Any] = spaces.Box(-10, 10, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(np.array([[-1, 0]], np.float32), np.array([[1, 3]], np.float32))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, np.float32)), action
        self.steps += 1
        earned = -float(np.square(action - np.array([[0.5, 2.0]])).sum())
        return self.np_random.normal(size=2).astype(np.float32), earned, False, self.steps == 4, {}


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        spec = gymnasium.envs.registration.EnvSpec("Aiming-v0", entry_point=Aim)
        patch.setitem(gymnasium.registry, spec.id, spec)
        yield


def learner_of(recipe: Any, environment: str = "Aiming-v0", **options: Any) -> Any:
    """An untrained one."""
    settings = recipe.Settings(environment=environment, hidden=(16, 16), **options)
    with small_network_arithmetic(0):
        return recipe.Learner(settings, rollout.observation_config(environment), rollout.action_config(environment), 0)


def batch_of(count: int = 20) -> Transitions:
    """Made-up transitions, some of which terminate."""
    random = torch.Generator().manual_seed(0)
    observations, following, actions, rewards = (torch.randn(count, width, generator=random) for width in (2, 2, 2, 1))
    return Transitions(observations, following, actions.tanh(), rewards, (torch.arange(count) % 3 == 0).float()[:, None])


def test_the_squashed_density_is_torchs() -> None:
    mean, log_std, noise = torch.randn(3, 50, 2).unbind(0)
    raw = mean + log_std.exp() * noise
    reference = TransformedDistribution(Normal(mean.double(), log_std.double().exp()), TanhTransform(cache_size=1))
    expected = Independent(reference, 1).log_prob(raw.double().tanh().clamp(-1 + 1e-12, 1 - 1e-12))

    found = torch.from_numpy(sac.squashed_log_probability(*(one.double().numpy() for one in (raw, noise, log_std))))

    near = raw.abs().amax(1) < 6  # beyond, the reference has lost its digits
    torch.testing.assert_close(found[near], expected[near], rtol=1e-4, atol=1e-4)
    assert np.isfinite(sac.squashed_log_probability(np.full((1, 2), 50.0), np.zeros((1, 2)), np.zeros((1, 2)))).all()


def test_gradients_written_by_hand_are_those_of_autograd() -> None:
    learner, batch, noise = learner_of(sac, temperature=0.3), batch_of(), torch.randn(20, 2)
    taken: list[np.ndarray] = []
    for adam in (learner.critics.adam, learner.adam, learner.temperature_adam):
        adam.step = lambda gradient, _: taken.append(gradient.copy())
    targets = torch.from_numpy(learner.targets(batch, noise.numpy()))
    values = learner.critics(batch.observations, batch.actions)
    critics_loss = 0.5 * (values - targets).square().mean(1).sum()
    by_critics = torch.autograd.grad(critics_loss, list(learner.critics.networks.parameters()))
    mean, log_std = learner.policy.networks(batch.observations)[0].chunk(2, 1)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    actions = (mean + log_std.exp() * noise).tanh()
    density = Independent(squashed, 1).log_prob(actions)
    actor_loss = (0.3 * density - learner.critics(batch.observations, actions).amin(0)).mean()
    by_actor = torch.autograd.grad(actor_loss, list(learner.policy.parameters()))

    loss = learner.improve_critics(batch, noise.numpy())
    learner.improve_actor(batch, noise.numpy())

    assert loss == pytest.approx(critics_loss.item(), rel=1e-5)
    np.testing.assert_allclose(taken[0], torch.cat([one.flatten() for one in by_critics]).numpy(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(taken[1], torch.cat([one.flatten() for one in by_actor]).numpy(), rtol=1e-2, atol=1e-5)
    assert taken[2].item() == pytest.approx(2 - density.mean().item(), rel=1e-4)


@pytest.mark.parametrize("options", [{}, DDPG])
def test_gradients_of_td3_and_ddpg_are_those_of_autograd(options: dict[str, Any]) -> None:
    learner, batch, noise = learner_of(td3, **options), batch_of(), torch.randn(20, 2)
    taken: list[np.ndarray] = []
    for adam in (learner.critics.adam, learner.adam):
        adam.step = lambda gradient, _: taken.append(gradient.copy())
    targets = torch.from_numpy(learner.targets(batch, noise.numpy()))
    critics_loss = 0.5 * (learner.critics(batch.observations, batch.actions) - targets).square().mean(1).sum()
    by_critics = torch.autograd.grad(critics_loss, list(learner.critics.networks.parameters()))
    actions = learner.policy.networks(batch.observations)[0].tanh()
    by_actor = torch.autograd.grad(-learner.critics(batch.observations, actions)[0].mean(), list(learner.policy.parameters()))

    loss = learner.improve_critics(batch, noise.numpy())
    learner.improve_actor(batch)

    assert loss == pytest.approx(critics_loss.item(), rel=1e-5)
    np.testing.assert_allclose(taken[0], torch.cat([one.flatten() for one in by_critics]).numpy(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(taken[1], torch.cat([one.flatten() for one in by_actor]).numpy(), rtol=1e-2, atol=1e-5)


def test_soft_targets_equal_the_papers_row_by_row() -> None:
    learner, batch, noise = learner_of(sac, temperature=0.3), batch_of(), torch.randn(20, 2)
    expected = []
    for row in range(20):
        following = batch.next_observations[row : row + 1]
        mean, log_std = learner.policy.networks(following)[0].chunk(2, 1)
        action = (mean + log_std.exp() * noise[row]).tanh()
        density = Independent(TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform()), 1).log_prob(action)
        values = learner.critics.target(torch.cat((following, action), 1)).flatten()
        soft = min(values.tolist()) - 0.3 * density.item()
        expected.append(batch.rewards[row].item() + (0 if batch.terminated[row] else 0.98 * soft))

    found = learner.targets(batch, noise.numpy())

    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, DDPG])
def test_the_targets_of_td3_and_ddpg_equal_the_papers_row_by_row(options: dict[str, Any]) -> None:
    learner, batch, noise = learner_of(td3, **options), batch_of(), 5 * torch.randn(20, 2)
    expected = []
    for row in range(20):
        following = batch.next_observations[row : row + 1]
        disturbance = [0.0 if options else min(max(0.2 * one, -0.5), 0.5) for one in noise[row].tolist()]
        action = (learner.target(following)[0].tanh() + torch.tensor([disturbance])).clamp(-1, 1)
        values = learner.critics.target(torch.cat((following, action), 1)).flatten().tolist()
        assert len(values) == (1 if options else 2)
        expected.append(batch.rewards[row].item() + (0 if batch.terminated[row] else 0.98 * min(values)))

    np.testing.assert_allclose(learner.targets(batch, noise.numpy()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_of_the_actor_leaves_the_critics_alone_and_the_targets_follow(recipe: Any) -> None:
    learner = learner_of(recipe, polyak=0.25)
    critics, actor, target = (part.detach().clone() for part in (learner.critics.flat, learner.flat, learner.critics.flat_target))
    assert torch.equal(critics, target)

    learner.improve_actor(batch_of(), *([np.random.default_rng(0).normal(size=(20, 2))] if recipe is sac else []))

    assert torch.equal(learner.critics.flat, critics)
    assert not torch.equal(learner.flat, actor)
    noise = torch.randn(20, 2)
    learner.improve_critics(batch_of(), noise.numpy())
    learner.critics.follow(0.25)
    torch.testing.assert_close(learner.critics.flat_target.data, 0.75 * target + 0.25 * learner.critics.flat.data)


def test_the_temperature_rises_where_actions_are_too_sure_and_falls_where_they_are_not() -> None:
    for wanted, rises in ((50.0, True), (-50.0, False)):
        learner = learner_of(sac, target_entropy=wanted)

        learner.improve_actor(batch_of(), np.random.default_rng(0).normal(size=(20, 2)))

        assert (learner.log_temperature.item() > 0) == rises


def test_perceptrons_side_by_side_equal_single_ones_and_numpys_and_those_that_are_served() -> None:
    several, rows = Perceptrons(3, (4, 8, 2), "relu"), torch.randn(10, 4)
    flat = flatten(several)

    together = several(rows)

    assert flat.numel() == 3 * (4 * 8 + 8 + 8 * 2 + 2)
    for index in range(3):
        np.testing.assert_allclose(answer(several.arrays(index), "relu", rows.numpy()), together[index].detach().numpy(), atol=1e-6)
        torch.testing.assert_close(torch.nn.Sequential(*several.layers(index))(rows), together[index])


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_that_only_reset_are_left_out_and_a_cut_is_no_end(recipe: Any) -> None:
    learner = learner_of(recipe, copies=2, phase_steps=10, warmup_steps=100)

    learner.phase()

    kept = learner.replayed.replay.rows[: len(learner.replayed.replay)]
    *_, actions, rewards, terminated = torch.split(kept, learner.replayed.replay.columns, 1)
    assert len(kept) == learner.experience.transitions == 16  # of 2 x 10 rows, every fifth only resets
    assert bool((rewards < 0).all())
    assert not terminated.any()
    assert actions.abs().max() <= 1
    assert learner.experience.episodes == 4


QUICK: dict[str, Any] = {"hidden": (32, 32), "screening_episodes": 5, "evaluation_episodes": 20, "batch_size": 64, "gamma": 0.5}


@pytest.fixture(scope="module", params=RECIPES)
def aiming(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training."""
    settings = request.param.Settings(environment="Aiming-v0", steps=700, warmup_steps=200, learning_rate=3e-3, **QUICK)
    return request.param.train(settings, 0, tmp_path_factory.mktemp("report"))


def test_random_actions_before_learning_are_held() -> None:
    learner = learner_of(sac, copies=2, phase_steps=3, hold=3, warmup_steps=100)

    for _ in range(2):
        learner.replayed.collect(lambda rows: pytest.fail("nothing was learned yet"))

    first, second, third, following = (rows[:, 4:6].tolist() for rows in learner.replayed.replay.rows[:8].split(2))
    assert first == second == third != following
    assert first[0] != first[1]


def test_actions_find_their_place_within_the_bounds(aiming: Trained) -> None:
    assert aiming.metrics["mean_return"] > -0.5  # the middle of the bounds earns -2


def test_the_handler_earns_the_reported_returns(aiming: Trained, tmp_path: Path) -> None:
    for name, content in (("preprocess", aiming.preprocess), ("postprocess", aiming.postprocess)):
        (tmp_path / f"{name}_config.json").write_text(json.dumps(content))
    (tmp_path / "model_metadata.json").write_text('{"name": "policy", "version": "1.0", "max_batch": 64}')
    handler = PolicyHandler()
    handler.read_configs(tmp_path)
    handler.model = TorchRuntime(aiming.module)

    def act(observations: np.ndarray) -> np.ndarray:
        (found,) = handler.answer_rows([({"body": json.dumps({"instances": observations.tolist()}).encode()}, {})])
        return np.array([one["action"] for one in found["predictions"]])

    returns = rollout.episode_returns(act, "Aiming-v0", 20, rollout.EVALUATION_SEED)

    assert returns.mean() == pytest.approx(aiming.metrics["mean_return"], rel=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_served_acts_as_what_learned(recipe: Any) -> None:
    learner, observations = learner_of(recipe), np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    policy = learner.policy.served()
    inputs = [torch.from_numpy(observations), *([torch.zeros(50, 2)] if recipe is sac else [])]

    np.testing.assert_allclose(policy(*inputs)["action"].detach().numpy(), learner.policy.act(observations), atol=1e-5)


def test_draws_of_the_graph_have_the_distribution_of_the_training() -> None:
    learner = learner_of(sac)
    policy, features = learner.policy.served(), torch.tensor([[0.3, -0.2]]).expand(20_000, -1)
    noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))

    served = policy(features, noise)["action"].detach().reshape(-1, 2).numpy()

    explored = learner.policy.to_environment(learner.policy.explore(features.numpy(), noise.numpy())).reshape(-1, 2)
    np.testing.assert_allclose(served, explored, atol=1e-5)
    assert served.std(0).min() > 0.1


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_learns_the_same_policy_and_another_seed_another(recipe: Any, tmp_path: Path) -> None:
    settings = recipe.Settings(environment="Aiming-v0", steps=90, warmup_steps=50, **{**QUICK, "evaluation_episodes": 2})

    first, again, other = (recipe.train(settings, seed, tmp_path) for seed in (3, 3, 4))

    weights = [torch.cat([one.flatten() for one in trained.module.parameters()]) for trained in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.data["fingerprint"] == again.data["fingerprint"] != other.data["fingerprint"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_actions_that_do_not_fit_are_refused(recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="finite bounds"):
        recipe.train(recipe.Settings(environment="CartPole-v1"), 0, tmp_path)


@pytest.mark.slow
def test_pendulum_is_held_up(tmp_path: Path) -> None:
    trained = sac.train(sac.Settings(steps=10_000, target_return=-200), 0, tmp_path)

    assert trained.metrics["mean_return"] > -200
