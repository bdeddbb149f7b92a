"""Planning on known models: the values of the textbook and of gymnasium's environments."""

import gymnasium
import numpy as np
import pytest

from marina.core.errors import CallError
from training.policies.tabular import worlds
from training.policies.tabular.mdp import FiniteMDP, from_environment, from_table
from training.policies.tabular.planning import (
    expectation,
    greedy,
    policy_evaluation,
    policy_evaluation_exact,
    policy_iteration,
    uniform,
    value_iteration,
)


def model(environment: str, **options: object) -> FiniteMDP:
    return from_environment(gymnasium.make(environment, **options))


def at_start(mdp: FiniteMDP, values: np.ndarray) -> float:
    """What is expected before the first state is known."""
    return float(mdp.start @ values[:-1])


@pytest.mark.parametrize("states", [5, 19])
def test_a_random_walk_is_worth_its_chance_to_leave_on_the_right(states: int) -> None:
    walk = worlds.random_walk(states)

    values = policy_evaluation(walk, uniform(walk), 1)

    np.testing.assert_allclose(values, [*np.arange(1, states + 1) / (states + 1), 0], atol=1e-9)


def test_the_gridworld_under_a_random_policy_has_the_textbooks_values() -> None:
    world = worlds.gridworld()

    values = policy_evaluation(world, uniform(world), 1)

    expected = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    np.testing.assert_allclose(values[:-1].reshape(4, 4), expected, atol=1e-8)


@pytest.mark.parametrize(("gamma", "start"), [(0.9, 0.068891), (0.99, 0.542026), (1.0, 0.823529)])
def test_frozen_lake_is_worth_what_is_known(gamma: float, start: float) -> None:
    lake = model("FrozenLake-v1")

    values = value_iteration(lake, gamma)[0].max(1)

    assert values[0] == pytest.approx(start, abs=1e-6)


def test_the_large_frozen_lake_is_worth_what_is_known() -> None:
    values = value_iteration(model("FrozenLake-v1", map_name="8x8"), 0.99)[0].max(1)

    assert values[0] == pytest.approx(0.414640, abs=1e-6)


def test_taxi_and_the_cliff_cost_what_is_known() -> None:
    taxi, cliff = model("Taxi-v4"), model("CliffWalking-v1")

    assert at_start(taxi, value_iteration(taxi, 1)[0].max(1)) == pytest.approx(7.93, abs=1e-9)
    assert at_start(cliff, value_iteration(cliff, 1)[0].max(1)) == -13


@pytest.mark.parametrize(
    ("natural_wins", "best", "cautious"), [(False, -0.0466, -0.354), (True, -0.0431, -0.350)]
)
def test_blackjack_is_worth_what_is_known(natural_wins: bool, best: float, cautious: float) -> None:
    game = worlds.blackjack(natural_wins)
    own = np.append(np.unravel_index(np.arange(704), worlds.BLACKJACK_SIZES)[0], [21] * 12)

    sticks_on_20 = policy_evaluation(game, np.eye(2)[np.where(own >= 20, worlds.STICK, worlds.HIT)], 1)

    assert at_start(game, value_iteration(game, 1)[0].max(1)) == pytest.approx(best, abs=5e-5)
    assert at_start(game, sticks_on_20) == pytest.approx(cautious, abs=5e-4)


def test_blackjack_is_best_played_as_the_textbook_does() -> None:
    best = (
        value_iteration(worlds.blackjack(natural_wins=False), 1)[0]
        .argmax(1)[:704]
        .reshape(worlds.BLACKJACK_SIZES)
    )

    # from ace to ten, without a usable ace
    hits_below = [int(np.argmin(best[11:22, card, 0])) + 11 for card in range(1, 11)]
    assert hits_below == [17, 13, 13, 12, 12, 12, 17, 17, 17, 17]
    assert [int(np.argmin(best[11:22, card, 1])) + 11 for card in range(2, 11)] == [
        18,
        18,
        18,
        18,
        18,
        18,
        18,
        19,
        19,
    ]


def test_blackjacks_model_moves_and_pays_like_the_environment() -> None:
    game, env = worlds.blackjack(), gymnasium.make("Blackjack-v1")
    policy = np.full((716, 2), 0.5)
    expected, rng = at_start(game, policy_evaluation(game, policy, 1)), np.random.default_rng(0)
    returns, firsts = [], np.zeros(704)

    for seed in range(4000):
        observation, _ = env.reset(seed=seed)
        firsts[worlds.blackjack_state(*observation)] += 1
        ended = False
        while not ended:
            before = observation
            action = int(rng.integers(2))
            observation, reward, ended, _, _ = env.step(action)
            if action == worlds.HIT and not ended:
                state = worlds.blackjack_state(*before)
                assert worlds.blackjack_state(*observation) in game.next_states[state, action]
        returns.append(float(reward))

    assert np.mean(returns) == pytest.approx(expected, abs=4 * np.std(returns) / 4000**0.5)
    starts = game.start[:704].copy()
    starts[[worlds.blackjack_state(21, card, 1) for card in range(11)]] += game.start[704:]
    assert (firsts[starts == 0] == 0).all()
    np.testing.assert_allclose(firsts / 4000, starts, atol=0.015)


def test_gamblers_problem_has_its_known_values() -> None:
    """The gambler's problem has its known values, and a gambler without capital zero."""
    values = value_iteration(worlds.gambler(), 1)[0].max(1)

    np.testing.assert_allclose(values[[0, 25, 50, 75]], [0, 0.16, 0.4, 0.64], atol=1e-9)


def test_the_shortest_ways_take_fifteen_and_fourteen_steps() -> None:
    windy, maze = worlds.windy_gridworld(), worlds.maze()

    assert value_iteration(windy, 1)[0].max(1) @ np.append(windy.start, 0) == -15
    assert value_iteration(maze, 0.95)[0].max(1) @ np.append(maze.start, 0) == pytest.approx(0.95**13)


@pytest.mark.parametrize("environment", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_policy_and_value_iteration_agree(environment: str) -> None:
    world = model(environment)

    by_values, sweeps = value_iteration(world, 0.9)
    by_policies, rounds = policy_iteration(world, 0.9)

    np.testing.assert_allclose(by_values, by_policies, atol=1e-9)
    assert rounds < sweeps


def test_iterative_evaluation_equals_the_linear_equations() -> None:
    """Evaluation by iteration equals the linear equations, also for a random world."""
    rng = np.random.default_rng(5)
    chances = rng.dirichlet(np.ones(4), (7, 3))
    world = FiniteMDP(chances, rng.integers(0, 8, (7, 3, 4)), rng.normal(size=(7, 3, 4)), np.eye(7)[0])
    policy = np.append(rng.dirichlet(np.ones(3), 7), np.ones((1, 3)) / 3, 0)

    iterated = policy_evaluation(world, policy, 0.97)

    np.testing.assert_allclose(iterated, policy_evaluation_exact(world, policy, 0.97), atol=1e-9)
    slow = [
        sum(
            policy[state, action]
            * world.probability[state, action, k]
            * (world.rewards[state, action, k] + 0.97 * iterated[world.next_states[state, action, k]])
            for action in range(3)
            for k in range(4)
        )
        for state in range(7)
    ]
    np.testing.assert_allclose(iterated[:-1], slow, atol=1e-9)


def test_a_state_is_never_left_by_an_action_that_it_does_not_have() -> None:
    gambler = worlds.gambler()
    q = value_iteration(gambler, 1)[0]

    assert np.isneginf(q[5, 6:]).all()
    assert np.isneginf(q[5, 0])
    assert expectation(greedy(q), q)[50] == pytest.approx(0.4)
    np.testing.assert_allclose(uniform(gambler)[2, :4], [0, 0.5, 0.5, 0])


def test_steps_are_drawn_with_the_tables_probabilities() -> None:
    """Steps are drawn with the table's probabilities, and the end is the last state."""
    world = from_table(
        {
            0: {0: [(0.2, 0, 1.0, False), (0.5, 1, 2.0, False), (0.3, 0, 3.0, True)]},
            1: {0: [(1.0, 1, 0.0, False)]},
        },
        0,
    )
    rng = np.random.default_rng(0)

    rewards, next_states = world.step(np.zeros(20_000, int), np.zeros(20_000, int), rng)

    np.testing.assert_allclose(np.bincount(next_states) / 20_000, [0.2, 0.5, 0.3], atol=0.015)
    assert (rewards == next_states[:, None] @ [1] + 1).all()


def test_environment_without_a_valid_table_is_refused() -> None:
    """Environments without a table, or with an impossible one, are refused."""
    with pytest.raises(
        CallError, match=r"CartPole-v1 has no transition table; use one that has, like FrozenLake-v1"
    ):
        model("CartPole-v1")
    with pytest.raises(CallError, match="negative probabilities"):
        model("FrozenLake-v1", success_rate=2)
