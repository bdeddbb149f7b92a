"""What all control algorithms share: copies of a world that step at once, and the tables that they fill.

N copies either fill one table together, which is fast, or one each, which makes N separate runs of an experiment.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from training.tabular.episodes import draw
from training.tabular.exploration import Explore
from training.tabular.mdp import FiniteMDP


@dataclass(frozen=True)
class Learning:
    """How control learns. The step size of an update is alpha / visits^power of its (state, action).

    With 0.5 < power <= 1 these are the step sizes under which Q-learning converges (Even-Dar and Mansour 2003, "Learning rates
    for Q-learning"); power 0 keeps alpha constant.
    """

    explore: Explore
    steps: int  # of every copy
    alpha: float = 0.1
    power: float = 0.0
    gamma: float = 1.0
    initial: float = 0.0  # first value of every action; above what can be earned it is optimistic (section 2.6, p. 34)
    copies: int = 1
    shared: bool = True  # one table for all copies, instead of one each
    limit: int | None = None  # steps after which an episode is cut; the value beyond the cut still counts
    trace: float = 0.9  # lambda
    planning: int = 10  # updates by the model, or replays of an episode, for each real one
    seed: int = 0


class Finished(NamedTuple):
    """Episodes in the order of their ends: int64 [E] step of the copies, copy, length; float64 [E] undiscounted return."""

    step: np.ndarray
    copy: np.ndarray
    length: np.ndarray
    earned: np.ndarray

    def by_copy(self, values: np.ndarray, copies: int) -> np.ndarray:
        """`values` [E] as [copies, episodes], as many episodes as all copies finished."""
        rows = [values[self.copy == copy] for copy in range(copies)]
        return np.stack([row[: min(map(len, rows))] for row in rows])


class Learned(NamedTuple):
    """q float64 [tables, S + 1, A], and what the episodes earned while it was learned."""

    q: np.ndarray
    finished: Finished


class Copies:
    """N copies of a world. `states` int64 [N] is where they are, never at the end: what ends starts anew, and is `fresh` then."""

    def __init__(self, world: FiniteMDP, how: Learning, random: np.random.Generator) -> None:
        self.world, self.random, self.limit = world, random, how.limit or np.inf
        self.states = world.starts(how.copies, random)
        self.fresh = np.ones(how.copies, bool)
        self.steps, self.lengths, self.earned = 0, np.zeros(how.copies, np.int64), np.zeros(how.copies)
        self._finished: list[tuple[np.ndarray, ...]] = []

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rewards float64 [N], next states int64 [N], S for the end); where an episode was cut, the state that it reached."""
        rewards, following = self.world.step(self.states, actions, self.random)
        self.steps += 1
        self.lengths += 1
        self.earned += rewards
        self.fresh = (following == self.world.states) | (self.lengths >= self.limit)
        self.states = following
        if self.fresh.any():
            ended = np.flatnonzero(self.fresh)
            self._finished.append((np.full(len(ended), self.steps), ended, self.lengths[ended], self.earned[ended]))
            self.states = following.copy()
            self.states[ended] = self.world.starts(len(ended), self.random)
            self.lengths[ended], self.earned[ended] = 0, 0
        return rewards, following

    def finished(self) -> Finished:
        """The episodes so far."""
        if not self._finished:
            nothing = np.zeros(0, np.int64)
            return Finished(nothing, nothing, nothing, np.zeros(0))
        return Finished(*map(np.concatenate, zip(*self._finished, strict=True)))


class Table:
    """Action values `q` and `visits`, float64 [L, S + 1, A], where L is 1 or the number of copies."""

    def __init__(self, world: FiniteMDP, how: Learning, random: np.random.Generator) -> None:
        self.how, self.random = how, random
        self.rows = np.zeros(how.copies, np.int64) if how.shared else np.arange(how.copies)
        first = np.where(world.allowed, how.initial, -np.inf)
        first[-1] = 0
        self.q = np.repeat(first[None], self.rows[-1] + 1, 0)
        self.visits = np.zeros_like(self.q)

    def at(self, states: np.ndarray) -> np.ndarray:
        """Values [N, A] of the copies' states [N]."""
        values: np.ndarray = self.q[self.rows, states]
        return values

    def policy(self, states: np.ndarray) -> np.ndarray:
        """pi(a | s) [N, A] by which the copies act."""
        return self.how.explore(self.at(states), self.visits[self.rows, states].sum(1))

    def choose(self, states: np.ndarray) -> np.ndarray:
        """Actions int64 [N]."""
        return draw(self.policy(states), self.random)

    def learn(
        self, states: np.ndarray, actions: np.ndarray, targets: np.ndarray, part: np.ndarray | None = None, real: bool = True
    ) -> None:
        """q(s, a) <- q(s, a) + alpha (target - q(s, a)) for every copy, or those of `part` (bool [N]).

        Copies that meet in one entry of a table move it together, but by no more than alpha, as if to the mean of their
        targets. Updates that are not `real` leave the visits as they were.
        """
        of = slice(None) if part is None else part
        where = self.rows[of], states[of], actions[of]
        before = self.visits[where]
        np.add.at(self.visits, where, 1)
        after = self.visits[where]
        if not real:
            self.visits[where] = before
        size = self.how.alpha / np.maximum(np.maximum(after if real else before, 1) ** self.how.power, after - before)
        np.add.at(self.q, where, size * (targets[of] - self.q[where]))

    def learn_along(self, states: np.ndarray, actions: np.ndarray, errors: np.ndarray, eligible: np.ndarray) -> None:
        """Add alpha error e to q for every copy, with traces e float64 [N, S + 1, A].

        The visits that alpha is divided by are those of the entry that moves; in a table that copies share, they move an entry
        together by no more than alpha.
        """
        where = self.rows, states, actions
        np.add.at(self.visits, where, 1)
        visits = np.maximum(self.visits, 1) ** self.how.power
        if len(self.q) == len(self.rows):
            self.q += self.how.alpha * errors[:, None, None] * eligible / visits
        else:
            self.q[0] += self.how.alpha * np.tensordot(errors, eligible, 1) / np.maximum(visits[0], eligible.sum(0))


def begin(world: FiniteMDP, how: Learning) -> tuple[Copies, Table]:
    """Copies at their starts and an empty table."""
    random = np.random.default_rng(how.seed)
    return Copies(world, how, random), Table(world, how, random)
