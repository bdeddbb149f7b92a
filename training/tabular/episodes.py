"""Episodes as arrays: N of them, padded by the end, so that prediction reads as its formulas."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.tabular.mdp import FiniteMDP


@dataclass(frozen=True)
class Episodes:
    """N episodes of at most T steps: states int64 [N, T + 1], actions int64 [N, T], rewards float64 [N, T].

    Every episode ends in the state S, which fills the rest of its row, with actions 0 and rewards 0. What is computed beyond an
    end is therefore computed from zeros, and changes nothing.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray

    @property
    def steps(self) -> int:
        """T."""
        return len(self.rewards[0])

    def each(self) -> Iterator["Episodes"]:
        """One after the other."""
        for row in range(len(self.states)):
            yield Episodes(self.states[row : row + 1], self.actions[row : row + 1], self.rewards[row : row + 1])

    def returns(self, gamma: float) -> np.ndarray:
        """G_t = R_t+1 + gamma G_t+1, float64 [N, T] (equation 3.9, p. 55)."""
        returns = np.zeros_like(self.rewards)
        following = np.zeros(len(self.rewards))
        for step in reversed(range(self.steps)):
            following = returns[:, step] = self.rewards[:, step] + gamma * following
        return returns

    def first_visits(self) -> np.ndarray:
        """Whether, bool [N, T], the state was not met before in its episode."""
        first = np.zeros(self.rewards.shape, bool)
        for row, states in enumerate(self.states[:, :-1]):
            first[row, np.unique(states, return_index=True)[1]] = True
        return first


def written(steps: Sequence[Sequence[tuple[int, float]]], end: int) -> Episodes:
    """Episodes written as [(state, reward that followed), ...] of `end` states, with one action."""
    longest = max(map(len, steps))
    states, rewards = np.full((len(steps), longest + 1), end), np.zeros((len(steps), longest))
    for row, one in enumerate(steps):
        states[row, : len(one)], rewards[row, : len(one)] = zip(*one, strict=True)
    return Episodes(states, np.zeros(rewards.shape, np.int64), rewards)


def play(
    mdp: FiniteMDP,
    policy: np.ndarray,
    count: int,
    random: np.random.Generator,
    starts: np.ndarray | None = None,
    limit: int | None = None,
) -> Episodes:
    """`count` episodes of pi(a | s), float64 [S + 1, A], side by side until the last has ended.

    `starts` int64 [count, 2] gives first states and actions, otherwise the model's own start and the policy draw them. After
    `limit` steps an episode is cut, and counts as ended there.
    """
    states = [mdp.starts(count, random) if starts is None else starts[:, 0]]
    actions: list[np.ndarray] = []
    rewards: list[np.ndarray] = []
    while (states[-1] < mdp.states).any() and (limit is None or len(actions) < limit):
        chosen = draw(policy[states[-1]], random) if starts is None or actions else starts[:, 1]
        running = states[-1] < mdp.states
        earned, following = np.zeros(count), np.full(count, mdp.states)
        earned[running], following[running] = mdp.step(states[-1][running], chosen[running], random)
        actions.append(np.where(running, chosen, 0))
        rewards.append(earned)
        states.append(following)
    states[-1] = np.full(count, mdp.states)
    return Episodes(np.stack(states, 1), np.stack(actions, 1), np.stack(rewards, 1))


def draw(chances: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Actions int64 [N] from their chances [N, A]."""
    likely = chances.cumsum(1)
    actions: np.ndarray = (random.random((len(chances), 1)) * likely[:, -1:] >= likely).sum(1)
    return actions
