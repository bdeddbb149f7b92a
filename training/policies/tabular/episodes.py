"""Episodes as arrays: N of them, padded by the end, so that prediction reads as its formulas."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.policies.tabular.mdp import FiniteMDP


@dataclass(frozen=True)
class Episodes:
    """N episodes of at most T steps: states int64 [N, T + 1], actions int64 [N, T], rewards float64 [N, T].

    Every episode ends in the state S, which fills the rest of its row, with actions 0 and rewards 0. What is
    computed beyond an end is therefore computed from zeros, and changes nothing.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray

    @property
    def steps(self) -> int:
        """T."""
        return len(self.rewards[0])

    def split(self) -> Iterator["Episodes"]:
        """One after the other."""
        for row in range(len(self.states)):
            yield Episodes(
                self.states[row : row + 1], self.actions[row : row + 1], self.rewards[row : row + 1]
            )

    def returns(self, gamma: float) -> np.ndarray:
        """G_t = R_t+1 + gamma G_t+1, float64 [N, T] (equation 3.9, p. 55)."""
        returns = np.zeros_like(self.rewards)
        next_return = np.zeros(len(self.rewards))
        for step in reversed(range(self.steps)):
            next_return = returns[:, step] = self.rewards[:, step] + gamma * next_return
        return returns

    def first_visits(self) -> np.ndarray:
        """Whether, bool [N, T], the state was not met before in its episode."""
        first = np.zeros(self.rewards.shape, bool)
        for row, states in enumerate(self.states[:, :-1]):
            first[row, np.unique(states, return_index=True)[1]] = True
        return first


def from_steps(steps: Sequence[Sequence[tuple[int, float]]], end: int) -> Episodes:
    """Episodes from [(state, reward after it), ...] of `end` states, with one action."""
    longest = max(map(len, steps))
    states, rewards = np.full((len(steps), longest + 1), end), np.zeros((len(steps), longest))
    for row, episode in enumerate(steps):
        states[row, : len(episode)], rewards[row, : len(episode)] = zip(*episode, strict=True)
    return Episodes(states, np.zeros(rewards.shape, np.int64), rewards)


def play(
    mdp: FiniteMDP,
    policy: np.ndarray,
    count: int,
    rng: np.random.Generator,
    starts: np.ndarray | None = None,
    limit: int | None = None,
) -> Episodes:
    """`count` episodes of pi(a | s), float64 [S + 1, A], in parallel until the last has ended.

    `starts` int64 [count, 2] gives first states and actions, otherwise the model's own start and the policy
    sample them. After `limit` steps an episode is truncated, and counts as ended there.
    """
    states = [mdp.sample_starts(count, rng) if starts is None else starts[:, 0]]
    actions: list[np.ndarray] = []
    rewards: list[np.ndarray] = []
    while (states[-1] < mdp.states).any() and (limit is None or len(actions) < limit):
        taken = sample_actions(policy[states[-1]], rng) if starts is None or actions else starts[:, 1]
        running = states[-1] < mdp.states
        reward, next_states = np.zeros(count), np.full(count, mdp.states)
        reward[running], next_states[running] = mdp.step(states[-1][running], taken[running], rng)
        actions.append(np.where(running, taken, 0))
        rewards.append(reward)
        states.append(next_states)
    states[-1] = np.full(count, mdp.states)
    return Episodes(np.stack(states, 1), np.stack(actions, 1), np.stack(rewards, 1))


def sample_actions(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Actions int64 [N] by their probabilities [N, A]."""
    cumulative = probs.cumsum(1)
    actions: np.ndarray = (rng.random((len(probs), 1)) * cumulative[:, -1:] >= cumulative).sum(1)
    return actions
