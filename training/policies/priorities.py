"""Prioritised replay: rows are drawn in proportion to their priorities (Schaul et al. 2016, "Prioritized Experience Replay").

The paper keeps the sums of priorities in a binary tree. Here there are two levels of about the square root of the capacity each:
a draw and an update take a few calls on small arrays instead of a walk of as many calls as the tree has levels, and the sums
are added up anew where something changed, so that no rounding piles up.
"""

import numpy as np


class Priorities:
    """Priorities, float64 [blocks, size], of `capacity` rows; 0 for rows that are never drawn."""

    def __init__(self, capacity: int, alpha: float) -> None:
        self.alpha = alpha
        self.size = max(1, round(capacity**0.5))
        self.raised = np.zeros((-(-capacity // self.size), self.size))  # p^alpha
        self.sums, self.least = np.zeros(len(self.raised)), np.full(len(self.raised), np.inf)
        self.largest = 1.0  # priority so far: what a new row gets, so that it is drawn soon

    def put(self, rows: np.ndarray, priorities: np.ndarray | float) -> None:
        """Set the priorities, above 0, of `rows`, int64 [N]; of a row that comes twice the last one counts."""
        self._set(rows, np.power(priorities, self.alpha))

    def _set(self, rows: np.ndarray, raised: np.ndarray | float) -> None:
        self.raised.reshape(-1)[rows] = raised
        blocks = np.unique(rows // self.size)
        changed = self.raised[blocks]
        self.sums[blocks] = changed.sum(1)
        self.least[blocks] = np.where(changed > 0, changed, np.inf).min(1)

    def welcome(self, rows: np.ndarray) -> None:
        """Give new rows, int64 [N], the largest priority so far (Algorithm 1, line 6)."""
        self.put(rows, self.largest)

    def forget(self, rows: np.ndarray) -> None:
        """Let `rows`, int64 [N], be drawn no more."""
        self._set(rows, 0.0)

    def learned(self, rows: np.ndarray, errors: np.ndarray) -> None:
        """New priorities of `rows`, int64 [N]: how large their errors, [N] and at least 0, were."""
        priorities = errors + 1e-6  # none is lost for ever (section 3.3)
        self.largest = max(self.largest, float(priorities.max()))
        self.put(rows, priorities)

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Rows, int64 [count], with chances in proportion to p^alpha; one from each of `count` equal parts of the sum (appendix B.2.1)."""
        bounds = np.cumsum(self.sums)
        targets = (np.arange(count) + random.random(count)) * (bounds[-1] / count)
        blocks = np.searchsorted(bounds, targets, side="right").clip(max=np.flatnonzero(self.sums)[-1])
        within = np.cumsum(self.raised[blocks], axis=1)
        rests = targets - (bounds[blocks] - self.sums[blocks])
        # rounding may put a target past the last row of its block: it stays below the end of the sum
        rests = np.minimum(rests, np.nextafter(within[:, -1], 0))
        rows: np.ndarray = blocks * self.size + (within <= rests[:, None]).sum(1)
        return rows

    def weights(self, rows: np.ndarray, beta: float) -> np.ndarray:
        """Importance weights, float32 [N] in 0..1, of drawn rows: (1 / (N P(i)))^beta over the largest of all (section 3.4).

        N and the sum of the priorities cancel: what is left is (least p^alpha / p_i^alpha)^beta.
        """
        found: np.ndarray = (self.least.min() / self.raised.reshape(-1)[rows]) ** beta
        return found.astype(np.float32)
