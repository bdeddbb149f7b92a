"""SAC and TD3: densities and targets against slow references, bounds, and whole trainings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from marina.core.errors import CallError
from tests.support.policy_predictors import policy_predictor
from tests.support.seeds import check_seed_decides
from tests.support.toy_environments import Aiming, registered
from training.export.trained import Trained
from training.policies.buffers.replay import Transitions
from training.policies.envs.evaluate import EVALUATION_SEED, episode_returns
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.networks.mlp import BatchedMLP, forward
from training.policies.networks.optim import flatten, seeded_single_thread
from training.policies.networks.reference_losses import (
    critics_loss,
    sac_actor_loss,
    sac_targets,
    sac_temperature_loss,
    squashed_gaussian,
    td3_actor_loss,
    td3_target_actions,
    td3_targets,
)
from training.recipes import mpc, sac, td3
from training.runs.run import Run

RECIPES = [sac, td3]
DDPG = {"n_critics": 1, "policy_delay": 1, "target_policy_noise": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Any:
    with registered(Aiming):
        yield


def learner_of(recipe: Any, environment: str = "Aiming-v0", **options: Any) -> Any:
    """An untrained one."""
    settings = recipe.Settings(environment=environment, hidden=(16, 16), **options)
    with seeded_single_thread(0):
        return recipe.Learner(settings, observation_spec(environment), action_spec(environment), 0)


def batch_of(count: int = 20) -> Transitions:
    """Made-up transitions, some of which terminate."""
    random = torch.Generator().manual_seed(0)
    observations, following, actions, rewards = (
        torch.randn(count, width, generator=random) for width in (2, 2, 2, 1)
    )
    return Transitions(
        observations, following, actions.tanh(), rewards, (torch.arange(count) % 3 == 0).float()[:, None]
    )


def test_the_squashed_density_is_torchs() -> None:
    mean, log_std, noise = torch.randn(3, 50, 2).unbind(0)
    raw = mean + log_std.exp() * noise
    reference = TransformedDistribution(
        Normal(mean.double(), log_std.double().exp()), TanhTransform(cache_size=1)
    )
    expected = Independent(reference, 1).log_prob(raw.double().tanh().clamp(-1 + 1e-12, 1 - 1e-12))

    found = torch.from_numpy(sac.squashed_log_prob(*(one.double().numpy() for one in (raw, noise, log_std))))

    near = raw.abs().amax(1) < 6  # beyond, the reference has lost its digits
    torch.testing.assert_close(found[near], expected[near], rtol=1e-4, atol=1e-4)
    assert np.isfinite(sac.squashed_log_prob(np.full((1, 2), 50.0), np.zeros((1, 2)), np.zeros((1, 2)))).all()


def capture_grads(*adams: Any) -> list[np.ndarray]:
    """Replace the steps of optimizers by appending the gradients to what is returned."""
    grads: list[np.ndarray] = []
    for adam in adams:
        adam.step = lambda grad, _: grads.append(grad.copy())
    return grads


def flat_grad(loss: torch.Tensor, module: torch.nn.Module) -> np.ndarray:
    """By autograd."""
    grads = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    return torch.cat([grad.flatten() for grad in grads]).numpy()


def test_sac_gradients_are_those_of_the_reference() -> None:
    learner, batch, noise = learner_of(sac, temperature=0.3), batch_of(), torch.randn(20, 2)
    targets = torch.from_numpy(learner.targets(batch, noise.numpy()))
    expected_critics = critics_loss(learner.critics(batch.obs, batch.actions), targets)
    mean, log_std = learner.policy.networks(batch.obs)[0].chunk(2, 1)
    actions = (mean + log_std.exp() * noise).tanh()
    log_probs = squashed_gaussian(mean, log_std).log_prob(actions)
    expected_actor = sac_actor_loss(learner.critics(batch.obs, actions), log_probs, alpha=0.3)
    log_alpha = torch.tensor(0.3).log().requires_grad_()
    sac_temperature_loss(log_alpha, log_probs, target_entropy=-2).backward()
    grads = capture_grads(learner.critics.adam, learner.adam, learner.temperature_adam)

    loss = learner.update_critics(batch, noise.numpy())
    learner.update_actor(batch, noise.numpy())

    assert loss == pytest.approx(expected_critics.item(), rel=1e-5)
    by_critics = flat_grad(expected_critics, learner.critics.networks)
    np.testing.assert_allclose(grads[0], by_critics, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(grads[1], flat_grad(expected_actor, learner.policy), rtol=1e-2, atol=1e-5)
    assert log_alpha.grad is not None
    assert grads[2].item() == pytest.approx(log_alpha.grad.item(), rel=1e-4)


@pytest.mark.parametrize("options", [{}, DDPG])
def test_td3_and_ddpg_gradients_are_those_of_the_reference(options: dict[str, Any]) -> None:
    learner, batch, noise = learner_of(td3, **options), batch_of(), torch.randn(20, 2)
    targets = torch.from_numpy(learner.targets(batch, noise.numpy()))
    expected_critics = critics_loss(learner.critics(batch.obs, batch.actions), targets)
    actions = learner.policy.networks(batch.obs)[0].tanh()
    expected_actor = td3_actor_loss(lambda actions: learner.critics(batch.obs, actions)[0], actions)
    grads = capture_grads(learner.critics.adam, learner.adam)

    loss = learner.update_critics(batch, noise.numpy())
    learner.update_actor(batch)

    assert loss == pytest.approx(expected_critics.item(), rel=1e-5)
    by_critics = flat_grad(expected_critics, learner.critics.networks)
    np.testing.assert_allclose(grads[0], by_critics, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(grads[1], flat_grad(expected_actor, learner.policy), rtol=1e-2, atol=1e-5)


@torch.no_grad()
def test_sac_targets_are_those_of_the_reference() -> None:
    learner, batch, noise = learner_of(sac, temperature=0.3), batch_of(), torch.randn(20, 2)
    mean, log_std = learner.policy.networks(batch.next_obs)[0].chunk(2, 1)
    actions = (mean + log_std.exp() * noise).tanh()
    log_probs = squashed_gaussian(mean, log_std).log_prob(actions)
    next_q = learner.critics.target(torch.cat((batch.next_obs, actions), 1))[:, :, 0]
    rewards, not_terminated = batch.rewards[:, 0], 1 - batch.terminated[:, 0]
    expected = sac_targets(rewards, not_terminated, 0.98, next_q, log_probs, alpha=0.3)

    found = learner.targets(batch, noise.numpy())

    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, DDPG])
def test_td3_and_ddpg_targets_are_those_of_the_reference(options: dict[str, Any]) -> None:
    learner, batch, noise = learner_of(td3, **options), batch_of(), 5 * torch.randn(20, 2)
    actions = learner.target(batch.next_obs)[0].tanh()
    if not options:
        actions = td3_target_actions(actions, noise, std=0.2, clip=0.5)
    next_q = learner.critics.target(torch.cat((batch.next_obs, actions), 1))[:, :, 0]
    expected = td3_targets(batch.rewards[:, 0], 1 - batch.terminated[:, 0], 0.98, next_q)

    found = learner.targets(batch, noise.numpy())

    assert len(next_q) == (1 if options else 2)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_actor_step_leaves_critics_unchanged_and_targets_follow(recipe: Any) -> None:
    """A step of the actor leaves the critics unchanged, and the targets follow them."""
    learner = learner_of(recipe, tau=0.25)
    critics, actor, target = (
        part.detach().clone() for part in (learner.critics.flat, learner.flat, learner.critics.flat_target)
    )
    assert torch.equal(critics, target)

    learner.update_actor(
        batch_of(), *([np.random.default_rng(0).normal(size=(20, 2))] if recipe is sac else [])
    )

    assert torch.equal(learner.critics.flat, critics)
    assert not torch.equal(learner.flat, actor)
    noise = torch.randn(20, 2)
    learner.update_critics(batch_of(), noise.numpy())
    learner.critics.soft_update(0.25)
    torch.testing.assert_close(
        learner.critics.flat_target.data, 0.75 * target + 0.25 * learner.critics.flat.data
    )


def test_temperature_rises_below_the_target_entropy_and_falls_above() -> None:
    """The temperature rises where the entropy is below its target and falls where it is above."""
    for wanted, rises in ((50.0, True), (-50.0, False)):
        learner = learner_of(sac, target_entropy=wanted)

        learner.update_actor(batch_of(), np.random.default_rng(0).normal(size=(20, 2)))

        assert (learner.log_temperature.item() > 0) == rises


def test_batched_mlps_equal_single_ones_numpy_and_the_served() -> None:
    """Batched MLPs equal single ones, numpy's, and those that are served."""
    several, rows = BatchedMLP(3, (4, 8, 2), "relu"), torch.randn(10, 4)
    flat = flatten(several)

    together = several(rows)

    assert flat.numel() == 3 * (4 * 8 + 8 + 8 * 2 + 2)
    for index in range(3):
        np.testing.assert_allclose(
            forward(several.numpy_layers(index), "relu", rows.numpy()),
            together[index].detach().numpy(),
            atol=1e-6,
        )
        torch.testing.assert_close(torch.nn.Sequential(*several.to_modules(index))(rows), together[index])


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_that_only_reset_are_left_out_and_a_cut_is_no_end(recipe: Any) -> None:
    learner = learner_of(recipe, num_envs=2, train_freq=10, learning_starts=100)

    learner.iteration()

    kept = learner.collector.buffer.rows[: len(learner.collector.buffer)]
    *_, actions, rewards, terminated = torch.split(kept, learner.collector.buffer.widths, 1)
    assert len(kept) == learner.envs.num_timesteps == 16  # of 2 x 10 rows, every fifth only resets
    assert bool((rewards < 0).all())
    assert not terminated.any()
    assert actions.abs().max() <= 1
    assert learner.envs.num_episodes == 4


QUICK: dict[str, Any] = {
    "hidden": (32, 32),
    "n_eval_episodes": 5,
    "evaluation_episodes": 20,
    "batch_size": 64,
    "gamma": 0.5,
}


@pytest.fixture(scope="module", params=RECIPES)
def aiming(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training."""
    settings = request.param.Settings(
        environment="Aiming-v0", total_timesteps=700, learning_starts=200, learning_rate=3e-3, **QUICK
    )
    return request.param.train(settings, Run(tmp_path_factory.mktemp("report")))


def test_random_actions_before_learning_are_held() -> None:
    learner = learner_of(sac, num_envs=2, train_freq=3, random_action_repeat=3, learning_starts=100)

    for _ in range(2):
        learner.collector.collect(lambda rows: pytest.fail("nothing was learned yet"))

    first, second, third, following = (
        rows[:, 4:6].tolist() for rows in learner.collector.buffer.rows[:8].split(2)
    )
    assert first == second == third != following
    assert first[0] != first[1]


def test_actions_find_their_place_within_the_bounds(aiming: Trained) -> None:
    assert aiming.metrics["mean_return"] > -0.5  # the middle of the bounds earns -2


def test_the_handler_earns_the_reported_returns(aiming: Trained, tmp_path: Path) -> None:
    handler = policy_predictor(aiming, tmp_path)

    def act(observations: np.ndarray) -> np.ndarray:
        (found,) = handler.answer_rows(
            [({"body": json.dumps({"instances": observations.tolist()}).encode()}, {})]
        )
        return np.array([one["action"] for one in found["predictions"]])

    returns = episode_returns(act, "Aiming-v0", 20, EVALUATION_SEED)

    assert returns.mean() == pytest.approx(aiming.metrics["mean_return"], rel=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_served_acts_as_what_learned(recipe: Any) -> None:
    learner, observations = (
        learner_of(recipe),
        np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32),
    )
    policy = learner.policy.build_graph()
    inputs = [torch.from_numpy(observations), *([torch.zeros(50, 2)] if recipe is sac else [])]

    np.testing.assert_allclose(
        policy(*inputs)["action"].detach().numpy(), learner.policy.act(observations), atol=1e-5
    )


def test_draws_of_the_graph_have_the_distribution_of_the_training() -> None:
    learner = learner_of(sac)
    policy, features = learner.policy.build_graph(), torch.tensor([[0.3, -0.2]]).expand(20_000, -1)
    noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))

    served = policy(features, noise)["action"].detach().reshape(-1, 2).numpy()

    explored = learner.policy.to_environment(learner.policy.explore(features.numpy(), noise.numpy())).reshape(
        -1, 2
    )
    np.testing.assert_allclose(served, explored, atol=1e-5)
    assert served.std(0).min() > 0.1


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_learns_the_same_policy_and_another_seed_another(recipe: Any, tmp_path: Path) -> None:
    settings = recipe.Settings(
        environment="Aiming-v0", total_timesteps=90, learning_starts=50, **{**QUICK, "evaluation_episodes": 2}
    )

    check_seed_decides(recipe, settings, tmp_path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_actions_that_do_not_fit_are_refused(recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="finite bounds"):
        recipe.train(recipe.Settings(environment="CartPole-v1"), Run(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "steps"), [(sac, 10_000), (mpc, 3000)])
def test_pendulum_is_held_up(recipe: Any, steps: int, tmp_path: Path) -> None:
    trained = recipe.train(recipe.Settings(total_timesteps=steps, target_return=-200), Run(tmp_path))

    assert trained.metrics["mean_return"] > -200
