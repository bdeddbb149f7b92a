"""Policies that draw their actions: odds, masks, seeds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from handlers.policy_handler import PolicyHandler
from marina.core.spec import Spec
from tests.support import toy_policies
from tests.support.torchserve_calls import context_of, handle


@pytest.fixture
def stochastic(exported: Callable[..., Spec]) -> tuple[PolicyHandler, Spec]:
    one = exported("dice", trained=toy_policies.dice)
    handler = PolicyHandler()
    handler.initialize(context_of(one, []))
    return handler, one


def act(policy: tuple[PolicyHandler, Spec], **body: Any) -> Any:
    ((status, answer),) = handle(*policy, [{"body": {"observation": [0, 0], **body}}])
    return answer["action"] if status == 200 else answer["message"]


def test_deterministic_action_is_the_most_probable_allowed_one(
    stochastic: tuple[PolicyHandler, Spec],
) -> None:
    """The deterministic action is the most probable one of those that the mask allows."""
    assert act(stochastic) == act(stochastic, deterministic=True, seed=5) == 0
    assert act(stochastic, action_mask=[0, 1, 1]) == 1
    assert act(stochastic, action_mask=[False, False, True]) == 2


def test_sampled_actions_follow_the_policys_odds_and_the_mask(
    stochastic: tuple[PolicyHandler, Spec],
) -> None:
    counts = np.bincount(
        [act(stochastic, deterministic=False, seed=seed) for seed in range(2000)], minlength=3
    )
    masked = np.bincount(
        [act(stochastic, deterministic=False, seed=seed, action_mask=[0, 1, 1]) for seed in range(1000)],
        minlength=3,
    )

    assert counts / 2000 == pytest.approx(toy_policies.ODDS, abs=0.04)
    assert masked / 1000 == pytest.approx([0, 0.6, 0.4], abs=0.06)


def test_the_same_seed_samples_the_same_action_whatever_shares_the_batch(
    stochastic: tuple[PolicyHandler, Spec],
) -> None:
    rows = [{"body": {"observation": [0, 0], "deterministic": False, "seed": seed}} for seed in range(64)]

    together = handle(*stochastic, rows)
    alone = [handle(*stochastic, [row])[0] for row in rows]

    assert together == alone
    assert {answer["action"] for _, answer in alone} == {0, 1, 2}


def test_instances_of_one_request_draw_independently_and_repeatably(
    stochastic: tuple[PolicyHandler, Spec],
) -> None:
    body = {"instances": [[0, 0]] * 300, "deterministic": False, "seed": 1}

    first, again = (handle(*stochastic, [{"body": body}])[0][1] for _ in range(2))

    assert first == again
    assert {one["action"] for one in first["predictions"]} == {0, 1, 2}


def test_without_a_seed_actions_vary(stochastic: tuple[PolicyHandler, Spec]) -> None:
    assert {act(stochastic, deterministic=False) for _ in range(100)} == {0, 1, 2}


@pytest.mark.parametrize("mask", [[1, 0], [0, 0, 0], "all", [2, 1, 1], None, [1, 1, 1, 1]])
def test_a_wrong_mask_is_refused_alone(stochastic: tuple[PolicyHandler, Spec], mask: Any) -> None:
    rows = [{"body": {"observation": [0, 0]}}, {"body": {"observation": [0, 0], "action_mask": mask}}]

    right, refused = handle(*stochastic, rows)

    assert right[1]["action"] == 0
    assert (refused[0], refused[1]["type"]) == (400, "BadRequest")
    assert "action_mask" in refused[1]["message"]


def test_masks_and_seeds_come_as_tensors_too(stochastic: tuple[PolicyHandler, Spec]) -> None:
    inputs = [
        {"name": "observation", "shape": [2, 2], "datatype": "FP32", "data": [0, 0, 0, 0]},
        {
            "name": "action_mask",
            "shape": [2, 3],
            "datatype": "BOOL",
            "data": [False, True, True, False, False, True],
        },
    ]

    ((_, answer),) = handle(*stochastic, [{"body": {"inputs": inputs}}])

    assert answer["outputs"][0]["data"] == [1, 2]


def test_a_policy_that_samples_by_default_obeys_deterministic(exported: Callable[..., Spec]) -> None:
    one = exported("throttle", trained=toy_policies.throttle)
    handler = PolicyHandler()
    handler.initialize(context_of(one, []))

    answers = [
        handle(handler, one, [{"body": {"observation": [0.5], "seed": seed}}])[0][1]["action"][0]
        for seed in range(500)
    ]

    assert handle(handler, one, [{"body": {"observation": [0.5], "deterministic": True}}])[0][1][
        "action"
    ] == pytest.approx([np.tanh(0.5)])
    assert np.mean(np.arctanh(answers)) == pytest.approx(0.5, abs=0.1)
    assert np.std(np.arctanh(answers)) == pytest.approx(0.5, abs=0.1)
