"""Evaluating policies by requests: episodes compared action by action, sampling, and requests with many
observations.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marina.core.errors import WorkError
from marina.core.spec import Spec, parse
from marina.evaluation.measurement import in_process
from marina.kinds.episodes import Played, can_sample, check_same, first_difference, play_episodes
from tests.support.measuring import single
from tests.support.toy_exports import export_toy
from tests.support.toy_policies import ODDS, balance, dice, memory, swing

Asked = tuple[Spec, Callable[[bytes], Any]]


@pytest.fixture(scope="module")
def stacking(module_home: Path) -> Asked:
    """A policy that sees three frames."""
    spec = export_toy(module_home, "swing", trained=swing())
    return spec, single(in_process(spec))


@pytest.fixture(scope="module")
def recurrent(module_home: Path) -> Asked:
    """A policy whose graph remembers."""
    spec = export_toy(module_home, "memory", trained=memory())
    return spec, single(in_process(spec))


def test_with_states_episodes_go_action_by_action_as_with_whole_stacks(stacking: Asked) -> None:
    spec, ask = stacking
    asked: list[Any] = []

    def watched(body: bytes) -> Any:
        asked.append(json.loads(body)["instances"])
        return ask(body)

    frame_by_frame = play_episodes(spec, watched, 12, stacks=False)
    whole = play_episodes(spec, ask, 12, stacks=True)

    assert first_difference(frame_by_frame, whole) == ""
    np.testing.assert_array_equal(frame_by_frame.returns, whole.returns)
    assert frame_by_frame.returns.min() > 30
    assert [len(instances) for instances in asked][:9] == [12] * 9
    assert np.shape(asked[5][0]["observation"]) == (4,)
    assert asked[5][0]["step"] == 5
    assert len(frame_by_frame.actions[3]) == frame_by_frame.returns[3]


def test_a_recurrent_policy_is_played_with_its_state_and_loses_without(recurrent: Asked) -> None:
    spec, ask = recurrent

    def forgetful(body: bytes) -> Any:
        instances = [{"observation": one["observation"]} for one in json.loads(body)["instances"]]
        return ask(json.dumps({"instances": instances}).encode())

    kept, lost = play_episodes(spec, ask, 8), play_episodes(spec, forgetful, 8)

    assert "8 episodes" in check_same(kept, play_episodes(spec, ask, 8))
    assert "episodes; the first at step" in first_difference(kept, lost)


def test_the_first_difference_is_named_with_both_actions() -> None:
    returns = np.zeros(3)
    local = Played(returns, [[0, 1, 1], [1, 1], [0.5, [0.25]]])

    assert first_difference(local, local) == ""
    assert first_difference(Played(returns, [[0, 1, 1], [1, 1], [0.5, [0.25000001]]]), local) == ""
    with pytest.raises(WorkError, match="2 of 3 episodes; the first at step 1 of episode 1: 0 and 1"):
        check_same(Played(returns, [[0, 1, 0], [1, 0], [0.5, [0.25]]]), local)
    with pytest.raises(
        WorkError, match="1 of 3 episodes; the first at step 2 of episode 1: 1 and none, as it had ended"
    ):
        check_same(Played(returns, [[0, 1, 1], [1, 1, 1], [0.5, [0.25]]]), local)


def test_one_action_that_differs_is_found(module_home: Path) -> None:
    spec = export_toy(module_home, "honest", trained=balance())
    ask, calls = single(in_process(spec)), iter(range(10_000))

    def lying(body: bytes) -> Any:
        answer = ask(body)
        if next(calls) == 7:
            answer["predictions"][4]["action"] ^= 1
        return answer

    found = first_difference(play_episodes(spec, lying, 6), play_episodes(spec, ask, 6))

    assert found.startswith("1 of 6 episodes; the first at step 7 of episode 4:")


def test_draws_with_the_same_seeds_are_the_same_and_with_others_not(recurrent: Asked) -> None:
    spec, ask = recurrent

    one, again, other = (play_episodes(spec, ask, 6, seed=seed) for seed in (1, 1, 2))

    assert can_sample(spec)
    assert first_difference(one, again) == ""
    assert first_difference(one, other) != ""
    assert first_difference(one, play_episodes(spec, ask, 6)) != ""


def chi_square(counts: np.ndarray, odds: np.ndarray) -> float:
    """Pearson's statistic of how far counts are from what the odds make likely."""
    expected = odds * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_many_observations_are_one_batch_and_draws_have_the_odds(
    module_home: Path,
) -> None:
    """A thousand observations are one batch, and draws without seeds have the policy's odds."""
    spec = export_toy(module_home, "dice", trained=dice())
    ask, batches = single(answer := in_process(spec)), []
    handler = answer.__closure__[0].cell_contents  # type: ignore[attr-defined]
    model = handler.model
    handler.model = lambda *inputs: batches.append(len(inputs[0])) or model(*inputs)
    body = json.dumps({"instances": [{"observation": [0, 0]}] * 1000, "deterministic": False}).encode()

    draws = np.array([one["action"] for _ in range(5) for one in ask(body)["predictions"]])

    assert batches == [1000] * 5
    counts = np.bincount(draws, minlength=3)
    # a chi-square of 2 and of 8 degrees of freedom is above with probability 1e-4
    likely, likely_of_pairs = 18.42, 31.83
    assert chi_square(counts, np.array(ODDS)) < likely
    assert chi_square(np.roll(counts, 1), np.array(ODDS)) > likely
    pairs = np.bincount(draws[:-1] * 3 + draws[1:], minlength=9)
    # one draw says nothing of the next
    assert chi_square(pairs, np.outer(ODDS, ODDS).ravel()) < likely_of_pairs


def test_what_a_spec_says_of_batches_counts() -> None:
    text = "# A toy.\nkind: {kind}\ntraining: {{recipe: dqn}}\nfloor: {{mean_return: 1}}\nexport: {export}\n"
    said = [
        ("policy", "{}", 1024),
        ("policy", "{max_batch: 8}", 8),
        ("policy", "{parity: 0.1}", 1024),
        ("classifier", "{}", 64),
    ]

    for kind, export, most in said:
        spec = parse(text.format(kind=kind, export=export), "toy", "toy.yaml")

        assert spec.export.max_batch == most
        assert parse(spec.as_yaml(), "toy", "toy.yaml") == spec


def test_a_summary_of_one_episode_has_no_spread() -> None:
    assert Played(np.array([7.0]), [[0]]).summary() == {"mean_return": 7.0, "std_return": 0.0, "episodes": 1}
