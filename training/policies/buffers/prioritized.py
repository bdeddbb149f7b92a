"""Prioritized replay: rows are sampled in proportion to their priorities.

Schaul et al. 2016, "Prioritized Experience Replay". The paper keeps the sums of priorities in a binary tree.
Here there are two levels of about the square root of the capacity each: a draw and an update take a few calls
on small arrays instead of a walk through the tree's levels, and the sums are computed again where something
changed, so that rounding errors don't accumulate.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from training.policies.state import Stateful

MIN_PRIORITY = 1e-6  # no row is lost for ever (section 3.3)


class Priorities(Stateful):
    """p^alpha of `capacity` rows, float64 [blocks, size]; 0 for rows that are never sampled."""

    state_values = ("max_priority",)
    state_arrays = ("scaled",)

    def __init__(self, capacity: int, alpha: float) -> None:
        self.alpha = alpha
        self.size = max(1, round(capacity**0.5))
        self.scaled = np.zeros((-(-capacity // self.size), self.size))  # p^alpha
        self.block_sums, self.block_mins = np.zeros(len(self.scaled)), np.full(len(self.scaled), np.inf)
        self.max_priority = 1.0  # so far; a new row gets it, so that it is sampled soon

    def set(self, rows: np.ndarray, priorities: np.ndarray | float) -> None:
        """Set the priorities, above 0, of `rows`, int64 [N]; of duplicates the last one counts."""
        self._set_scaled(rows, np.power(priorities, self.alpha))

    def _set_scaled(self, rows: np.ndarray, scaled: np.ndarray | float) -> None:
        self.scaled.reshape(-1)[rows] = scaled
        blocks = np.unique(rows // self.size)
        changed = self.scaled[blocks]
        self.block_sums[blocks] = changed.sum(1)
        self.block_mins[blocks] = np.where(changed > 0, changed, np.inf).min(1)

    def insert(self, rows: np.ndarray) -> None:
        """Give new rows, int64 [N], the largest priority so far (Algorithm 1, line 6)."""
        self.set(rows, self.max_priority)

    def remove(self, rows: np.ndarray) -> None:
        """Never sample `rows`, int64 [N], again."""
        self._set_scaled(rows, 0.0)

    def update(self, rows: np.ndarray, errors: np.ndarray) -> None:
        """Set the priorities of `rows`, int64 [N], to their errors, [N] and at least 0."""
        priorities = errors + MIN_PRIORITY
        self.max_priority = max(self.max_priority, float(priorities.max()))
        self.set(rows, priorities)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Rows, int64 [count], in proportion to p^alpha: one from each of `count` equal parts of the sum.

        Appendix B.2.1.
        """
        bounds = np.cumsum(self.block_sums)
        targets = (np.arange(count) + rng.random(count)) * (bounds[-1] / count)
        last_block = np.flatnonzero(self.block_sums)[-1]
        blocks = np.searchsorted(bounds, targets, side="right").clip(max=last_block)
        sums_in_block = np.cumsum(self.scaled[blocks], axis=1)
        remainders = targets - (bounds[blocks] - self.block_sums[blocks])
        # rounding may put a target past the last row of its block: keep it below the end of the sum
        remainders = np.minimum(remainders, np.nextafter(sums_in_block[:, -1], 0))
        rows: np.ndarray = blocks * self.size + (sums_in_block <= remainders[:, None]).sum(1)
        return rows

    def weights(self, rows: np.ndarray, beta: float) -> np.ndarray:
        """Importance weights, float32 [N] in 0..1: (1 / (N P(i)))^beta over the largest of all (section 3.4).

        N and the sum of the priorities cancel: what is left is (smallest p^alpha / p_i^alpha)^beta.
        """
        weights: np.ndarray = (self.block_mins.min() / self.scaled.reshape(-1)[rows]) ** beta
        return weights.astype(np.float32)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; the sums of blocks follow from it."""
        super().load_state_dict(state)
        self._set_scaled(np.arange(self.scaled.size), self.scaled.reshape(-1).copy())
