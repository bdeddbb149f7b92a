"""Control with eligibility traces: each error moves all pairs (state, action) on the way to it, the nearest the most.

Traces are replacing, e(S, A) = 1, and fade by gamma lambda per step (Singh and Sutton 1996).
"""

import numpy as np

from training.tabular.copies import Learned, Learning, begin
from training.tabular.mdp import FiniteMDP


def sarsa_lambda(world: FiniteMDP, how: Learning) -> Learned:
    """SARSA's error along the traces (Rummery and Niranjan 1994; section 12.7, p. 303); lambda 0 is SARSA."""
    copies, table = begin(world, how)
    eligible, rows = np.zeros((how.copies, *table.q.shape[1:])), np.arange(how.copies)
    actions = table.choose(copies.states)
    for _ in range(how.steps):
        states = copies.states
        rewards, following = copies.step(actions)
        next_actions = table.choose(following)
        errors = rewards + how.gamma * table.at(following)[rows, next_actions] - table.at(states)[rows, actions]
        eligible *= how.gamma * how.trace
        eligible[rows, states, actions] = 1
        table.learn_along(states, actions, errors, eligible)
        eligible[copies.fresh] = 0
        actions = np.where(copies.fresh, table.choose(copies.states), next_actions)
    return Learned(table.q, copies.finished())


def watkins_q(world: FiniteMDP, how: Learning) -> Learned:
    """Q-learning's error along the traces, which are cut where the next action isn't a best one (Watkins 1989; section 12.10, p. 312)."""
    copies, table = begin(world, how)
    eligible, rows = np.zeros((how.copies, *table.q.shape[1:])), np.arange(how.copies)
    actions = table.choose(copies.states)
    for _ in range(how.steps):
        states = copies.states
        rewards, following = copies.step(actions)
        next_actions, ahead = table.choose(following), table.at(following)
        explores = ahead[rows, next_actions] < ahead.max(1)
        errors = rewards + how.gamma * ahead.max(1) - table.at(states)[rows, actions]
        eligible *= how.gamma * how.trace
        eligible[rows, states, actions] = 1
        table.learn_along(states, actions, errors, eligible)
        eligible[copies.fresh | explores] = 0
        actions = np.where(copies.fresh, table.choose(copies.states), next_actions)
    return Learned(table.q, copies.finished())
