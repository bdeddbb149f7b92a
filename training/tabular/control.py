"""One-step control: each step moves q(S, A) towards R + gamma times a value of the next state. They differ in which value."""

import numpy as np

from training.tabular.copies import Learned, Learning, Table, begin
from training.tabular.episodes import draw
from training.tabular.exploration import greedy
from training.tabular.mdp import FiniteMDP
from training.tabular.planning import expectation


def sarsa(world: FiniteMDP, how: Learning) -> Learned:
    """Towards R + gamma q(S', A'), with the action that is taken next: on-policy (Rummery and Niranjan 1994; section 6.4, p. 130)."""
    copies, table = begin(world, how)
    actions = table.choose(copies.states)
    for _ in range(how.steps):
        states = copies.states
        rewards, following = copies.step(actions)
        next_actions = table.choose(following)
        ahead = table.at(following)[np.arange(how.copies), next_actions]
        table.learn(states, actions, rewards + how.gamma * ahead)
        actions = np.where(copies.fresh, table.choose(copies.states), next_actions)
    return Learned(table.q, copies.finished())


def expected_sarsa(world: FiniteMDP, how: Learning) -> Learned:
    """Towards R + gamma sum of pi(a | S') q(S', a): SARSA without the chance of A' (van Seijen et al. 2009; section 6.6, p. 133)."""
    copies, table = begin(world, how)
    for _ in range(how.steps):
        states, actions = copies.states, table.choose(copies.states)
        rewards, following = copies.step(actions)
        table.learn(states, actions, rewards + how.gamma * expectation(table.policy(following), table.at(following)))
    return Learned(table.q, copies.finished())


def q_learning(world: FiniteMDP, how: Learning) -> Learned:
    """Towards R + gamma max q(S', a), whatever is done next: off-policy (Watkins 1989; section 6.5, p. 131)."""
    copies, table = begin(world, how)
    for _ in range(how.steps):
        states, actions = copies.states, table.choose(copies.states)
        rewards, following = copies.step(actions)
        table.learn(states, actions, rewards + how.gamma * table.at(following).max(1))
    return Learned(table.q, copies.finished())


def double_q_learning(world: FiniteMDP, how: Learning) -> Learned:
    """Two tables: one chooses the best next action, the other says what it is worth (van Hasselt 2010; section 6.7, p. 136).

    A coin says which one learns; both together act, and their mean is returned.
    """
    copies, table = begin(world, how)
    first, second = table, Table(world, how, table.random)
    rows = np.arange(how.copies)
    for _ in range(how.steps):
        states = copies.states
        visits = (first.visits + second.visits)[first.rows, states].sum(1)
        actions = draw(how.explore((first.at(states) + second.at(states)) / 2, visits), table.random)
        rewards, following = copies.step(actions)
        heads = table.random.random(how.copies) < 0.5
        chosen, judged = first.at(following), second.at(following)
        towards_first = judged[rows, draw(greedy(chosen), table.random)]
        towards_second = chosen[rows, draw(greedy(judged), table.random)]
        first.learn(states, actions, rewards + how.gamma * towards_first, heads)
        second.learn(states, actions, rewards + how.gamma * towards_second, ~heads)
    return Learned((first.q + second.q) / 2, copies.finished())
