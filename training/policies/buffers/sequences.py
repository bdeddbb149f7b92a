"""Replay for value-based algorithms: steps of all environments in time order, every observation once.

A row is one step of one environment: the observation before it, the action, the reward. The observation after
it is the next row's, also after an end, because then the next row only resets the environment (gymnasium's
next-step autoreset) and holds the true last observation. So n-step returns and frame stacks are put together
when they are sampled.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from training.policies.buffers.prioritized import Priorities
from training.policies.buffers.replay import MAX_SAVED_BYTES
from training.policies.state import Stateful


class ReplayBatch(NamedTuple):
    """N samples: observations as the environment gives them, the rest float32 [N] unless said."""

    obs: np.ndarray  # [N, ...]
    next_obs: np.ndarray  # [N, ...]: from which the return is bootstrapped
    actions: np.ndarray  # int64 [N]
    returns: np.ndarray  # discounted, of up to n steps
    discounts: np.ndarray  # of the value at next_obs: 0 after a termination
    weights: np.ndarray  # of importance; 1 without priorities
    rows: np.ndarray  # int64 [N], their places in the buffer
    next_action_mask: np.ndarray | None = None  # bool [N, choices] at next_obs; None: all are valid

    def slice(self, part: slice) -> "ReplayBatch":
        """Some of them."""
        columns = [column if column is None else column[part] for column in self]
        return ReplayBatch(*columns)  # type: ignore[arg-type]  # only masks may be None


class SequenceReplayBuffer(Stateful):
    """The last steps of `num_envs` environments, about `buffer_size` in all.

    `shape` and `dtype` are those of an observation. With `frame_stack` above 1 it is a stack of so many
    frames, [frame_stack, ...], oldest first, of which only the newest is kept, and the others are found again
    (an episode begins with copies of its first frame). Samples are uniform, or by priorities with the
    exponent `alpha` where it is not None. With `n_actions` it keeps masks of so many actions.
    """

    state_parts = ("priorities",)
    state_values = ("num_added",)
    state_arrays = (
        "frames",
        "actions",
        "ages",
        "rewards",
        "terminated",
        "dones",
        "valid",
        "age",
        "action_masks",
    )

    def __init__(
        self,
        buffer_size: int,
        num_envs: int,
        shape: tuple[int, ...],
        dtype: str,
        *,
        gamma: float,
        n_step_returns: int = 1,
        frame_stack: int = 1,
        alpha: float | None = None,
        n_actions: int = 0,
    ) -> None:
        self.frame_stack, self.n_step_returns, self.gamma = frame_stack, n_step_returns, np.float32(gamma)
        self.num_times = max(-(-buffer_size // num_envs), n_step_returns + frame_stack + 2)
        size = (self.num_times, num_envs)
        self.frames = np.zeros((*size, *(shape[1:] if frame_stack > 1 else shape)), dtype)
        self.actions, self.ages = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.rewards = np.zeros(size, np.float32)
        self.terminated, self.dones, self.valid = (np.zeros(size, bool) for _ in range(3))
        self.action_masks = np.ones((*size, n_actions), bool) if n_actions else None
        self.age = np.zeros(num_envs, np.int64)  # steps since the episode's first observation
        self.num_added = 0  # times, each a row of every environment
        self.priorities = None if alpha is None else Priorities(self.num_times * num_envs, alpha)

    def __len__(self) -> int:
        """Steps that it holds, of all environments together."""
        return min(self.num_added, self.num_times) * len(self.age)

    @property
    def first(self) -> int:
        """The oldest time whose frame stack is whole."""
        oldest = self.num_added - self.num_times
        return oldest + self.frame_stack - 1 if oldest > 0 else 0

    @property
    def end(self) -> int:
        """One after the newest time whose n-step return is known."""
        return self.num_added - self.n_step_returns

    @property
    def can_sample(self) -> bool:
        """Whether there is a valid row: of two successive rows one is."""
        return self.end - self.first >= 2

    def add(
        self,
        obs: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        dones: np.ndarray,
        valid: np.ndarray,
        action_mask: np.ndarray | None = None,
    ) -> None:
        """One step of all environments, [num_envs, ...] each.

        `valid` is false where the step only reset an environment; `action_mask` is of `obs`.
        """
        time = self.num_added % self.num_times
        self.frames[time] = obs[:, -1] if self.frame_stack > 1 else obs
        self.actions[time], self.rewards[time], self.ages[time] = actions, rewards, self.age
        self.terminated[time], self.dones[time], self.valid[time] = terminated, dones, valid
        if self.action_masks is not None:
            self.action_masks[time] = action_mask
        self.age = np.where(valid, self.age + 1, 0)
        self.num_added += 1
        if self.priorities is not None:
            self._update_priorities(self.priorities, time)

    def truncate(self) -> None:
        """All environments were reset: the last row only keeps the observation after the one before.

        The row before it counts as truncated.
        """
        if self.num_added:
            self.valid[(self.num_added - 1) % self.num_times] = False
            self.dones[(self.num_added - 2) % self.num_times] = True
        self.age[:] = 0

    def _update_priorities(self, priorities: Priorities, time: int) -> None:
        """Remove what was overwritten and the stacks that need it; insert what can now be sampled."""
        envs = np.arange(len(self.age))
        overwritten = (time + np.arange(self.frame_stack)) % self.num_times
        priorities.remove((overwritten[:, None] * len(envs) + envs).reshape(-1))
        if self.end > 0:
            newest = (self.end - 1) % self.num_times
            priorities.insert(newest * len(envs) + envs[self.valid[newest]])

    def sample(self, count: int, rng: np.random.Generator, beta: float = 0.0) -> ReplayBatch:
        """`count` steps with replacement; `beta` is the exponent of the importance weights."""
        num_envs = len(self.age)
        if self.priorities is None:
            rows, weights = self._sample_uniform(count, rng), np.ones(count, np.float32)
        else:
            rows = self.priorities.sample(count, rng)
            weights = self.priorities.weights(rows, beta)
        times, envs = rows // num_envs, rows % num_envs
        returns, discounts, offsets = self._n_step_returns(times, envs)
        next_times = (times + offsets) % self.num_times
        return ReplayBatch(
            obs=self._observations(times, envs),
            next_obs=self._observations(next_times, envs),
            actions=self.actions[times, envs],
            returns=returns,
            discounts=discounts,
            weights=weights,
            rows=rows,
            next_action_mask=None if self.action_masks is None else self.action_masks[next_times, envs],
        )

    def _sample_uniform(self, count: int, rng: np.random.Generator) -> np.ndarray:
        num_envs, valid = len(self.age), self.valid.reshape(-1)
        low, high, capacity = self.first * num_envs, self.end * num_envs, self.num_times * num_envs
        rows: np.ndarray = rng.integers(low, high, count) % capacity
        while (invalid := np.flatnonzero(~valid[rows])).size:
            rows[invalid] = rng.integers(low, high, len(invalid)) % capacity
        return rows

    def _n_step_returns(
        self, times: np.ndarray, envs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(discounted returns, discount of the value after them, number of steps), [N] each.

        n steps, fewer at an episode's end.
        """
        returns, discounts = np.zeros(len(times), np.float32), np.ones(len(times), np.float32)
        offsets, running = np.zeros(len(times), np.int64), np.ones(len(times), bool)
        for _ in range(self.n_step_returns):
            at = (times + offsets) % self.num_times, envs
            returns += running * discounts * self.rewards[at]
            discounts *= np.where(running, self.gamma * ~self.terminated[at], np.float32(1))
            runs_on = running & ~self.dones[at]
            offsets += running
            running = runs_on
        return returns, discounts, offsets

    def _observations(self, times: np.ndarray, envs: np.ndarray) -> np.ndarray:
        if self.frame_stack > 1:
            steps_back = np.arange(self.frame_stack - 1, -1, -1)
            steps_back = np.minimum(steps_back, self.ages[times, envs][:, None])
            times, envs = (times[:, None] - steps_back) % self.num_times, envs[:, None]
        obs: np.ndarray = self.frames[times, envs]
        return obs

    def state_dict(self) -> dict[str, Any]:
        """All rows; empty where they are too large to be saved."""
        arrays = [getattr(self, name) for name in self.state_arrays]
        size = sum(array.nbytes for array in arrays if array is not None)
        return {} if size > MAX_SAVED_BYTES else super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        if state:
            super().load_state_dict(state)
