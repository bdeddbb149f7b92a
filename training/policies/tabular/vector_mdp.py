"""What all control algorithms share: environments of a model that step together, and the tables they fill.

N environments either fill one table together, which is fast, or one each, which makes N separate runs of an
experiment.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from training.policies.tabular.episodes import sample_actions
from training.policies.tabular.exploration import Explore
from training.policies.tabular.mdp import FiniteMDP


@dataclass(frozen=True)
class ControlConfig:
    """How control learns. The step size of an update is alpha / visits^power of its (state, action).

    With 0.5 < power <= 1 these are the step sizes under which Q-learning converges (Even-Dar and Mansour
    2003, "Learning rates for Q-learning"); power 0 keeps alpha constant.
    """

    explore: Explore
    steps: int  # of every environment
    alpha: float = 0.1
    power: float = 0.0
    gamma: float = 1.0
    # first value of every action; above every return it is optimistic (section 2.6, p. 34)
    initial: float = 0.0
    num_envs: int = 1
    shared: bool = True  # one table for all environments, instead of one each
    limit: int | None = None  # steps after which an episode is truncated, and its value bootstrapped
    trace: float = 0.9  # lambda
    planning_steps: int = 10  # updates by the model, or replays of an episode, for each real one
    seed: int = 0


class EpisodeLog(NamedTuple):
    """Episodes in the order of their ends: int64 [E] step, environment and length, float64 [E] return.

    Returns are undiscounted; a step is one of all environments.
    """

    step: np.ndarray
    env: np.ndarray
    length: np.ndarray
    returns: np.ndarray

    def by_env(self, values: np.ndarray, num_envs: int) -> np.ndarray:
        """`values` [E] as [num_envs, episodes], as many episodes as all environments have finished."""
        rows = [values[self.env == env] for env in range(num_envs)]
        return np.stack([row[: min(map(len, rows))] for row in rows])


class ControlResult(NamedTuple):
    """q float64 [tables, S + 1, A], and the episodes from which it was learned."""

    q: np.ndarray
    episodes: EpisodeLog


class VectorMDP:
    """N environments of one model.

    `states` int64 [N] are never the end: an environment that has ended restarts, and is `done` then.
    """

    def __init__(self, world: FiniteMDP, config: ControlConfig, rng: np.random.Generator) -> None:
        self.world, self.rng, self.limit = world, rng, config.limit or np.inf
        self.states = world.sample_starts(config.num_envs, rng)
        self.done = np.ones(config.num_envs, bool)
        self.num_steps, self.lengths = 0, np.zeros(config.num_envs, np.int64)
        self.returns = np.zeros(config.num_envs)
        self._finished: list[tuple[np.ndarray, ...]] = []

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rewards float64 [N], next states int64 [N], S for the end).

        Where an episode was truncated, the next state is the one that it reached.
        """
        rewards, next_states = self.world.step(self.states, actions, self.rng)
        self.num_steps += 1
        self.lengths += 1
        self.returns += rewards
        self.done = (next_states == self.world.states) | (self.lengths >= self.limit)
        self.states = next_states
        if self.done.any():
            ended = np.flatnonzero(self.done)
            steps = np.full(len(ended), self.num_steps)
            self._finished.append((steps, ended, self.lengths[ended], self.returns[ended]))
            self.states = next_states.copy()
            self.states[ended] = self.world.sample_starts(len(ended), self.rng)
            self.lengths[ended], self.returns[ended] = 0, 0
        return rewards, next_states

    def episodes(self) -> EpisodeLog:
        """Those that have ended so far."""
        if not self._finished:
            empty = np.zeros(0, np.int64)
            return EpisodeLog(empty, empty, empty, np.zeros(0))
        return EpisodeLog(*map(np.concatenate, zip(*self._finished, strict=True)))


class Table:
    """Action values `q` and `visits`, float64 [L, S + 1, A], where L is 1 or the number of environments."""

    def __init__(self, world: FiniteMDP, config: ControlConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.rows = np.zeros(config.num_envs, np.int64) if config.shared else np.arange(config.num_envs)
        initial = np.where(world.valid_actions, config.initial, -np.inf)
        initial[-1] = 0
        self.q = np.repeat(initial[None], self.rows[-1] + 1, 0)
        self.visits = np.zeros_like(self.q)

    def values_at(self, states: np.ndarray) -> np.ndarray:
        """Values [N, A] of the environments' states [N]."""
        values: np.ndarray = self.q[self.rows, states]
        return values

    def policy(self, states: np.ndarray) -> np.ndarray:
        """pi(a | s) [N, A], with exploration."""
        return self.config.explore(self.values_at(states), self.visits[self.rows, states].sum(1))

    def sample_actions(self, states: np.ndarray) -> np.ndarray:
        """Actions int64 [N]."""
        return sample_actions(self.policy(states), self.rng)

    def update(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        targets: np.ndarray,
        part: np.ndarray | None = None,
        count_visits: bool = True,
    ) -> None:
        """q(s, a) <- q(s, a) + alpha (target - q(s, a)) for every environment, or those of `part` (bool [N]).

        Environments that update the same entry move it together, but by no more than alpha, as if to the mean
        of their targets. Without `count_visits` the visits stay as they were.
        """
        of = slice(None) if part is None else part
        where = self.rows[of], states[of], actions[of]
        before = self.visits[where]
        np.add.at(self.visits, where, 1)
        after = self.visits[where]
        if not count_visits:
            self.visits[where] = before
        visits = np.maximum(after if count_visits else before, 1)
        step_size = self.config.alpha / np.maximum(visits**self.config.power, after - before)
        np.add.at(self.q, where, step_size * (targets[of] - self.q[where]))

    def update_along_traces(
        self, states: np.ndarray, actions: np.ndarray, errors: np.ndarray, traces: np.ndarray
    ) -> None:
        """Add alpha error e to q for every environment, with traces e float64 [N, S + 1, A].

        alpha is divided by the visits of the entry that moves; environments that share a table move an entry
        together by no more than alpha.
        """
        where = self.rows, states, actions
        np.add.at(self.visits, where, 1)
        visits = np.maximum(self.visits, 1) ** self.config.power
        if len(self.q) == len(self.rows):
            self.q += self.config.alpha * errors[:, None, None] * traces / visits
        else:
            change = self.config.alpha * np.tensordot(errors, traces, 1)
            self.q[0] += change / np.maximum(visits[0], traces.sum(0))


def start_control(world: FiniteMDP, config: ControlConfig) -> tuple[VectorMDP, Table]:
    """Environments at their starts and an initial table."""
    rng = np.random.default_rng(config.seed)
    return VectorMDP(world, config, rng), Table(world, config, rng)
