"""TRPO: products and steps against dense algebra and autograd, the trust region kept at every update, and what is handed over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from training import trpo
from training.policies import rollout
from training.policies.natural_gradient import Actor, conjugate_gradient
from training.policies.on_policy import ActorCritic, OnPolicySettings
from training.policies.small_networks import Arrays, small_network_arithmetic

ENVIRONMENTS = ["CartPole-v1", "Pendulum-v1"]
Scores = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def agent_for(environment: str, activation: Literal["tanh", "relu"] = "tanh") -> ActorCritic:
    """An untrained agent of few parameters whose actions are not all alike."""
    settings = OnPolicySettings(environment=environment, hidden=(6, 5), activation=activation, log_std=-0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        agent = ActorCritic(settings, rollout.observation_config(environment), rollout.action_config(environment))
        with torch.no_grad():
            for parameter in agent.networks.parameters():
                parameter.copy_(0.7 * torch.randn_like(parameter))
    return agent


def features_for(agent: ActorCritic, rows: int = 40) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(0).normal(size=(rows, agent.encoder.width)).astype(np.float32)
    return found


def by_torch(actor: Actor, features: np.ndarray) -> Scores:
    """The actor's scores and log_std as a function of its parameters, in float64, by torch alone."""
    activate = {"tanh": torch.tanh, "relu": torch.relu}[actor.agent.activation]
    shapes = [part.shape for part in actor.parts]

    def scores(parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pieces = torch.split(parameters, [part.size for part in actor.parts])
        *layers, log_std = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        rows = torch.from_numpy(features).double()
        for depth in range(0, len(layers), 2):
            rows = rows @ layers[depth] + layers[depth + 1]
            rows = activate(rows) if depth < len(layers) - 2 else rows
        return rows, log_std

    return scores


def distribution(scores: torch.Tensor, log_std: torch.Tensor) -> Categorical | Normal:
    return Normal(scores, log_std.exp()) if len(log_std) else Categorical(logits=scores)


@pytest.mark.parametrize("size", [1, 7, 30])
def test_conjugate_gradients_solve_what_a_dense_solver_solves(size: int) -> None:
    random = np.random.default_rng(size)
    root, target = random.normal(size=(size, size)), random.normal(size=size)
    matrix = root @ root.T + 0.5 * np.eye(size)

    found = conjugate_gradient(lambda vector: matrix @ vector, target, 3 * size)

    np.testing.assert_allclose(found, np.linalg.solve(matrix, target), rtol=1e-6, atol=1e-8)


def test_the_gradient_of_nothing_leads_nowhere() -> None:
    assert conjugate_gradient(lambda vector: 2 * vector, np.zeros(3), 10).tolist() == [0, 0, 0]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_fisher_products_are_those_with_the_hessian_of_the_divergence(environment: str, activation: Literal["tanh", "relu"]) -> None:
    agent = agent_for(environment, activation)
    actor, features = Actor(agent), features_for(agent)
    scores = by_torch(actor, features)
    parameters = torch.from_numpy(actor.parameters)
    old = distribution(*(part.detach() for part in scores(parameters)))

    def divergence(moved: torch.Tensor) -> torch.Tensor:
        return kl_divergence(old, distribution(*scores(moved))).reshape(len(features), -1).sum(1).mean()

    hessian = torch.autograd.functional.hessian(divergence, parameters).numpy()  # type: ignore[no-untyped-call]
    actor.stand(features)
    found = np.stack([actor.fisher_product(direction) for direction in np.eye(len(parameters))])

    np.testing.assert_allclose(found, hessian, rtol=1e-4, atol=1e-5)
    damped = found + 0.1 * np.eye(len(found))
    target = np.random.default_rng(1).normal(size=len(found))
    solved = conjugate_gradient(lambda vector: actor.fisher_product(vector) + 0.1 * vector, target, 2 * len(found))
    np.testing.assert_allclose(solved, np.linalg.solve(damped, target), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_gradients_and_divergences_are_torchs(environment: str) -> None:
    agent, random = agent_for(environment), np.random.default_rng(2)
    actor, features = Actor(agent), features_for(agent)
    scores, start = by_torch(actor, features), torch.tensor(actor.parameters, requires_grad=True)
    actions = random.integers(2, size=(40, 1)) if agent.branches else random.normal(size=(40, 1)).astype(np.float32)
    weights = random.normal(size=40)
    old = distribution(*scores(start))
    taken = torch.from_numpy(actions[:, 0] if agent.branches else actions)
    chances = old.log_prob(taken).reshape(40, -1).sum(1)  # type: ignore[no-untyped-call]
    (expected,) = torch.autograd.grad((chances * torch.from_numpy(weights)).sum(), start)
    away = start.detach() + 0.05 * torch.from_numpy(random.normal(size=len(start)))

    actor.stand(features)
    gradient = actor.gradient(actions, weights)
    actor.move_to(away.numpy())

    apart = kl_divergence(old, distribution(*scores(away))).reshape(40, -1).sum(1).mean().item()
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-3, atol=1e-4)
    assert actor.divergence() == pytest.approx(apart, rel=1e-3)
    np.testing.assert_allclose(actor.parameters, away.numpy(), rtol=1e-6)


def learner_for(environment: str, **options: Any) -> trpo.Learner:
    settings = trpo.Settings(environment=environment, copies=8, **options)
    return trpo.Learner(settings, rollout.observation_config(environment), rollout.action_config(environment), 0)


@pytest.mark.parametrize(("most", "damping"), [(0.001, 0.1), (0.02, 0.1), (0.5, 1e-4)])  # the last makes first steps too long
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_update_leaves_the_trust_region_and_most_use_it(environment: str, most: float, damping: float) -> None:
    with small_network_arithmetic(0):
        learner = learner_for(environment, max_divergence=most, damping=damping)
        divergences, critics = [], []
        for _ in range(15):
            gathered = learner.rollouts.collect()
            before, critic = learner.actor.parameters, critic_of(learner)
            divergences.append(learner.improve(gathered))
            stood = by_torch(learner.actor, gathered.features)
            old, new = (distribution(*stood(torch.from_numpy(where))) for where in (before, learner.actor.parameters))
            measured = kl_divergence(old, new).reshape(len(gathered), -1).sum(1).mean().item()
            unmoved, actor = np.array_equal(critic, critic_of(learner)), learner.actor.parameters
            learner.follow(gathered)

            assert measured <= most * 1.001
            assert measured == pytest.approx(divergences[-1], rel=1e-2, abs=1e-7)
            assert unmoved
            np.testing.assert_array_equal(actor, learner.actor.parameters)  # the critic's steps are its own
            critics.append(np.array_equal(critic, critic_of(learner)))

    assert np.median(divergences) > 0.4 * most
    assert not any(critics)
    learner.experience.vector.close()


def critic_of(learner: trpo.Learner) -> np.ndarray:
    arrays: Arrays = learner.policy.networks.arrays(1)
    return np.concatenate([part.ravel() for layer in arrays for part in layer])


def test_a_step_that_gains_nothing_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_network_arithmetic(0):
        learner = learner_for("CartPole-v1")
        monkeypatch.setattr(trpo.Learner, "surrogate", lambda *_: -1.0)
        start = learner.actor.parameters

        divergence = learner.improve(learner.rollouts.collect())

    assert divergence == 0
    np.testing.assert_array_equal(learner.actor.parameters, start)
    learner.experience.vector.close()


def test_a_short_training_balances_for_long_and_draws_its_report(tmp_path: Path) -> None:
    settings = trpo.Settings(target_return=200, screening_every=2048, screening_episodes=5, evaluation_episodes=20)

    trained = trpo.train(settings, 4, tmp_path)

    assert trained.metrics["mean_return"] > 200  # a random policy earns 22, 500 is the most
    assert trained.postprocess["noise"] == "gumbel"
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "episode.png"}
