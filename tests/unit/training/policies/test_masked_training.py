"""Policies trained, exported and served with masks of actions."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marina.evaluation.measurement import in_process
from marina.evaluation.playback import play
from marina.kinds.episodes import Requests, play_episodes
from tests.support.doors import DOORS, DQN_OPTIONS, MASKED, PLACES, Doors, DoorsAlone, allowed_at, spaces_of
from tests.support.levers import Levers, StuckLevers
from tests.support.measuring import single
from tests.support.policy_predictors import policy_predictor
from tests.support.toy_environments import registered
from tests.support.toy_exports import export_toy
from training.policies.graphs.export import example_inputs, make_act
from training.policies.networks.optim import seeded_single_thread
from training.recipes import a2c, dqn, ppo, reinforce, trpo
from training.runs.run import Run


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with registered(Levers, StuckLevers, Doors, DoorsAlone):
        yield


@pytest.mark.parametrize("name", DQN_OPTIONS)
def test_deep_q_learning_finds_the_way_without_touching_a_wall(name: str, tmp_path: Path) -> None:
    options = {"exploration_steps": 1500, "learning_rate": 3e-3, **DQN_OPTIONS[name]}
    settings = dqn.Settings(
        **{"environment": "DoorsAlone-v0", "action_masks": True, "hidden": (32,), "gamma": 0.9},
        **{
            "total_timesteps": 20_000,
            "eval_freq": 500,
            "n_eval_episodes": 2,
            "evaluation_episodes": 5,
            "target_return": PLACES,
        },
        **options,
    )

    trained = dqn.train(settings, Run(tmp_path))

    assert trained.metrics["mean_return"] == PLACES


@pytest.mark.parametrize("recipe", [ppo, a2c, reinforce, trpo])
def test_policy_gradients_learn_levers_and_never_try_one_that_is_stuck(recipe: Any, tmp_path: Path) -> None:
    most = float(StuckLevers.steps)
    options = {"total_timesteps": 60_000, "target_return": most, "gamma": 0.5, "eval_freq": 2048}
    if recipe is reinforce:
        options |= {"learning_rate": 1e-2, "n_steps": 10}
    settings = recipe.Settings(environment="StuckLevers-v0", action_masks=True, **options)

    trained = recipe.train(settings, Run(tmp_path))

    assert trained.metrics["mean_return"] == most
    assert trained.preprocess["wrappers"] == {"action_masks": True}


@pytest.fixture(scope="module")
def steps_needed(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, float]:
    """Of PPO until it walks the way, with masks and without, on average of some seeds."""
    common = {
        "target_return": PLACES,
        "eval_freq": 256,
        "n_eval_episodes": 2,
        "evaluation_episodes": 2,
        "num_envs": 8,
        "n_steps": 32,
    }
    report = tmp_path_factory.mktemp("report")
    found = {}
    for masked in (True, False):
        settings = ppo.Settings(
            environment="Doors-v0",
            action_masks=masked,
            total_timesteps=40_000,
            batch_size=64,
            gamma=0.9,
            **common,
        )
        found[masked] = float(
            np.mean([ppo.train(settings, Run(report, seed=seed)).metrics["steps"] for seed in range(3)])
        )
    return found


@pytest.mark.slow
def test_with_masks_the_way_is_found_in_a_fraction_of_the_steps(steps_needed: dict[bool, float]) -> None:
    assert steps_needed[True] < 0.5 * steps_needed[False]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A policy that learned with masks, for a moment: the walls of its environment are errors."""
    budget = {"total_timesteps": 600, "evaluation_episodes": 20, "n_eval_episodes": 2}
    settings = ppo.Settings(environment="DoorsAlone-v0", action_masks=True, **budget)
    return ppo.train(settings, Run(tmp_path_factory.mktemp("report")))


@pytest.mark.parametrize("recipe", [ppo, dqn])
def test_what_acts_in_training_and_what_is_served_take_the_same_masks(recipe: Any) -> None:
    settings = recipe.Settings(environment="DoorsAlone-v0", action_masks=True)
    observation, action = spaces_of("DoorsAlone-v0")
    with seeded_single_thread(0):
        policy = recipe.Learner(settings, observation, action, 0).policy
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.copy_(torch.randn_like(parameter))
        graph = policy.build_graph()
        places = np.arange(600) % PLACES
        allowed = np.random.default_rng(0).random((600, DOORS)) < 0.3
        allowed[:, 0] |= ~allowed.any(1)
        act = make_act(graph, example_inputs(graph, observation, action))

        inside, outside, free = policy.act(places, allowed), act(places, allowed), act(places)

    assert allowed[np.arange(600), outside].all()
    assert not allowed[np.arange(600), free].all()
    np.testing.assert_array_equal(inside, outside)


def test_samples_carry_masks_and_are_answered_so(trained: Any, tmp_path: Path) -> None:
    handler = policy_predictor(trained, tmp_path)

    assert trained.samples
    for sample in trained.samples:
        body = json.loads(sample.body)
        (answer,) = handler.answer_rows([({"body": sample.body}, {})])
        assert body["action_mask"] == allowed_at(body["observation"]).astype(int).tolist()
        assert isinstance(answer, dict)
        assert answer["action"] == sample.expect["action"]
        assert (
            np.flatnonzero(answer["probabilities"]).tolist() == np.flatnonzero(body["action_mask"]).tolist()
        )


def test_whoever_asks_is_told_that_masks_belong_to_every_request(trained: Any, tmp_path: Path) -> None:
    handler = policy_predictor(trained, tmp_path)

    assert (
        "send them always" in handler.request_schema()["anyOf"][0]["properties"]["action_mask"]["description"]
    )
    assert trained.preprocess["wrappers"] == {"action_masks": True}


def test_an_evaluation_sends_masks_and_earns_what_the_training_reported(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    above_the_floor = dataclasses.replace(trained, metrics={**trained.metrics, "mean_return": 100.0})
    spec, bodies = (
        export_toy(tmp_path, "doors", "export: {runtimes: [], max_batch: 64}\n", above_the_floor),
        [],
    )
    ask = single(in_process(spec))

    def watched(body: bytes) -> Any:
        bodies.append(json.loads(body))
        return ask(body)

    played = play_episodes(spec, watched, 20)

    assert played.returns.mean() == trained.metrics["mean_return"]
    for instance in bodies[0]["instances"]:
        assert instance["action_mask"] == allowed_at(instance["observation"]).astype(int).tolist()


def test_playing_hands_over_the_mask_of_every_step(trained: Any) -> None:
    requests, asked = Requests(trained.preprocess, stacks=False), []

    def act(observation: np.ndarray, allowed: np.ndarray) -> tuple[int, dict[str, Any]]:
        asked.append(requests.instance(0, len(asked), observation[0], allowed))
        action = int(np.flatnonzero(allowed)[-1 if len(asked) % 2 else 0])
        return action, {"action": action}

    play(act, "DoorsAlone-v0", 2, 0, None, MASKED)

    assert len(asked) > 10
    assert all(one["action_mask"] == allowed_at(one["observation"]).astype(int).tolist() for one in asked)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_a_taxi_is_learned_within_60_000_steps_with_masks_alone(masked: bool, tmp_path: Path) -> None:
    settings = dqn.Settings(
        **{
            "environment": "Taxi-v4",
            "action_masks": masked,
            "total_timesteps": 60_000,
            "target_return": 7.0,
            "eval_freq": 5000,
        },
        **{
            "double": True,
            "exploration_steps": 30_000,
            "exploration_final_eps": 0.05,
            "learning_rate": 1e-3,
            "evaluation_episodes": 300,
        },
    )

    trained = dqn.train(settings, Run(tmp_path))

    assert (trained.metrics["mean_return"] > 7) == masked
