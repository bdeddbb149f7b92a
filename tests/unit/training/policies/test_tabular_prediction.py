"""Values estimated from episodes: identities that hold to rounding, and the textbook's figures."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from training.policies.tabular import temporal_difference as td
from training.policies.tabular import worlds
from training.policies.tabular.episodes import Episodes, from_steps, play
from training.policies.tabular.mdp import FiniteMDP
from training.policies.tabular.monte_carlo import (
    every_visit_prediction,
    first_visit_prediction,
    incremental_prediction,
)
from training.policies.tabular.planning import uniform

Update = Callable[..., np.ndarray]  # (values, episodes, alpha, gamma) -> values


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def walks(states: int, count: int, rng: np.random.Generator, left: float = 0.0) -> Episodes:
    walk = worlds.random_walk(states, left)
    return play(walk, uniform(walk), count, rng)


def guesses(rows: int, states: int, rng: np.random.Generator) -> np.ndarray:
    """Any first values, with an end worth nothing."""
    return np.append(rng.normal(size=(rows, states)), np.zeros((rows, 1)), 1)


def test_episodes_are_padded_and_know_returns_and_first_visits() -> None:
    """Episodes are padded by the end, and know their returns and first visits."""
    episodes = from_steps([[(0, 1.0), (1, 2.0), (0, 4.0)], [(1, 8.0)]], end=2)

    assert episodes.states.tolist() == [[0, 1, 0, 2], [1, 2, 2, 2]]
    assert episodes.returns(0.5).tolist() == [[3, 4, 4], [8, 0, 0]]
    assert (episodes.first_visits() & (episodes.states[:, :-1] < 2)).tolist() == [
        [True, True, False],
        [True, False, False],
    ]


def test_first_visits_and_every_visit_count_what_their_names_say() -> None:
    episodes = from_steps([[(0, 1.0), (1, 2.0), (0, 4.0)], [(1, 8.0)]], end=2)

    assert first_visit_prediction(episodes, 2, 1.0).tolist() == [7, (6 + 8) / 2, 0]
    assert every_visit_prediction(episodes, 2, 1.0).tolist() == [(7 + 4) / 2, (6 + 8) / 2, 0]


def test_batch_monte_carlo_and_batch_td_disagree_about_a() -> None:
    """Example 6.4: A, 0, B, 0 once; B, 1 six times; B, 0 once."""
    a, b = 0, 1
    episodes = from_steps([[(a, 0), (b, 0)], *[[(b, 1)]] * 6, [(b, 0)]], end=2)

    assert every_visit_prediction(episodes, 2, 1.0).tolist() == [0, 0.75, 0]
    np.testing.assert_allclose(td.batch_td0(episodes, 2, 0.01, 1.0, 5000), [0.75, 0.75, 0], atol=1e-9)


def test_monte_carlo_comes_to_the_values_of_the_random_walk(rng: np.random.Generator) -> None:
    episodes, true = walks(5, 4000, rng), np.arange(1, 6) / 6

    np.testing.assert_allclose(first_visit_prediction(episodes, 5, 1.0)[:-1], true, atol=0.03)
    np.testing.assert_allclose(every_visit_prediction(episodes, 5, 1.0)[:-1], true, atol=0.03)
    values = np.zeros((100, 6))
    for _ in range(200):
        values = incremental_prediction(values, walks(5, 100, rng), 0.02, 1.0)
    np.testing.assert_allclose(values.mean(0)[:-1], true, atol=0.03)


def test_td0_comes_nearer_than_monte_carlo_in_the_same_hundred_episodes(rng: np.random.Generator) -> None:
    """Example 6.2: alpha 0.1 for TD, the best for Monte Carlo about 0.02."""
    true, errors = np.arange(1, 6) / 6, []
    for update, alpha in ((td.td0, 0.05), (incremental_prediction, 0.02)):
        values = np.tile([*[0.5] * 5, 0.0], (100, 1))
        for _ in range(100):
            values = update(values, walks(5, 100, rng), alpha, 1.0)
        errors.append(np.sqrt(((values[:, :-1] - true) ** 2).mean(1)).mean())

    assert errors[0] < 0.06 < errors[1] < 0.15


@pytest.mark.parametrize("trace", [0.0, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_forward_view_equals_the_backward_view_offline(
    trace: float, gamma: float, rng: np.random.Generator
) -> None:
    episodes, values = walks(7, 20, rng, left=-1), guesses(20, 7, rng)

    forward = td.forward_view(values, episodes, 0.1, gamma, trace)
    backward = td.td_lambda(values, episodes, 0.1, gamma, trace, offline=True)

    np.testing.assert_allclose(forward, backward, rtol=0, atol=1e-12)
    assert np.abs(forward - values).max() > 0.01


@pytest.mark.parametrize("trace", [0.0, 0.5, 0.95, 1.0])
def test_true_online_td_equals_the_online_forward_view(trace: float, rng: np.random.Generator) -> None:
    episodes, values = walks(5, 10, rng, left=-1), guesses(10, 5, rng)
    alpha = np.linspace(0.05, 0.9, 10)

    np.testing.assert_allclose(
        td.true_online_td_lambda(values, episodes, alpha, 0.95, trace),
        td.online_forward_view(values, episodes, alpha, 0.95, trace),
        rtol=0,
        atol=1e-12,
    )


def test_accumulating_traces_differ_from_the_online_forward_view(rng: np.random.Generator) -> None:
    episodes, values = walks(5, 10, rng), guesses(10, 5, rng)

    assert (
        np.abs(
            td.td_lambda(values, episodes, 0.5, 1, 0.9)
            - td.online_forward_view(values, episodes, 0.5, 1, 0.9)
        ).max()
        > 0.01
    )


def test_lambda_0_is_one_step_td_by_all_four_ways(rng: np.random.Generator) -> None:
    episodes, values = walks(5, 10, rng), guesses(10, 5, rng)

    expected = td.td0(values, episodes, 0.3, 0.9)

    for found in (
        td.n_step_td(values, episodes, 0.3, 0.9, 1),
        td.td_lambda(values, episodes, 0.3, 0.9, 0),
        td.td_lambda(values, episodes, 0.3, 0.9, 0, replacing=True),
        td.true_online_td_lambda(values, episodes, 0.3, 0.9, 0),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_td_1_is_every_visit_monte_carlo(rng: np.random.Generator) -> None:
    episodes, values = walks(5, 10, rng), guesses(10, 5, rng)
    returns, state = episodes.returns(0.9), episodes.states[:, :-1]
    offline = values.copy()
    np.add.at(
        offline, (np.arange(10)[:, None], state), 0.1 * (returns - np.take_along_axis(values, state, 1))
    )
    offline[:, -1] = 0

    np.testing.assert_allclose(
        td.td_lambda(values, episodes, 0.1, 0.9, 1, offline=True), offline, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        td.true_online_td_lambda(values, episodes, 0.1, 0.9, 1),
        incremental_prediction(values, episodes, 0.1, 0.9),
        rtol=0,
        atol=1e-12,
    )


def test_three_step_targets() -> None:
    """Three-step targets are three rewards and the discounted value after them."""
    episodes = from_steps([[(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0)]], end=4)

    found = td.n_step_td(np.array([[0.0, 0.0, 0.0, 100.0, 0.0]]), episodes, 1.0, 0.5, 3)

    assert found.tolist() == [[1 + 1 + 1 + 12.5, 2 + 2 + 2, 4 + 4, 8, 0]]


def test_n_steps_beyond_the_end_are_monte_carlo(rng: np.random.Generator) -> None:
    episodes, values = walks(5, 10, rng), guesses(10, 5, rng)

    found = td.n_step_td(values, episodes, 0.2, 0.9, n=episodes.steps)

    np.testing.assert_allclose(found, incremental_prediction(values, episodes, 0.2, 0.9), rtol=0, atol=1e-12)


def test_a_row_learns_the_same_alone_as_beside_longer_episodes(rng: np.random.Generator) -> None:
    episodes, values = walks(5, 6, rng), guesses(6, 5, rng)
    updates: list[Update] = [
        td.td0,
        partial(td.n_step_td, n=3),
        partial(td.td_lambda, trace=0.8),
        partial(td.td_lambda, trace=0.8, replacing=True),
        partial(td.true_online_td_lambda, trace=0.8),
        incremental_prediction,
    ]

    for update in updates:
        together = update(values, episodes, 0.3, 0.9)
        for row, one in enumerate(episodes.split()):
            length = int((one.states[0] < 5).sum())
            short = Episodes(one.states[:, : length + 1], one.actions[:, :length], one.rewards[:, :length])
            np.testing.assert_allclose(
                update(values[row : row + 1], short, 0.3, 0.9)[0], together[row], rtol=0, atol=1e-12
            )


def test_replacing_eligibilitydo_not_grow_with_every_visit() -> None:
    episodes = from_steps([[(0, 0.0), (0, 0.0), (0, 1.0)]], end=1)

    accumulated = td.td_lambda(np.zeros((1, 2)), episodes, 0.1, 1.0, 1.0)
    replaced = td.td_lambda(np.zeros((1, 2)), episodes, 0.1, 1.0, 1.0, replacing=True)

    assert accumulated[0, 0] == pytest.approx(0.3)
    assert replaced[0, 0] == pytest.approx(0.1)


@pytest.fixture(scope="module")
def ten_episodes() -> list[Episodes]:
    """The first ten episodes of a hundred runs of the 19-state walk of figure 7.2."""
    walk: FiniteMDP = worlds.random_walk(19, left=-1)
    rng = np.random.default_rng(0)
    return [play(walk, uniform(walk), 100, rng) for _ in range(10)]


@pytest.mark.parametrize(
    ("update", "alphas", "least"),
    [
        (partial(td.n_step_td, n=1), [0.8], 0.346),
        (partial(td.n_step_td, n=4), [0.4], 0.265),
        (partial(td.n_step_td, n=16), [0.1, 0.2, 0.3], 0.313),
        (partial(td.td_lambda, trace=0.0), [0.8], 0.346),
        (partial(td.td_lambda, trace=0.8), [0.3], 0.264),
        (partial(td.td_lambda, trace=1.0), [0.01, 0.02, 0.03], 0.498),
    ],
    ids=["1 step", "4 steps", "16 steps", "lambda 0", "lambda 0.8", "lambda 1"],
)
def test_nineteen_states_are_learned_as_well_as_in_the_textbooks_figures(
    update: Update, alphas: list[float], least: float, ten_episodes: list[Episodes]
) -> None:
    """Figures 7.2 and 12.3: root mean square errors over the states, meaned over ten episodes and a
    hundred runs.
    """
    true, best = np.arange(-9, 10) / 10, np.inf
    for alpha in alphas:
        values, errors = np.zeros((100, 20)), []
        for episodes in ten_episodes:
            values = update(values, episodes, alpha, 1.0)
            errors.append(np.sqrt(((values[:, :-1] - true) ** 2).mean(1)).mean())
        best = min(best, float(np.mean(errors)))

    assert best == pytest.approx(least, abs=0.02)
