"""Multi-discrete actions: distributions and gradients against torch, trainings of each recipe, serving."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, kl_divergence

from marina.core.errors import CallError
from tests.support.levers import BRANCHES, Levers, StuckLevers
from tests.support.policy_predictors import policy_predictor
from tests.support.toy_environments import registered
from training.policies.buffers.rollout import RolloutBatch
from training.policies.envs.evaluate import EVALUATION_SEED, episode_returns
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.loops.on_policy import OnPolicySettings, PolicyOptimizer, make_agent
from training.policies.networks import distributions
from training.policies.networks.actor_critic import ActorCritic
from training.policies.networks.natural_gradient import TrustRegionActor
from training.policies.networks.optim import seeded_single_thread
from training.policies.spaces import ActionSpec
from training.recipes import a2c, dqn, ppo, reinforce, trpo
from training.runs.run import Run


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with registered(Levers, StuckLevers):
        yield


def agent_for(branches: list[int]) -> ActorCritic:
    """An untrained agent whose choices are not all alike."""
    settings, observation = OnPolicySettings(hidden=(6, 5)), observation_spec("Levers-v0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        agent = make_agent(settings, observation, ActionSpec.multi_discrete(*branches))
        with torch.no_grad():
            for parameter in agent.networks.parameters():
                parameter.copy_(0.7 * torch.randn_like(parameter))
    return agent


def choices(branches: list[int], rows: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """Random actions, int64 [rows, branches], of those that are allowed."""
    random, ends = np.random.default_rng(1), np.cumsum(branches)[:-1]
    odds = random.random((rows, sum(branches))) + (0 if allowed is None else 2 * allowed)
    return np.stack([part.argmax(1) for part in np.split(odds, ends, 1)], 1)


def some_allowed(branches: list[int], rows: int) -> np.ndarray:
    """Random masks, bool [rows, sum], that leave something in every branch."""
    random = np.random.default_rng(2)
    parts = [random.random((rows, size)) < 0.6 for size in branches]
    for part in parts:
        part[np.arange(rows), random.integers(part.shape[1], size=rows)] = True
    return np.concatenate(parts, 1)


def by_torch(scores: torch.Tensor, branches: list[int], allowed: np.ndarray | None) -> list[Categorical]:
    """One distribution per branch, over what is allowed: a logit of minus infinity would make torch's
    entropy no number.
    """
    masked = (
        scores
        if allowed is None
        else torch.where(torch.from_numpy(allowed), scores, torch.full_like(scores, -1e30))
    )
    return [Categorical(logits=part) for part in masked.split(branches, 1)]


CASES = pytest.mark.parametrize("masked", [False, True])
SIZES = pytest.mark.parametrize("branches", [[5], [3, 3], [3, 2, 4], [1, 2]])


@CASES
@SIZES
def test_probabilities_entropies_and_divergences_are_torchs(branches: list[int], masked: bool) -> None:
    random, allowed = np.random.default_rng(0), some_allowed(branches, 30) if masked else None
    first, second = random.normal(0, 2, (2, 30, sum(branches))).astype(np.float32)
    actions, layout = choices(branches, 30, allowed), distributions.Branches(branches)
    theirs, others = (by_torch(torch.from_numpy(scores), branches, allowed) for scores in (first, second))

    ours, other = (
        distributions.Categorical(distributions.apply_mask(scores, allowed), layout)
        for scores in (first, second)
    )

    logarithms = sum(
        one.log_prob(torch.from_numpy(column)) for one, column in zip(theirs, actions.T, strict=True)
    )
    entropies = sum(one.entropy() for one in theirs)
    apart = sum(kl_divergence(one, two) for one, two in zip(theirs, others, strict=True))
    np.testing.assert_allclose(ours.log_prob(actions), logarithms, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.entropies.sum(1), entropies, rtol=1e-4, atol=1e-5)
    assert ours.kl_divergence(other) == pytest.approx(float(apart.mean()), rel=1e-4)
    assert layout.merge(layout.split(first)).tolist() == first.tolist()


@CASES
@SIZES
def test_gradients_written_by_hand_are_those_of_autograd(branches: list[int], masked: bool) -> None:
    agent, random, allowed = (
        agent_for(branches),
        np.random.default_rng(0),
        some_allowed(branches, 30) if masked else None,
    )
    features = random.normal(size=(30, agent.encoder.width)).astype(np.float32)
    actions, zeros = choices(branches, 30, allowed), np.zeros(30, np.float32)
    by_log_probability, by_value = random.normal(size=(2, 30)).astype(np.float32)
    with torch.enable_grad():
        scores, values = agent.networks(torch.from_numpy(features)).unbind(0)
        theirs = by_torch(scores, branches, allowed)
        logarithms = sum(
            one.log_prob(torch.from_numpy(column)) for one, column in zip(theirs, actions.T, strict=True)
        )
        entropy = sum(one.entropy() for one in theirs).mean()  # type: ignore[union-attr]
        loss = (
            logarithms @ torch.from_numpy(by_log_probability)
            + values[:, 0] @ torch.from_numpy(by_value)
            - 0.1 * entropy
        )  # type: ignore[operator]
        expected = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(agent.parameters()))])
    ascent, before = PolicyOptimizer(agent, OnPolicySettings(ent_coef=0.1, max_grad_norm=0)), []
    ascent.adam.step = lambda gradient, _: before.append(gradient.copy())  # type: ignore[method-assign]

    found, _ = ascent.evaluate_actions(RolloutBatch(features, actions, zeros, zeros, zeros, zeros, allowed))
    told = ascent.step(by_log_probability, by_value)

    np.testing.assert_allclose(found, logarithms.detach(), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    np.testing.assert_allclose(before[0], expected, rtol=1e-3, atol=1e-5)
    assert told == pytest.approx(entropy.item(), rel=1e-5)


@CASES
@SIZES
def test_fisher_products_equal_products_with_the_kl_hessian(branches: list[int], masked: bool) -> None:
    """Products with the Fisher matrix equal those with the Hessian of the KL divergence."""
    agent, allowed = agent_for(branches), some_allowed(branches, 20) if masked else None
    actor, features = (
        TrustRegionActor(agent),
        np.random.default_rng(0).normal(size=(20, agent.encoder.width)).astype(np.float32),
    )
    parameters = torch.from_numpy(actor.params)

    def at(moved: torch.Tensor) -> list[Categorical]:
        pieces = torch.split(moved, [part.size for part in actor.parts])
        layers = [piece.reshape(part.shape) for piece, part in zip(pieces, actor.parts, strict=True)]
        rows = torch.from_numpy(features).double()
        for depth in (0, 2):
            rows = torch.tanh(rows @ layers[depth] + layers[depth + 1])
        return by_torch(rows @ layers[4] + layers[5], branches, allowed)

    old = [Categorical(logits=one.logits.detach()) for one in at(parameters)]

    def divergence(moved: torch.Tensor) -> Any:
        return sum(kl_divergence(one, two).mean() for one, two in zip(old, at(moved), strict=True))

    actor.set_anchor(features, allowed)
    direction = np.random.default_rng(3).normal(size=len(parameters))
    _, expected = torch.autograd.functional.hvp(divergence, parameters, torch.from_numpy(direction))
    product = actor.fisher_vector_product(direction)
    actor.set_params(actor.params + 0.1 * direction)

    np.testing.assert_allclose(product, expected, rtol=1e-3, atol=1e-5)
    assert actor.kl_divergence() == pytest.approx(divergence(torch.from_numpy(actor.params)).item(), rel=1e-3)


def test_draws_have_the_odds_of_every_branch_and_nothing_forbidden() -> None:
    branches, random = [3, 2, 4], np.random.default_rng(0)
    scores = np.tile(random.normal(size=(1, 9)).astype(np.float32), (40_000, 1))
    allowed = np.array([[1, 0, 1, 1, 1, 0, 1, 1, 1]], bool)
    layout = distributions.Branches(branches)
    masked = distributions.apply_mask(scores, allowed)

    drawn = layout.argmax(masked + random.gumbel(size=masked.shape).astype(np.float32))

    odds = layout.merge(distributions.Categorical(masked[:1], layout).probs)[0]
    counted = (
        np.concatenate(
            [np.bincount(column, minlength=size) for column, size in zip(drawn.T, branches, strict=True)]
        )
        / 40_000
    )
    np.testing.assert_allclose(counted, odds, atol=0.01)
    assert counted[1] == counted[5] == 0


RECIPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (ppo, {"n_steps": 32, "batch_size": 64}),
    "ppo-curious": (ppo, {"n_steps": 32, "batch_size": 64, "intrinsic": {"int_coef": 0.1}}),
    "a2c": (a2c, {"learning_rate": 5e-3}),
    "reinforce": (reinforce, {"learning_rate": 1e-2, "n_steps": 10}),
    "trpo": (trpo, {"num_envs": 16}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_all_levers_and_the_handler_pulls_the_same(name: str, tmp_path: Path) -> None:
    recipe, options = RECIPES[name]
    most = float(Levers.steps)
    settings = recipe.Settings(
        environment="Levers-v0",
        total_timesteps=60_000,
        target_return=most,
        gamma=0.5,
        eval_freq=2048,
        **options,
    )

    trained = recipe.train(settings, Run(tmp_path))
    handler = policy_predictor(trained, tmp_path)

    def act(observations: np.ndarray) -> np.ndarray:
        (answer,) = handler.answer_rows(
            [({"body": json.dumps({"instances": observations.tolist()}).encode()}, {})]
        )
        assert isinstance(answer, dict), answer
        return np.array([one["action"] for one in answer["predictions"]])

    assert trained.metrics["mean_return"] == most  # chance earns a third
    assert trained.postprocess["action_space"] == {"type": "multi_discrete", "nvec": BRANCHES}
    assert episode_returns(act, "Levers-v0", 20, EVALUATION_SEED).tolist() == [most] * 20
    samples = [
        (json.loads(sample.body)["observation"], sample.expect["action"]) for sample in trained.samples
    ]
    assert samples
    assert act(np.array([observation for observation, _ in samples])).tolist() == [
        action for _, action in samples
    ]


def test_the_handler_samples_and_takes_masks_of_every_branch(tmp_path: Path) -> None:
    agent = agent_for(BRANCHES)
    observation, action = observation_spec("Levers-v0"), action_spec("Levers-v0")
    preprocess = {**observation.to_json(), "inputs": ["observation", "action_mask", "noise"]}
    postprocess = {
        "type": "policy",
        "action_space": action.to_json(),
        "noise": "gumbel",
        "deterministic": True,
        "outputs": ["value"],
    }
    module = agent.build_graph()
    handler = policy_predictor(
        type("Trained", (), {"preprocess": preprocess, "postprocess": postprocess, "module": module}),
        tmp_path,
    )  # type: ignore[arg-type]

    def ask(**options: Any) -> Any:
        (answer,) = handler.answer_rows(
            [({"body": json.dumps({"observation": [0.5] * 9, **options}).encode()}, {})]
        )
        return answer["action"] if isinstance(answer, dict) else str(answer)

    best = ask()
    forbidden = np.ones(9, int)
    forbidden[np.add(best, [0, 3, 5])] = 0
    others = ask(action_mask=forbidden.tolist())
    drawn = {tuple(ask(action_mask=forbidden.tolist(), deterministic=False, seed=seed)) for seed in range(40)}

    assert all(one != other for one, other in zip(best, others, strict=True))
    assert len(drawn) > 3
    assert all(one != other for draw in drawn for one, other in zip(best, draw, strict=True))
    assert "allows nothing in branch 1; leave at least one of its 2 values true" in ask(
        action_mask=[1, 1, 1, 0, 0, 1, 1, 1, 1]
    )
    assert "a list of 9 values" in ask(action_mask=[1, 1, 1])
    assert handler.request_schema()["anyOf"][0]["properties"]["action_mask"]["minItems"] == 9


def test_the_same_seed_learns_the_same_policy(tmp_path: Path) -> None:
    settings = ppo.Settings(
        environment="Levers-v0",
        total_timesteps=1000,
        eval_freq=10**6,
        n_eval_episodes=2,
        evaluation_episodes=2,
    )

    first, again = (ppo.train(settings, Run(tmp_path, seed=3)) for _ in range(2))

    assert all(
        torch.equal(*pair) for pair in zip(first.module.parameters(), again.module.parameters(), strict=True)
    )


def test_dqn_refuses_several_choices_and_says_who_takes_them() -> None:
    settings = dqn.Settings(environment="Levers-v0")
    spaces_of = observation_spec("Levers-v0"), action_spec("Levers-v0")

    with pytest.raises(CallError, match=r"takes Discrete actions; others: ppo"), seeded_single_thread(0):
        dqn.Learner(settings, *spaces_of, 0)


def test_the_environment_of_these_tests_pays_for_every_right_lever() -> None:
    env = gymnasium.make("Levers-v0")
    assert isinstance(env.action_space, spaces.MultiDiscrete)
    observation, _ = env.reset(seed=0)
    right = np.array([part.argmax() for part in np.split(observation, [3, 5])])

    assert env.step(right)[1] == 1
    assert env.step((right + 1) % np.array(BRANCHES))[1] <= 1
