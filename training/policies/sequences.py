"""What a value-based algorithm remembers: steps of all copies in the order of time, every observation once.

A row is one step of one copy: what was observed before it, the action, what it earned. What was observed after it is the
next row's observation, also after an end, because then the next row only resets the copy (gymnasium's next-step autoreset) and holds the
true last observation. So returns over several steps and stacks of frames are put together when they are drawn.
"""

from typing import NamedTuple

import numpy as np

from training.policies.checkpoints import MOST_BYTES
from training.policies.priorities import Priorities


class Batch(NamedTuple):
    """N draws: observations as the environment gives them, the rest float32 [N] but for the actions and rows (int64 [N]) and masks."""

    observations: np.ndarray  # [N, ...]
    following: np.ndarray  # [N, ...]: what the return is continued from
    actions: np.ndarray
    returns: np.ndarray  # discounted, of up to n steps
    discounts: np.ndarray  # of what follows: 0 after a termination
    weights: np.ndarray  # of importance; 1 without priorities
    rows: np.ndarray  # where they lie
    allowed: np.ndarray | None = None  # bool [N, choices] in `following`; None: everything

    def rows_at(self, part: slice) -> "Batch":
        """Some of them."""
        return Batch(*(column if column is None else column[part] for column in self))  # type: ignore[arg-type]  # only masks may be None


class SequenceReplay:
    """The last steps of `copies` environments, about `capacity` in all.

    `shape` and `dtype` are those of an observation; with `stack` above 1 it is a stack of so many frames, [stack, ...], oldest first,
    of which only the newest is kept, and the others are found again (an episode begins with copies of its first frame).
    Draws are uniform, or by `priorities`' exponent alpha where it is not None. With `choices` it keeps masks of so many actions.
    """

    def __init__(
        self,
        capacity: int,
        copies: int,
        shape: tuple[int, ...],
        dtype: str,
        *,
        gamma: float,
        n_steps: int = 1,
        stack: int = 1,
        alpha: float | None = None,
        choices: int = 0,
    ) -> None:
        self.stack, self.n_steps, self.gamma = stack, n_steps, np.float32(gamma)
        self.times = max(-(-capacity // copies), n_steps + stack + 2)
        self.frames = np.zeros((self.times, copies, *(shape[1:] if stack > 1 else shape)), dtype)
        self.actions, self.ages = np.zeros((self.times, copies), np.int64), np.zeros((self.times, copies), np.int64)
        self.rewards = np.zeros((self.times, copies), np.float32)
        self.terminated, self.ended, self.real = (np.zeros((self.times, copies), bool) for _ in range(3))
        self.allowed = np.ones((self.times, copies, choices), bool) if choices else None
        self.age = np.zeros(copies, np.int64)  # steps since the episode's first observation
        self.added = 0  # rows of all copies
        self.priorities = None if alpha is None else Priorities(self.times * copies, alpha)

    def __len__(self) -> int:
        """Steps that are remembered, of all copies together."""
        return min(self.added, self.times) * len(self.age)

    @property
    def too_large_to_keep(self) -> bool:
        """Whether a checkpoint leaves it out."""
        return self.frames.nbytes + (0 if self.allowed is None else self.allowed.nbytes) > MOST_BYTES

    @property
    def first(self) -> int:
        """The oldest time whose stack of frames is whole."""
        oldest = self.added - self.times
        return oldest + self.stack - 1 if oldest > 0 else 0

    @property
    def end(self) -> int:
        """One after the newest time from which `n_steps` steps are known."""
        return self.added - self.n_steps

    @property
    def ready(self) -> bool:
        """Whether there is something to draw: of two rows in a row one is a real step."""
        return self.end - self.first >= 2

    def add(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        ended: np.ndarray,
        real: np.ndarray,
        allowed: np.ndarray | None = None,
    ) -> None:
        """One step of all copies, [copies, ...] each; `real` is false where it only reset the copy, `allowed` is of `observations`."""
        place = self.added % self.times
        self.frames[place] = observations[:, -1] if self.stack > 1 else observations
        self.actions[place], self.rewards[place], self.ages[place] = actions, rewards, self.age
        self.terminated[place], self.ended[place], self.real[place] = terminated, ended, real
        if self.allowed is not None:
            self.allowed[place] = allowed
        self.age = np.where(real, self.age + 1, 0)
        self.added += 1
        if self.priorities is not None:
            self._prioritise(self.priorities, place)

    def break_off(self) -> None:
        """All copies begin anew: the last row only says what was observed after the one before, which counts as cut off."""
        if self.added:
            self.real[(self.added - 1) % self.times] = False
            self.ended[(self.added - 2) % self.times] = True
        self.age[:] = 0

    def _prioritise(self, priorities: Priorities, place: int) -> None:
        """The row that is overwritten can't be drawn, nor those whose frames it had; the one whose return is now known can."""
        copies = np.arange(len(self.age))
        lost = (place + np.arange(self.stack)) % self.times
        priorities.forget((lost[:, None] * len(copies) + copies).reshape(-1))
        if self.end > 0:
            known = (self.end - 1) % self.times
            priorities.welcome(known * len(copies) + copies[self.real[known]])

    def draw(self, count: int, random: np.random.Generator, beta: float = 0.0) -> Batch:
        """`count` steps with replacement; `beta` is the exponent of the importance weights."""
        copies = len(self.age)
        if self.priorities is None:
            rows, weights = self._uniform(count, random), np.ones(count, np.float32)
        else:
            rows = self.priorities.draw(count, random)
            weights = self.priorities.weights(rows, beta)
        places, copy = rows // copies, rows % copies
        returns, discounts, offsets = self._returns(places, copy)
        later = (places + offsets) % self.times
        following, allowed = self._observed(later, copy), None if self.allowed is None else self.allowed[later, copy]
        return Batch(self._observed(places, copy), following, self.actions[places, copy], returns, discounts, weights, rows, allowed)

    def _uniform(self, count: int, random: np.random.Generator) -> np.ndarray:
        copies, real = len(self.age), self.real.reshape(-1)

        def some(number: int) -> np.ndarray:
            drawn = random.integers(self.first * copies, self.end * copies, number) % (self.times * copies)
            return np.asarray(drawn)

        rows = some(count)
        while (wrong := np.flatnonzero(~real[rows])).size:
            rows[wrong] = some(len(wrong))
        return rows

    def _returns(self, places: np.ndarray, copy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(discounted returns, the discount of what follows, how many steps), [N] each: n steps, fewer at an episode's end."""
        returns, discounts = np.zeros(len(places), np.float32), np.ones(len(places), np.float32)
        offsets, going = np.zeros(len(places), np.int64), np.ones(len(places), bool)
        for _ in range(self.n_steps):
            at = (places + offsets) % self.times, copy
            returns += going * discounts * self.rewards[at]
            discounts *= np.where(going, self.gamma * ~self.terminated[at], np.float32(1))
            going_on = going & ~self.ended[at]
            offsets += going
            going = going_on
        return returns, discounts, offsets

    def _observed(self, places: np.ndarray, copy: np.ndarray) -> np.ndarray:
        if self.stack > 1:
            back = np.minimum(np.arange(self.stack - 1, -1, -1), self.ages[places, copy][:, None])
            places, copy = (places[:, None] - back) % self.times, copy[:, None]
        observed: np.ndarray = self.frames[places, copy]
        return observed
