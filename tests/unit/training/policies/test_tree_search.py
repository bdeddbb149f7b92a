"""UCT on known models: exact values, a game that is never lost, and the optimal policy of FrozenLake."""

import gymnasium
import numpy as np
import pytest

from training.policies.tabular import worlds
from training.policies.tabular.mdp import from_environment, from_table
from training.policies.tabular.planning import value_iteration
from training.policies.tabular.tree_search import uct


def test_bandit_visits_follow_rewards_and_skip_missing_actions() -> None:
    """A bandit's visits go where it pays; an action that a state lacks is never tried."""
    world = from_table({0: {0: [(1.0, 0, 0.2, True)], 1: [(1.0, 0, 0.9, True)]}}, 0, actions=3)

    values, visits = uct(world, np.array([0]), 500, 1, 1.0, 0.5, 0)

    assert visits[0, 2] == 0
    assert visits.sum() == 500
    assert visits[0, 1] > 450
    np.testing.assert_allclose(values, [[0.2, 0.9, -np.inf]], rtol=1e-5)


def test_the_way_over_ice_without_slipping_is_worth_its_length() -> None:
    lake = from_environment(gymnasium.make("FrozenLake-v1", is_slippery=False))
    best = value_iteration(lake, 0.9)[0].max(1)[:-1]
    roots = np.flatnonzero((best > 0) & (best.round(4) >= 0.9**2))  # up to three steps from the goal

    values, visits = uct(lake, roots, 3000, 12, 0.9, 0.1, 0)

    taken = values[np.arange(len(roots)), visits.argmax(1)]
    np.testing.assert_allclose(taken, best[roots], atol=0.05)
    optimal = value_iteration(lake, 0.9)[0][roots]
    assert (optimal[np.arange(len(roots)), visits.argmax(1)] >= best[roots] - 1e-9).all()


def test_tic_tac_toe_is_a_draw_and_never_lost() -> None:
    """Tic-tac-toe is worth a draw and is never lost against perfect play."""
    world, numbers = worlds.tic_tac_toe()
    rng, states, total = np.random.default_rng(0), np.full(12, numbers[(0,) * 9]), np.zeros(12)

    assert value_iteration(world, 1.0)[0][0].max() == 0
    for move in range(5):
        going = np.flatnonzero(states < world.states)
        if not len(going):
            break
        _, visits = uct(world, states[going], 400, 5 - move, 1.0, 1.0, move)
        rewards, states[going] = world.step(states[going], visits.argmax(1), rng)
        total[going] += rewards

    assert (states == world.states).all()
    assert total.tolist() == [0] * 12


@pytest.mark.parametrize("seed", [0, 1])
def test_random_moves_lose_against_perfect_play(seed: int) -> None:
    world, _ = worlds.tic_tac_toe()
    rng, states, total = np.random.default_rng(seed), np.zeros(200, np.int64), np.zeros(200)
    for _ in range(5):
        going = np.flatnonzero(states < world.states)
        actions = (world.valid_actions[states[going]] * rng.random((len(going), 9))).argmax(1)
        rewards, states[going] = world.step(states[going], actions, rng)
        total[going] += rewards

    assert total.mean() < -0.6
