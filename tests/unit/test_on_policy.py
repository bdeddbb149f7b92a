"""Policy gradients: advantages and losses against slow references, ends against cuts, and what is handed over."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, Normal

from marina.errors import CallError
from training import a2c, ppo, reinforce
from training.policies import rollout
from training.policies.graphs import Features
from training.policies.observations import ObservationEncoder, RunningStatistics
from training.policies.on_policy import ActorCritic, Ascent, OnPolicySettings, Rollout, Rollouts, generalised_advantages
from training.policies.small_networks import Adam, small_network_arithmetic
from training.trained import Trained

from bundle_runtimes import TorchRuntime
from policy_handler import PolicyHandler


class Counting(gymnasium.Env[np.ndarray, Any]):
    """Observes the step that it is in; every step earns 1. Ends after 3 steps by itself, or is cut off there."""

    observation_space: spaces.Space[Any] = spaces.Box(-10, 10, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    cut = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        done = self.steps == 3
        return np.full(1, self.steps, np.float32), 1.0, done and not self.cut, done and self.cut, {}


class CountingCut(Counting):
    cut = True


class Aim(Counting):
    """One step long: earns minus the squared distance of the action, a matrix with bounds of its own, from a place in it."""

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(np.array([[-1, 0]], np.float32), np.array([[1, 3]], np.float32))
    place = np.array([[0.5, 2.0]])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.normal(5, 2, 2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return np.zeros(2, np.float32), -float(np.square(action - self.place).sum()), True, False, {}


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Counting, CountingCut, Aim):
            spec = gymnasium.envs.registration.EnvSpec(f"{kind.__name__}-v0", entry_point=kind)
            patch.setitem(gymnasium.registry, spec.id, spec)
        yield


def agent_for(environment: str, **options: Any) -> ActorCritic:
    """An untrained agent."""
    settings = OnPolicySettings(environment=environment, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ActorCritic(settings, rollout.observation_config(environment), rollout.action_config(environment))


def episodes(steps: int = 12, copies: int = 3) -> tuple[np.ndarray, ...]:
    """Rewards, values, terminated and ended of made-up experience."""
    random = np.random.default_rng(0)
    terminated = random.random((steps, copies)) < 0.15
    ended = terminated | (random.random((steps, copies)) < 0.15)
    assert (ended & ~terminated).any()
    return random.normal(size=(steps, copies)), random.normal(size=(steps + 1, copies)), terminated, ended


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

    found = generalised_advantages(rewards, values, terminated, ended, 0.9, gae_lambda)

    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_lambda_0_gives_the_td_error_and_lambda_1_the_discounted_return_minus_the_value() -> None:
    rewards, values, terminated, ended = episodes()
    following = np.where(terminated, 0, values[1:])
    returns, after = np.zeros_like(rewards), values[-1]
    for step in reversed(range(12)):
        after = returns[step] = rewards[step] + 0.9 * np.where(ended[step], following[step], after)

    td = generalised_advantages(rewards, values, terminated, ended, 0.9, 0.0)
    monte_carlo = generalised_advantages(rewards, values, terminated, ended, 0.9, 1.0)

    np.testing.assert_allclose(td, rewards + 0.9 * following - values[:-1])
    np.testing.assert_allclose(monte_carlo, returns - values[:-1])


@pytest.mark.parametrize(("environment", "last"), [("Counting-v0", 0.0), ("CountingCut-v0", 7.0)])
def test_a_termination_is_worth_nothing_and_a_cut_what_the_critic_says_of_the_true_last_observation(environment: str, last: float) -> None:
    agent = agent_for(environment)
    agent.forget_values()
    with torch.no_grad():
        for weight in agent.networks.weights:
            weight[1].zero_()
        agent.networks.biases[-1][1].fill_(7.0)  # the critic says 7 everywhere
    rollouts = Rollouts(agent, OnPolicySettings(environment=environment, copies=2, horizon=8, gamma=0.5, gae_lambda=1.0), 0)

    found = rollouts.collect()

    # the rows that only reset, one after every third, are left out; of 8 steps the last one begins nothing new
    returns = [1 + 0.5 * (1 + 0.5 * (1 + 0.5 * last)), 1 + 0.5 * (1 + 0.5 * last), 1 + 0.5 * last]
    assert found.features.flatten().tolist() == [0, 0, 1, 1, 2, 2] * 2
    np.testing.assert_allclose(found.returns.reshape(2, 3, 2)[:, :, 0], [returns] * 2, rtol=1e-6)
    assert rollouts.experience.transitions == 12
    assert rollouts.experience.episodes == 4
    assert rollouts.experience.last_return == 3
    rollouts.experience.vector.close()


def test_whole_episodes_are_one_of_every_copy_and_their_returns_what_came() -> None:
    agent = agent_for("Counting-v0")
    agent.forget_values()
    settings = OnPolicySettings(environment="Counting-v0", copies=2, horizon=10, gamma=0.5, gae_lambda=1.0)
    rollouts = Rollouts(agent, settings, 0, whole_episodes=True)

    for _ in range(2):
        found = rollouts.collect()

        assert found.features.flatten().tolist() == [0, 0, 1, 1, 2, 2]
        assert found.advantages.tolist() == [1.75, 1.75, 1.5, 1.5, 1, 1]


def test_the_derivative_of_the_clipped_objective_is_that_of_a_loop_over_the_cases() -> None:
    random = np.random.default_rng(0)
    log_ratios, advantages = 0.5 * random.normal(size=200), random.normal(size=200)
    variable = torch.tensor(log_ratios, requires_grad=True)
    losses = []
    for log_ratio, advantage in zip(variable, advantages.tolist(), strict=True):
        ratio = log_ratio.exp()
        clipped = ratio if 0.8 < ratio.item() < 1.2 else torch.tensor(1.2 if ratio.item() > 1 else 0.8, dtype=torch.float64)
        losses.append(-min(ratio * advantage, clipped * advantage, key=lambda one: one.item()))
    torch.stack(losses).mean().backward()

    found = ppo.by_log_probability(log_ratios, advantages, 0.2)

    assert variable.grad is not None
    np.testing.assert_allclose(found, variable.grad.numpy(), rtol=1e-12)


def test_nothing_pulls_where_an_action_has_moved_far_enough() -> None:
    found = ppo.by_log_probability(np.array([0.5, 0.5, -0.5, -0.5]), np.array([1.0, -1.0, 1.0, -1.0]), 0.2)

    assert (found != 0).tolist() == [False, True, True, False]


@pytest.mark.parametrize("clip", [None, 0.3])
def test_the_derivative_of_the_critics_loss_is_torchs(clip: float | None) -> None:
    random = np.random.default_rng(0)
    values, before, returns = random.normal(size=(3, 100))
    variable = torch.tensor(values, requires_grad=True)
    losses = (variable - torch.tensor(returns)) ** 2
    if clip is not None:
        around = torch.tensor(before) + (variable - torch.tensor(before)).clamp(-clip, clip)
        losses = torch.maximum(losses, (around - torch.tensor(returns)) ** 2)
    (0.5 * losses.mean()).backward()

    assert variable.grad is not None
    np.testing.assert_allclose(ppo.by_value(values, before, returns, clip), variable.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("environment", ["Counting-v0", "Aim-v0"])
def test_gradients_written_by_hand_are_those_of_autograd(environment: str, activation: str) -> None:
    settings = OnPolicySettings(environment=environment, activation=activation, hidden=(16, 8), entropy_weight=0.1, gradient_norm=0)
    agent = agent_for(environment, activation=activation, hidden=(16, 8), log_std=-0.5)
    random = np.random.default_rng(0)
    features = random.normal(size=(30, agent.encoder.width)).astype(np.float32)
    actions = random.integers(2, size=(30, 1)) if agent.branches else random.normal(size=(30, 2)).astype(np.float32)
    by_log_probability, by_value = random.normal(size=(2, 30)).astype(np.float32)
    zeros = np.zeros(30, np.float32)
    with torch.enable_grad():
        scores, values = agent.networks(torch.from_numpy(features)).unbind(0)
        distribution = Categorical(logits=scores) if agent.log_std is None else Normal(scores, agent.log_std.exp())
        taken = torch.from_numpy(actions if agent.log_std is not None else actions[:, 0])
        logarithms, entropies = distribution.log_prob(taken), distribution.entropy()
        if agent.log_std is not None:
            logarithms, entropies = logarithms.sum(1), entropies.sum(1)
        loss = logarithms @ torch.from_numpy(by_log_probability) + values[:, 0] @ torch.from_numpy(by_value) - 0.1 * entropies.mean()
        expected = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(agent.parameters()))])
    ascent, before = Ascent(agent, settings), []
    ascent.adam.step = lambda gradient, _: before.append(gradient.copy())  # type: ignore[method-assign]

    found, judged = ascent.judge(Rollout(features, actions, zeros, zeros, zeros, zeros))
    entropy = ascent.step(by_log_probability, by_value)

    np.testing.assert_allclose(found, logarithms.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(judged, values[:, 0].detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(before[0], expected.numpy(), rtol=1e-3, atol=1e-5)
    assert entropy == pytest.approx(entropies.mean().item(), rel=1e-5)


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
    running = RunningStatistics(4)

    for part in np.split(rows, [1, 7, 7, 300]):
        running.update(part)

    np.testing.assert_allclose(running.mean, rows.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(running.var, rows.var(0, np.float64), rtol=1e-9)


def test_normalisation_in_the_graph_is_exactly_that_of_the_training() -> None:
    config = rollout.observation_config("Aim-v0")
    encoder = ObservationEncoder(config, normalise=True)
    encoder.update(np.random.default_rng(0).normal(1000, 0.01, (50, 2)))
    rows = np.random.default_rng(1).normal(1000, 1, (20, 2)).astype(np.float32)

    inside = Features(config, encoder.statistics())(torch.from_numpy(rows)).numpy()

    np.testing.assert_array_equal(inside, encoder(rows))
    assert np.abs(inside).max() == 10  # clipped


def test_states_are_one_hot_and_never_normalised() -> None:
    encoder = ObservationEncoder({"dtype": "int64", "high": 3, "shape": []}, normalise=True)

    assert encoder(np.array([2, 0])).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert encoder.statistics() is None


QUICK = {"screening_episodes": 5, "evaluation_episodes": 20}


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short training by PPO."""
    report = tmp_path_factory.mktemp("report")
    return ppo.train(ppo.Settings(target_return=300, screening_every=1024, **QUICK), 4, report)


@pytest.fixture(scope="module")
def aiming(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same for continuous actions with bounds, and observations far from 0."""
    options = {"normalise_observations": True, "scale_rewards": True, "log_std": -0.5, "learning_rate": 3e-3, **QUICK}
    settings = ppo.Settings(environment="Aim-v0", steps=12_000, epochs=5, target_return=-0.02, **options)
    return ppo.train(settings, 0, tmp_path_factory.mktemp("report"))


def test_a_short_training_balances_for_long(cartpole: Trained) -> None:
    assert cartpole.metrics["mean_return"] > 300  # a random policy earns 22, 500 is the most
    assert cartpole.data["transitions"] == cartpole.metrics["steps"]


def test_continuous_actions_find_their_place_within_the_bounds(aiming: Trained) -> None:
    assert aiming.metrics["mean_return"] > -0.05  # the middle of the bounds earns -0.5
    assert aiming.postprocess["action_space"]["shape"] == [1, 2]


def served(trained: Trained, folder: Path) -> PolicyHandler:
    """The handler that answers for it."""
    for name, content in (("preprocess", trained.preprocess), ("postprocess", trained.postprocess)):
        (folder / f"{name}_config.json").write_text(json.dumps(content))
    (folder / "model_metadata.json").write_text('{"name": "policy", "version": "1.0", "max_batch": 64}')
    handler = PolicyHandler()
    handler.read_configs(folder)
    handler.model = TorchRuntime(trained.module)
    return handler


@pytest.mark.parametrize("name", ["cartpole", "aiming"])
def test_the_handler_earns_the_reported_returns(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    trained: Trained = request.getfixturevalue(name)
    handler = served(trained, tmp_path)

    def act(observations: np.ndarray) -> np.ndarray:
        body = json.dumps({"instances": observations.tolist()}).encode()
        (answer,) = handler.answer_rows([({"body": body}, {})])
        assert isinstance(answer, dict), answer
        return np.array([one["action"] for one in answer["predictions"]])

    returns = rollout.episode_returns(act, trained.preprocess["environment"], 20, rollout.EVALUATION_SEED)

    assert returns.mean() == trained.metrics["mean_return"]


@pytest.mark.parametrize("name", ["cartpole", "aiming"])
def test_the_exported_graph_equals_the_trained_one_for_any_batch(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    trained: Trained = request.getfixturevalue(name)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(trained.module, trained.example, dynamic_shapes=tuple(batch for _ in trained.example), strict=False)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()

    for size in (1, 3, 64):
        inputs = [
            torch.randn(size, *part.shape[1:]).to(part.dtype) if part.dtype != torch.bool else part[:1].expand(size, -1)
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

    assert float(discrete["action"].float().mean()) == pytest.approx(discrete["probabilities"][0, 1].item(), abs=0.012)
    assert bool((continuous >= torch.tensor([-1, 0])).all())
    assert bool((continuous <= torch.tensor([1, 3])).all())
    assert continuous.median(0).values.tolist() == pytest.approx(mean.tolist(), abs=0.03)


def test_an_update_starts_from_ratios_of_one() -> None:
    settings = ppo.Settings(environment="Aim-v0", copies=4, horizon=8, normalise_observations=True)
    with small_network_arithmetic(0):
        learner = ppo.Learner(settings, rollout.observation_config("Aim-v0"), rollout.action_config("Aim-v0"), 0)
        for _ in range(3):
            gathered = learner.rollouts.collect()
            log_probabilities, values = learner.ascent.judge(gathered)
            learner.step(gathered)

            np.testing.assert_allclose(log_probabilities, gathered.log_probabilities, atol=1e-5)
            np.testing.assert_allclose(values, gathered.values, atol=1e-5)


def test_beyond_the_divergence_no_further_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    step = ppo.Learner.step
    monkeypatch.setattr(ppo.Learner, "step", lambda self, batch: taken.append(1) or step(self, batch))
    settings = ppo.Settings(copies=8, horizon=32, batch_size=32, learning_rate=0.1, target_kl=0.01)
    with small_network_arithmetic(0):
        ppo.Learner(settings, rollout.observation_config("CartPole-v1"), rollout.action_config("CartPole-v1"), 0).phase()

    assert 2 <= len(taken) < 20  # of 80


@pytest.mark.parametrize("recipe", [ppo, a2c, reinforce])
def test_the_same_seed_learns_the_same_policy_and_another_seed_another(recipe: Any, tmp_path: Path) -> None:
    settings = recipe.Settings(steps=1000, screening_every=10**6, screening_episodes=2, evaluation_episodes=2, copies=4)
    state = torch.get_rng_state()

    first, again, other = (recipe.train(settings, seed, tmp_path) for seed in (3, 3, 4))

    weights = [torch.cat([one.flatten() for one in trained.module.parameters()]) for trained in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.data["fingerprint"] == again.data["fingerprint"] != other.data["fingerprint"]
    assert torch.equal(state, torch.get_rng_state())
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "episode.png"}


@pytest.mark.parametrize(("recipe", "options"), [(a2c, {}), (reinforce, {}), (reinforce, {"baseline": False})])
def test_the_simpler_gradients_do_better_than_chance(recipe: Any, options: dict[str, Any], tmp_path: Path) -> None:
    trained = recipe.train(recipe.Settings(steps=60_000, target_return=150, **options, **QUICK), 0, tmp_path)

    assert trained.metrics["mean_return"] > 100  # a random policy earns 22


def test_ctrl_c_hands_over_the_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases, phase = [], ppo.Learner.phase

    def interrupted(self: ppo.Learner) -> tuple[float, float]:
        phases.append(1)
        if len(phases) == 3:
            raise KeyboardInterrupt
        return phase(self)

    monkeypatch.setattr(ppo.Learner, "phase", interrupted)

    trained = ppo.train(ppo.Settings(screening_every=1, **QUICK), 0, tmp_path)

    assert trained.training["interrupted"]
    assert trained.metrics["steps"] < 3000


def test_ctrl_c_before_the_first_look_ends_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo.Learner, "phase", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        ppo.train(ppo.Settings(**QUICK), 0, tmp_path)

    assert list(tmp_path.iterdir()) == []
    assert (torch.full((1,), 1e-40) * 1).item() > 0


def test_actions_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Counting, "action_space", spaces.MultiBinary(3))

    with pytest.raises(CallError, match="MultiDiscrete that start at 0"):
        ppo.train(ppo.Settings(environment="Counting-v0"), 0, tmp_path)


def test_the_best_policy_is_a_snapshot() -> None:
    agent = agent_for("Counting-v0", normalise_observations=True)
    snapshot = copy.deepcopy(agent)
    with torch.no_grad():
        agent.networks.weights[0].add_(1)
    agent.encoder.update(np.ones((5, 1)))

    assert not torch.equal(agent.networks.weights[0], snapshot.networks.weights[0])
    assert snapshot.encoder.statistics() is None
