"""Policy gradients: advantages, losses and gradients against slow references; termination and truncation."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from tests.support.toy_environments import Aim, Counting, CountingCut, registered
from training.policies.buffers.rollout import RolloutBatch, compute_gae
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.graphs.features import ObservationFeatures
from training.policies.loops.on_policy import OnPolicySettings, PolicyOptimizer, RolloutCollector, make_agent
from training.policies.networks.actor_critic import ActorCritic
from training.policies.networks.encoders import ObservationEncoder, RunningMeanStd
from training.policies.networks.optim import Adam, seeded_single_thread
from training.policies.networks.reference_losses import (
    action_distribution,
    log_prob,
    mean_entropy,
    policy_gradient_loss,
    ppo_loss,
    value_loss,
)
from training.policies.spaces import ObservationSpec
from training.recipes import ppo


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with registered(Counting, CountingCut, Aim):
        yield


def agent_for(environment: str, **options: Any) -> ActorCritic:
    """An untrained agent."""
    settings = OnPolicySettings(environment=environment, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_agent(settings, observation_spec(environment), action_spec(environment))


def episodes(steps: int = 12, num_envs: int = 3) -> tuple[np.ndarray, ...]:
    """Rewards, values, terminated and ended of made-up envs."""
    random = np.random.default_rng(0)
    terminated = random.random((steps, num_envs)) < 0.15
    ended = terminated | (random.random((steps, num_envs)) < 0.15)
    assert (ended & ~terminated).any()
    return random.normal(size=(steps, num_envs)), random.normal(size=(steps + 1, num_envs)), terminated, ended


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_advantages_equal_the_sums_of_the_paper(gae_lambda: float) -> None:
    rewards, values, terminated, ended = episodes()
    expected = np.zeros_like(rewards)
    for step in range(12):
        for one in range(3):
            weight = 1.0
            for later in range(step, 12):
                following = 0 if terminated[later, one] else 0.9 * values[later + 1, one]
                expected[step, one] += weight * (rewards[later, one] + following - values[later, one])
                weight *= 0.9 * gae_lambda
                if ended[later, one]:
                    break

    found = compute_gae(rewards, values, terminated, ended, 0.9, gae_lambda)

    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_gae_limits_are_td_error_and_return_minus_value() -> None:
    """Lambda 0 gives the TD error, lambda 1 the discounted return minus the value."""
    rewards, values, terminated, ended = episodes()
    following = np.where(terminated, 0, values[1:])
    returns, after = np.zeros_like(rewards), values[-1]
    for step in reversed(range(12)):
        after = returns[step] = rewards[step] + 0.9 * np.where(ended[step], following[step], after)

    td = compute_gae(rewards, values, terminated, ended, 0.9, 0.0)
    monte_carlo = compute_gae(rewards, values, terminated, ended, 0.9, 1.0)

    np.testing.assert_allclose(td, rewards + 0.9 * following - values[:-1])
    np.testing.assert_allclose(monte_carlo, returns - values[:-1])


@pytest.mark.parametrize(("environment", "last"), [("Counting-v0", 0.0), ("CountingCut-v0", 7.0)])
def test_bootstrap_is_zero_at_termination_and_a_value_at_truncation(environment: str, last: float) -> None:
    """A termination is worth zero, a truncation what the critic says of the true last observation."""
    agent = agent_for(environment)
    agent.zero_value_head()
    with torch.no_grad():
        for weight in agent.networks.weights:
            weight[1].zero_()
        agent.networks.biases[-1][1].fill_(7.0)  # the critic says 7 everywhere
    rollouts = RolloutCollector(
        agent, OnPolicySettings(environment=environment, num_envs=2, n_steps=8, gamma=0.5, gae_lambda=1.0), 0
    )

    found = rollouts.collect()

    # the rows that only reset, one after every third, are left out; of 8 steps the last one begins nothing
    # new
    returns = [1 + 0.5 * (1 + 0.5 * (1 + 0.5 * last)), 1 + 0.5 * (1 + 0.5 * last), 1 + 0.5 * last]
    assert found.features.flatten().tolist() == [0, 0, 1, 1, 2, 2] * 2
    np.testing.assert_allclose(found.returns.reshape(2, 3, 2)[:, :, 0], [returns] * 2, rtol=1e-6)
    assert rollouts.envs.num_timesteps == 12
    assert rollouts.envs.num_episodes == 4
    assert rollouts.envs.last_return == 3
    rollouts.envs.vector_env.close()


def test_whole_episodes_are_one_of_every_copy_and_their_returns_what_came() -> None:
    agent = agent_for("Counting-v0")
    agent.zero_value_head()
    settings = OnPolicySettings(environment="Counting-v0", num_envs=2, n_steps=10, gamma=0.5, gae_lambda=1.0)
    rollouts = RolloutCollector(agent, settings, 0, whole_episodes=True)

    for _ in range(2):
        found = rollouts.collect()

        assert found.features.flatten().tolist() == [0, 0, 1, 1, 2, 2]
        assert found.advantages.tolist() == [1.75, 1.75, 1.5, 1.5, 1, 1]


def test_clipped_objective_grad_is_that_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    old, log_ratios, advantages = rng.normal(size=200), 0.5 * rng.normal(size=200), rng.normal(size=200)
    log_probs = torch.tensor(old + log_ratios, requires_grad=True)
    ppo_loss(log_probs, torch.tensor(old), torch.tensor(advantages), 0.2).backward()

    found = ppo.clipped_objective_grad(log_probs.detach().numpy() - old, advantages, 0.2)

    assert log_probs.grad is not None
    np.testing.assert_allclose(found, log_probs.grad.numpy(), rtol=1e-9)


def test_nothing_pulls_where_an_action_has_moved_far_enough() -> None:
    found = ppo.clipped_objective_grad(
        np.array([0.5, 0.5, -0.5, -0.5]), np.array([1.0, -1.0, 1.0, -1.0]), 0.2
    )

    assert (found != 0).tolist() == [False, True, True, False]


@pytest.mark.parametrize("clip_range", [None, 0.3])
def test_value_loss_grad_is_that_of_the_reference(clip_range: float | None) -> None:
    random = np.random.default_rng(0)
    values, before, returns = random.normal(size=(3, 100))
    variable = torch.tensor(values, requires_grad=True)
    value_loss(variable, torch.tensor(returns), torch.tensor(before), clip_range).backward()

    assert variable.grad is not None
    np.testing.assert_allclose(
        ppo.value_loss_grad(values, before, returns, clip_range), variable.grad.numpy(), rtol=1e-12
    )


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("environment", ["Counting-v0", "Aim-v0"])
def test_gradients_written_by_hand_are_those_of_autograd(environment: str, activation: str) -> None:
    settings = OnPolicySettings(
        environment=environment, activation=activation, hidden=(16, 8), ent_coef=0.1, max_grad_norm=0
    )
    agent = agent_for(environment, activation=activation, hidden=(16, 8), log_std_init=-0.5)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, agent.encoder.width)).astype(np.float32)
    actions = rng.integers(2, size=(30, 1)) if agent.branches else rng.normal(size=(30, 2)).astype(np.float32)
    advantages, returns = rng.normal(size=(2, 30)).astype(np.float32)
    with torch.enable_grad():
        outputs, values = agent.networks(torch.from_numpy(features)).unbind(0)
        distribution = action_distribution(outputs, agent.log_std, agent.action_spec.branch_sizes)
        log_probs, entropy = log_prob(distribution, torch.from_numpy(actions)), mean_entropy(distribution)
        critic_loss = value_loss(values[:, 0], torch.from_numpy(returns))
        loss = policy_gradient_loss(log_probs, torch.from_numpy(advantages)) + critic_loss - 0.1 * entropy
        grads = torch.autograd.grad(loss, list(agent.parameters()))
    expected = torch.cat([grad.flatten() for grad in grads])
    optimizer, taken = PolicyOptimizer(agent, settings), []
    optimizer.adam.step = lambda grad, _: taken.append(grad.copy())  # type: ignore[method-assign]

    zeros = np.zeros(30, np.float32)
    found, found_values = optimizer.evaluate_actions(
        RolloutBatch(features, actions, zeros, zeros, advantages, returns)
    )
    found_entropy = optimizer.step(-advantages / 30, (found_values - returns) / 30)

    np.testing.assert_allclose(found, log_probs.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found_values, values[:, 0].detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(taken[0], expected.numpy(), rtol=1e-3, atol=1e-6)
    assert found_entropy == pytest.approx(entropy.item(), rel=1e-5)


def test_adam_is_that_of_torch() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(50, generator=random)
    reference = torch.nn.Parameter(values.clone())
    theirs, ours = torch.optim.Adam([reference], lr=0.01, eps=1e-5), Adam(values.numpy())

    for _ in range(20):
        gradient = torch.randn(50, generator=random)
        reference.grad = gradient.clone()
        theirs.step()
        ours.step(gradient.numpy(), 0.01)

    torch.testing.assert_close(values, reference.detach(), rtol=1e-5, atol=1e-6)


def test_the_approximate_divergence_is_the_true_one_on_average() -> None:
    old, new = Normal(0.0, 1.0), Normal(0.3, 1.1)
    draws = old.sample((400_000,))

    found = ppo.approximate_kl((new.log_prob(draws) - old.log_prob(draws)).numpy())

    assert found == pytest.approx(float(torch.distributions.kl_divergence(old, new)), abs=2e-3)


def test_statistics_of_batches_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(1000, 3, (500, 4)).astype(np.float32)
    running = RunningMeanStd(4)

    for part in np.split(rows, [1, 7, 7, 300]):
        running.update(part)

    np.testing.assert_allclose(running.mean, rows.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(running.var, rows.var(0, np.float64), rtol=1e-9)


def test_normalisation_in_the_graph_is_exactly_that_of_the_training() -> None:
    config = observation_spec("Aim-v0")
    encoder = ObservationEncoder(config, normalize=True)
    encoder.update(np.random.default_rng(0).normal(1000, 0.01, (50, 2)))
    rows = np.random.default_rng(1).normal(1000, 1, (20, 2)).astype(np.float32)

    inside = ObservationFeatures(config, encoder.statistics())(torch.from_numpy(rows)).numpy()

    np.testing.assert_array_equal(inside, encoder(rows))
    assert np.abs(inside).max() == 10  # clipped


def test_states_are_one_hot_and_never_normalised() -> None:
    encoder = ObservationEncoder(ObservationSpec((), "int64", 0, 3), normalize=True)

    assert encoder(np.array([2, 0])).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert encoder.statistics() is None


def test_an_update_starts_from_ratios_of_one() -> None:
    settings = ppo.Settings(environment="Aim-v0", num_envs=4, n_steps=8, normalize_observations=True)
    with seeded_single_thread(0):
        learner = ppo.Learner(settings, observation_spec("Aim-v0"), action_spec("Aim-v0"), 0)
        for _ in range(3):
            gathered = learner.rollouts.collect()
            log_probabilities, values = learner.optimizer.evaluate_actions(gathered)
            learner.step(gathered)

            np.testing.assert_allclose(log_probabilities, gathered.log_probs, atol=1e-5)
            np.testing.assert_allclose(values, gathered.values, atol=1e-5)


def test_beyond_the_divergence_no_further_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    step = ppo.Learner.step
    monkeypatch.setattr(ppo.Learner, "step", lambda self, batch: taken.append(1) or step(self, batch))
    settings = ppo.Settings(num_envs=8, n_steps=32, batch_size=32, learning_rate=0.1, target_kl=0.01)
    with seeded_single_thread(0):
        ppo.Learner(settings, observation_spec("CartPole-v1"), action_spec("CartPole-v1"), 0).iteration()

    assert 2 <= len(taken) < 20  # of 80


def test_the_best_policy_is_a_snapshot() -> None:
    agent = agent_for("Counting-v0", normalize_observations=True)
    snapshot = copy.deepcopy(agent)
    with torch.no_grad():
        agent.networks.weights[0].add_(1)
    agent.encoder.update(np.ones((5, 1)))

    assert not torch.equal(agent.networks.weights[0], snapshot.networks.weights[0])
    assert snapshot.encoder.statistics() is None
