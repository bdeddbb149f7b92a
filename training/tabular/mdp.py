"""A finite Markov decision process as arrays: what planning sums over, and what many copies step through at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from marina.errors import CallError

Outcome = tuple[float, int, float, bool]  # probability, next state, reward, whether the episode ends there


@dataclass(frozen=True)
class FiniteMDP:
    """S states, A actions, at most K outcomes of each; the next state S is the end.

    `probability` float64 [S, A, K] sums to 1 over K, or to 0 where a state doesn't have the action; `following` int64
    [S, A, K] in 0..S; `rewards` float64 [S, A, K]; `start` float64 [S] sums to 1.
    """

    probability: np.ndarray
    following: np.ndarray
    rewards: np.ndarray
    start: np.ndarray

    @property
    def states(self) -> int:
        """S, which is also the number of the end."""
        return len(self.probability)

    @property
    def actions(self) -> int:
        """A."""
        return len(self.probability[0])

    @property
    def allowed(self) -> np.ndarray:
        """Which actions a state has, bool [S + 1, A]. The end has all, they do nothing."""
        return np.append(self.probability.sum(2) > 0, np.ones((1, self.actions), bool), 0)

    def action_values(self, values: np.ndarray, gamma: float) -> np.ndarray:
        """q(s, a) = sum of p(s', r | s, a) (r + gamma v(s')), float64 [S + 1, A], from v float64 [S + 1] (equation 4.6, p. 79).

        Minus infinity for actions that a state doesn't have, 0 at the end.
        """
        expected = (self.probability * (self.rewards + gamma * values[self.following])).sum(2)
        return np.where(self.allowed, np.append(expected, np.zeros((1, self.actions)), 0), -np.inf)

    def step(self, states: np.ndarray, actions: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(rewards float64 [N], next states int64 [N]) of N copies, from states int64 [N] by actions int64 [N]."""
        likely = self.probability[states, actions].cumsum(1)
        outcome = (random.random((len(states), 1)) * likely[:, -1:] >= likely).sum(1)
        return self.rewards[states, actions, outcome], self.following[states, actions, outcome]

    def starts(self, count: int, random: np.random.Generator) -> np.ndarray:
        """First states, int64 [count]."""
        return random.choice(self.states, count, p=self.start)


def from_table(table: Mapping[int, Mapping[int, Sequence[Outcome]]], start: np.ndarray | int, actions: int | None = None) -> FiniteMDP:
    """Read {state: {action: [(probability, next state, reward, ends)]}}, as gymnasium writes it, states counted from 0.

    `start` is a state, or float64 [S]; `actions` is their number where no state has the last ones. A probability of 0 is allowed.
    """
    count, number = len(table), actions or 1 + max(action for row in table.values() for action in row)
    most = max(len(outcomes) for row in table.values() for outcomes in row.values())
    probability, rewards = np.zeros((count, number, most)), np.zeros((count, number, most))
    following = np.full((count, number, most), count)
    for state, row in table.items():
        for action, outcomes in row.items():
            for place, (likely, target, reward, ends) in enumerate(outcomes):
                probability[state, action, place] = likely
                following[state, action, place] = count if ends else target
                rewards[state, action, place] = reward
    total = probability.sum(2, keepdims=True)
    first = np.eye(count)[start] if isinstance(start, int) else start
    return FiniteMDP(np.divide(probability, total, out=probability, where=total > 0), following, rewards, first)


def from_environment(env: gymnasium.Env[Any, Any]) -> FiniteMDP:
    """The transition table that gymnasium's FrozenLake, Taxi and CliffWalking carry as `P`. Raises CallError without one."""
    inner = env.unwrapped
    if not hasattr(inner, "P") or not hasattr(inner, "initial_state_distrib"):
        name = env.spec.id if env.spec else type(inner).__name__
        raise CallError(f"{name} has no transition table; take one that has, like FrozenLake-v1, Taxi-v4 or CliffWalking-v1, or recipe dqn")
    mdp = from_table(inner.P, np.asarray(inner.initial_state_distrib, float))
    if (mdp.probability < 0).any():
        raise CallError(f"{env.spec and env.spec.id}: its transition table has chances below 0; correct its options")
    return mdp
