"""Monte Carlo: values from the returns of whole episodes, without a model."""

import numpy as np

from training.policies.tabular.episodes import Episodes, play
from training.policies.tabular.mdp import FiniteMDP
from training.policies.tabular.vector_mdp import ControlConfig, ControlResult, EpisodeLog


def first_visit_prediction(episodes: Episodes, end: int, gamma: float) -> np.ndarray:
    """Values float64 [end + 1]: the mean return after the first visit of a state in each episode.

    Section 5.1, p. 92.
    """
    return _mean(episodes.states[:, :-1], episodes.returns(gamma), episodes.first_visits(), end)


def every_visit_prediction(episodes: Episodes, end: int, gamma: float) -> np.ndarray:
    """Values float64 [end + 1]: the mean return after every visit of a state.

    Section 5.1, p. 92; Singh and Sutton 1996.
    """
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

    values float64 [N, S + 1]: N separate estimates, each of which learns from its own episode; the new ones
    are returned.
    """
    values, rows, returns = values.copy(), np.arange(len(values)), episodes.returns(gamma)
    for step in range(episodes.steps):
        states = episodes.states[:, step]
        values[rows, states] += alpha * (returns[:, step] - values[rows, states])
    return values


def control(world: FiniteMDP, config: ControlConfig, exploring_starts: bool = False) -> ControlResult:
    """On-policy control: play episodes, set q to the mean return of all first visits, improve the policy.

    Section 5.4, p. 101; with `exploring_starts`, where first states and actions are drawn uniformly, section
    5.3, p. 99. It stops once num_envs x steps have been taken. A truncated episode counts as ended.
    """
    rng, pairs = np.random.default_rng(config.seed), np.argwhere(world.valid_actions[:-1])
    num_envs, size = config.num_envs, (world.states + 1, world.actions)
    sums, counts, taken = np.zeros(size), np.zeros(size), 0
    q = np.where(world.valid_actions, config.initial, -np.inf)
    finished = []
    while taken < num_envs * config.steps:
        starts = rng.choice(pairs, num_envs) if exploring_starts else None
        played = play(world, config.explore(q, counts.sum(1)), num_envs, rng, starts, config.limit)
        pairs_of = played.states * world.actions + np.pad(played.actions, ((0, 0), (0, 1)))
        paired = Episodes(pairs_of, played.actions, played.rewards)
        counted = paired.first_visits() & (played.states[:, :-1] < world.states)
        where = paired.states[:, :-1][counted]
        counts += np.bincount(where, minlength=counts.size).reshape(size)
        sums += np.bincount(where, played.returns(config.gamma)[counted], minlength=counts.size).reshape(size)
        q = np.divide(sums, counts, out=q, where=counts > 0)
        lengths = (played.states[:, :-1] < world.states).sum(1)
        taken += int(lengths.sum())
        finished.append(
            (np.full(num_envs, taken // num_envs), np.arange(num_envs), lengths, played.rewards.sum(1))
        )
    return ControlResult(q[None], EpisodeLog(*map(np.concatenate, zip(*finished, strict=True))))
