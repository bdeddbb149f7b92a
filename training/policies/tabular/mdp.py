"""A finite Markov decision process as arrays, for planning and for many environments at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from marina.core.errors import CallError

Outcome = tuple[float, int, float, bool]  # probability, next state, reward, whether the episode ends there


@dataclass(frozen=True)
class FiniteMDP:
    """S states, A actions, at most K outcomes of each; the next state S is the end.

    `probability` float64 [S, A, K] sums to 1 over K, or to 0 where a state doesn't have the action;
    `next_states` int64 [S, A, K] in 0..S; `rewards` float64 [S, A, K]; `start` float64 [S] sums to 1.
    """

    probability: np.ndarray
    next_states: np.ndarray
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
    def valid_actions(self) -> np.ndarray:
        """Which actions a state has, bool [S + 1, A]. The end has all, they do nothing."""
        return np.append(self.probability.sum(2) > 0, np.ones((1, self.actions), bool), 0)

    def action_values(self, values: np.ndarray, gamma: float) -> np.ndarray:
        """q(s, a) = sum of p(s', r | s, a) (r + gamma v(s')), float64 [S + 1, A], of v float64 [S + 1].

        Equation 4.6, p. 79. Minus infinity for actions that a state doesn't have, 0 at the end.
        """
        expected = (self.probability * (self.rewards + gamma * values[self.next_states])).sum(2)
        return np.where(self.valid_actions, np.append(expected, np.zeros((1, self.actions)), 0), -np.inf)

    def step(
        self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """(rewards float64 [N], next states int64 [N]) from states int64 [N] by actions int64 [N]."""
        cumulative = self.probability[states, actions].cumsum(1)
        outcome = (rng.random((len(states), 1)) * cumulative[:, -1:] >= cumulative).sum(1)
        return self.rewards[states, actions, outcome], self.next_states[states, actions, outcome]

    def sample_starts(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw first states, int64 [count]."""
        return rng.choice(self.states, count, p=self.start)


def from_table(
    table: Mapping[int, Mapping[int, Sequence[Outcome]]], start: np.ndarray | int, actions: int | None = None
) -> FiniteMDP:
    """Read {state: {action: [(probability, next state, reward, ends)]}}, as gymnasium writes it.

    States are counted from 0. `start` is a state, or float64 [S]; `actions` is their number where no state
    has the last ones. A probability of 0 is allowed.
    """
    num_states, num_actions = (
        len(table),
        actions or 1 + max(action for row in table.values() for action in row),
    )
    num_outcomes = max(len(outcomes) for row in table.values() for outcomes in row.values())
    size = (num_states, num_actions, num_outcomes)
    probability, rewards = np.zeros(size), np.zeros(size)
    next_states = np.full(size, num_states)
    for state, row in table.items():
        for action, outcomes in row.items():
            for index, (prob, target, reward, ends) in enumerate(outcomes):
                probability[state, action, index] = prob
                next_states[state, action, index] = num_states if ends else target
                rewards[state, action, index] = reward
    total = probability.sum(2, keepdims=True)
    start_probs = np.eye(num_states)[start] if isinstance(start, int) else start
    np.divide(probability, total, out=probability, where=total > 0)
    return FiniteMDP(probability, next_states, rewards, start_probs)


def from_environment(env: gymnasium.Env[Any, Any]) -> FiniteMDP:
    """From the transition table `P` of gymnasium's FrozenLake, Taxi and CliffWalking.

    Raises CallError for an environment without one.
    """
    inner = env.unwrapped
    if not hasattr(inner, "P") or not hasattr(inner, "initial_state_distrib"):
        name = env.spec.id if env.spec else type(inner).__name__
        raise CallError(
            f"{name} has no transition table; "
            "use one that has, like FrozenLake-v1, Taxi-v4 or CliffWalking-v1, or the recipe dqn"
        )
    mdp = from_table(inner.P, np.asarray(inner.initial_state_distrib, float))
    if (mdp.probability < 0).any():
        raise CallError(
            f"{env.spec and env.spec.id}: its transition table has negative probabilities; "
            "correct its options"
        )
    return mdp
