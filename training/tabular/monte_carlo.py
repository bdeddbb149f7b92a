"""Monte Carlo: values from the returns of whole episodes, without a model."""

import numpy as np

from training.tabular.copies import Finished, Learned, Learning
from training.tabular.episodes import Episodes, play
from training.tabular.mdp import FiniteMDP


def first_visit_prediction(episodes: Episodes, end: int, gamma: float) -> np.ndarray:
    """Values float64 [end + 1]: the mean return after the first visit of a state in each episode (section 5.1, p. 92)."""
    return _mean(episodes.states[:, :-1], episodes.returns(gamma), episodes.first_visits(), end)


def every_visit_prediction(episodes: Episodes, end: int, gamma: float) -> np.ndarray:
    """Values float64 [end + 1]: the mean return after every visit of a state (section 5.1, p. 92; Singh and Sutton 1996)."""
    states = episodes.states[:, :-1]
    return _mean(states, episodes.returns(gamma), states < end, end)


def _mean(states: np.ndarray, returns: np.ndarray, counted: np.ndarray, end: int) -> np.ndarray:
    counts = np.bincount(states[counted], minlength=end + 1)
    sums = np.bincount(states[counted], returns[counted], minlength=end + 1)
    values = sums / np.maximum(counts, 1)
    values[end] = 0
    return values


def incremental_prediction(values: np.ndarray, episodes: Episodes, alpha: float, gamma: float) -> np.ndarray:
    """Every-visit constant-alpha Monte Carlo, v(S_t) <- v(S_t) + alpha (G_t - v(S_t)) (equation 6.1, p. 119).

    values float64 [N, S + 1]: N separate estimates, each of which learns from its own episode; the new ones are returned.
    """
    values, rows, returns = values.copy(), np.arange(len(values)), episodes.returns(gamma)
    for step in range(episodes.steps):
        states = episodes.states[:, step]
        values[rows, states] += alpha * (returns[:, step] - values[rows, states])
    return values


def control(world: FiniteMDP, how: Learning, exploring_starts: bool = False) -> Learned:
    """On-policy control: play `copies` episodes, make q the mean return of all first visits so far, make the policy of it again.

    That is section 5.4, p. 101; with `exploring_starts`, where first states and actions are drawn from all there are, section
    5.3, p. 99. It stops once copies x steps have been taken. A cut episode counts as ended.
    """
    random, pairs = np.random.default_rng(how.seed), np.argwhere(world.allowed[:-1])
    size = world.states + 1, world.actions
    sums, counts, taken = np.zeros(size), np.zeros(size), 0
    q = np.where(world.allowed, how.initial, -np.inf)
    finished = []
    while taken < how.copies * how.steps:
        starts = random.choice(pairs, how.copies) if exploring_starts else None
        seen = play(world, how.explore(q, counts.sum(1)), how.copies, random, starts, how.limit)
        paired = Episodes(seen.states * world.actions + np.pad(seen.actions, ((0, 0), (0, 1))), seen.actions, seen.rewards)
        counted = paired.first_visits() & (seen.states[:, :-1] < world.states)
        where = paired.states[:, :-1][counted]
        counts += np.bincount(where, minlength=counts.size).reshape(size)
        sums += np.bincount(where, seen.returns(how.gamma)[counted], minlength=counts.size).reshape(size)
        q = np.divide(sums, counts, out=q, where=counts > 0)
        lengths = (seen.states[:, :-1] < world.states).sum(1)
        taken += int(lengths.sum())
        finished.append((np.full(how.copies, taken // how.copies), np.arange(how.copies), lengths, seen.rewards.sum(1)))
    return Learned(q[None], Finished(*map(np.concatenate, zip(*finished, strict=True))))
