"""TRPO: products and steps against dense algebra and autograd, the trust region at every update, and a whole
training.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from training.policies.envs.observe import action_spec, observation_spec
from training.policies.loops.on_policy import OnPolicySettings, make_agent
from training.policies.networks.actor_critic import ActorCritic
from training.policies.networks.mlp import Layers
from training.policies.networks.natural_gradient import TrustRegionActor, conjugate_gradient
from training.policies.networks.optim import seeded_single_thread
from training.policies.networks.reference_losses import action_distribution, log_prob, mean_kl, surrogate
from training.recipes import trpo
from training.runs.run import Run

ENVIRONMENTS = ["CartPole-v1", "Pendulum-v1"]
Scores = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def agent_for(environment: str, activation: Literal["tanh", "relu"] = "tanh") -> ActorCritic:
    """An untrained agent of few parameters whose actions are not all alike."""
    settings = OnPolicySettings(
        environment=environment, hidden=(6, 5), activation=activation, log_std_init=-0.5
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        agent = make_agent(settings, observation_spec(environment), action_spec(environment))
        with torch.no_grad():
            for parameter in agent.networks.parameters():
                parameter.copy_(0.7 * torch.randn_like(parameter))
    return agent


def features_for(agent: ActorCritic, rows: int = 40) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(0).normal(size=(rows, agent.encoder.width)).astype(np.float32)
    return found


def by_torch(actor: TrustRegionActor, features: np.ndarray) -> Scores:
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


def distribution(outputs: torch.Tensor, log_std: torch.Tensor) -> list[Distribution]:
    """As the reference has it."""
    return action_distribution(outputs, log_std if len(log_std) else None, [outputs.shape[1]])


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
def test_fisher_products_are_those_with_the_hessian_of_the_divergence(
    environment: str, activation: Literal["tanh", "relu"]
) -> None:
    agent = agent_for(environment, activation)
    actor, features = TrustRegionActor(agent), features_for(agent)
    scores = by_torch(actor, features)
    parameters = torch.from_numpy(actor.params)
    old = distribution(*(part.detach() for part in scores(parameters)))

    def divergence(moved: torch.Tensor) -> torch.Tensor:
        return mean_kl(old, distribution(*scores(moved)))

    hessian = torch.autograd.functional.hessian(divergence, parameters).numpy()
    actor.set_anchor(features)
    found = np.stack([actor.fisher_vector_product(direction) for direction in np.eye(len(parameters))])

    np.testing.assert_allclose(found, hessian, rtol=1e-4, atol=1e-5)
    damped = found + 0.1 * np.eye(len(found))
    target = np.random.default_rng(1).normal(size=len(found))
    solved = conjugate_gradient(
        lambda vector: actor.fisher_vector_product(vector) + 0.1 * vector, target, 2 * len(found)
    )
    np.testing.assert_allclose(solved, np.linalg.solve(damped, target), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_gradients_and_divergences_are_torchs(environment: str) -> None:
    agent, random = agent_for(environment), np.random.default_rng(2)
    actor, features = TrustRegionActor(agent), features_for(agent)
    scores, start = by_torch(actor, features), torch.tensor(actor.params, requires_grad=True)
    actions = (
        random.integers(2, size=(40, 1)) if agent.branches else random.normal(size=(40, 1)).astype(np.float32)
    )
    weights = random.normal(size=40)
    old = distribution(*scores(start))
    log_probs = log_prob(old, torch.from_numpy(actions))
    # the surrogate's gradient at the anchor is the policy gradient
    gain = surrogate(log_probs, log_probs.detach(), torch.from_numpy(weights))
    (expected,) = torch.autograd.grad(gain, start, retain_graph=True)
    away = start.detach() + 0.05 * torch.from_numpy(random.normal(size=len(start)))

    actor.set_anchor(features)
    gradient = actor.policy_gradient(actions, weights / 40)
    actor.set_params(away.numpy())

    expected_kl = mean_kl(old, distribution(*scores(away))).item()
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-3, atol=1e-5)
    assert actor.kl_divergence() == pytest.approx(expected_kl, rel=1e-3)
    np.testing.assert_allclose(actor.params, away.numpy(), rtol=1e-6)


def learner_for(environment: str, **options: Any) -> trpo.Learner:
    settings = trpo.Settings(environment=environment, num_envs=8, **options)
    return trpo.Learner(settings, observation_spec(environment), action_spec(environment), 0)


# the last makes first steps too long
@pytest.mark.parametrize(("most", "cg_damping"), [(0.001, 0.1), (0.02, 0.1), (0.5, 1e-4)])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_update_leaves_the_trust_region_and_most_use_it(
    environment: str, most: float, cg_damping: float
) -> None:
    with seeded_single_thread(0):
        learner = learner_for(environment, target_kl=most, cg_damping=cg_damping)
        divergences, critics = [], []
        for _ in range(15):
            gathered = learner.rollouts.collect()
            before, critic = learner.actor.params, critic_of(learner)
            divergences.append(learner.update_actor(gathered))
            stood = by_torch(learner.actor, gathered.features)
            old, new = (
                distribution(*stood(torch.from_numpy(where))) for where in (before, learner.actor.params)
            )
            measured = mean_kl(old, new).item()
            unmoved, actor = np.array_equal(critic, critic_of(learner)), learner.actor.params
            learner.update_critic(gathered)

            assert measured <= most * 1.001
            assert measured == pytest.approx(divergences[-1], rel=1e-2, abs=1e-7)
            assert unmoved
            np.testing.assert_array_equal(actor, learner.actor.params)  # the critic's steps are its own
            critics.append(np.array_equal(critic, critic_of(learner)))

    assert np.median(divergences) > 0.4 * most
    assert not any(critics)
    learner.envs.vector_env.close()


def critic_of(learner: trpo.Learner) -> np.ndarray:
    arrays: Layers = learner.policy.networks.numpy_layers(1)
    return np.concatenate([part.ravel() for layer in arrays for part in layer])


def test_a_step_that_gains_nothing_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded_single_thread(0):
        learner = learner_for("CartPole-v1")
        monkeypatch.setattr(trpo.Learner, "surrogate", lambda *_: -1.0)
        start = learner.actor.params

        divergence = learner.update_actor(learner.rollouts.collect())

    assert divergence == 0
    np.testing.assert_array_equal(learner.actor.params, start)
    learner.envs.vector_env.close()


def test_a_short_training_balances_for_long_and_draws_its_report(tmp_path: Path) -> None:
    settings = trpo.Settings(target_return=200, eval_freq=2048, n_eval_episodes=5, evaluation_episodes=20)

    trained = trpo.train(settings, Run(tmp_path, seed=4))

    assert trained.metrics["mean_return"] > 200  # a random policy earns 22, 500 is the most
    assert trained.postprocess["noise"] == "gumbel"
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "episode.png"}
