"""Distributions of actions, for a whole batch in NumPy, with the derivatives that learning needs written by hand.

Both are made of what the actor's network says, float32 [B, n]: `Categorical` of logits, `Gaussian` of means. What is forbidden has
the logit FORBIDDEN, so low that its probability is exactly 0 and so is every derivative by it, but finite, so that 0 * log 0 is 0
(Huang and Ontanon 2022, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms", section 3).
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

FORBIDDEN = np.float32(-1e30)
LOG_SQRT_TAU = 0.5 * np.log(2 * np.pi)
NOTHING = np.zeros(0, np.float32)


def forbid(scores: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """Logits [B, n] with FORBIDDEN where `allowed`, bool [B, n], is false; None allows all."""
    return scores if allowed is None else np.where(allowed, scores, FORBIDDEN)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities along the last axis, [..., n], of logits [..., n]."""
    shifted = scores - scores.max(-1, keepdims=True)
    logarithms: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logarithms


class Branches:
    """Where the choices of each branch lie in a row of logits: branch after branch. Discrete actions have one branch."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes, most = [*sizes], max(sizes)
        self.shape = (len(self.sizes), most)
        used = np.arange(most) < np.array(self.sizes)[:, None]
        self.columns = None if used.all() else np.flatnonzero(used)

    def apart(self, rows: np.ndarray) -> np.ndarray:
        """[B, n] to [B, branches, most choices of any]; branches that have fewer are filled up with FORBIDDEN."""
        if self.columns is not None:
            filled = np.full((len(rows), self.shape[0] * self.shape[1]), FORBIDDEN, rows.dtype)
            filled[:, self.columns] = rows
            rows = filled
        return rows.reshape(-1, *self.shape)

    def together(self, parts: np.ndarray) -> np.ndarray:
        """What `apart` has taken apart."""
        rows = parts.reshape(len(parts), -1)
        return rows if self.columns is None else rows[:, self.columns]

    def likeliest(self, scores: np.ndarray) -> np.ndarray:
        """The choice with the highest of `scores` [B, n] in every branch, int64 [B, branches]."""
        chosen: np.ndarray = self.apart(scores).argmax(2)
        return chosen


class Categorical:
    """One choice per branch, independent of each other; actions are int64 [B, branches].

    The logarithm of an action's probability is the sum over its branches, and so is the entropy.
    """

    def __init__(self, scores: np.ndarray, branches: Branches) -> None:
        self.scores, self.branches = scores, branches
        self.logarithms = log_softmax(branches.apart(scores))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """[B, branches, most choices of any]."""
        found: np.ndarray = np.exp(self.logarithms)
        return found

    @cached_property
    def entropies(self) -> np.ndarray:
        """[B, branches], in nats."""
        found: np.ndarray = -(self.probabilities * self.logarithms).sum(2)
        return found

    @property
    def entropy(self) -> float:
        """Mean over the batch."""
        return float(self.entropies.sum(1).mean())

    def log_probability(self, actions: np.ndarray) -> np.ndarray:
        """[B]."""
        taken: np.ndarray = self.logarithms.reshape(-1)[self._places(actions)].sum(1)
        return taken

    def slopes(self, actions: np.ndarray, by_log_probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives by (scores, nothing) of the loss that has `by_log_probability` [B] by log_probability(actions).

        Of the log probability they are action - p, with the action one-hot.
        """
        by_scores = -self.probabilities * by_log_probability[:, None, None]
        by_scores.reshape(-1)[self._places(actions)] += by_log_probability[:, None]
        return self.branches.together(by_scores), NOTHING

    def entropy_slopes(self, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives by (scores, nothing) of -weight * entropy: of -H by a logit it is p * (log p + H)."""
        by_scores = weight / len(self.scores) * self.probabilities * (self.logarithms + self.entropies[:, :, None])
        return self.branches.together(by_scores), NOTHING

    def fisher_product(self, speed: np.ndarray) -> np.ndarray:
        """The Fisher matrix by the logits, diag(p) - p p^T in every branch, times `speed` [B, n]."""
        apart = self.branches.apart(speed)
        product = self.probabilities * (apart - (self.probabilities * apart).sum(2, keepdims=True))
        return self.branches.together(product)

    def divergence(self, other: "Categorical") -> float:
        """The mean KL(self, other), in nats."""
        own, others = (log_softmax(self.branches.apart(one.scores.astype(np.float64))) for one in (self, other))
        return float((self.probabilities * (own - others)).sum((1, 2)).mean())

    def _places(self, actions: np.ndarray) -> np.ndarray:
        """Where the choices lie in the flat logarithms, [B, branches]."""
        branches, most = self.branches.shape
        places: np.ndarray = np.arange(0, len(actions) * branches * most, most).reshape(-1, branches) + actions
        return places


class Gaussian:
    """Independent normal components, whose deviation doesn't depend on the state; actions are unclipped float32 [B, n]."""

    def __init__(self, means: np.ndarray, log_std: np.ndarray) -> None:
        self.means, self.log_std = means, log_std.copy()

    @property
    def entropy(self) -> float:
        """In nats."""
        return float((self.log_std + 0.5 + LOG_SQRT_TAU).sum())

    def log_probability(self, actions: np.ndarray) -> np.ndarray:
        """[B]."""
        found: np.ndarray = -(0.5 * np.square(self._away(actions)) + self.log_std + LOG_SQRT_TAU).sum(1)
        return found

    def slopes(self, actions: np.ndarray, by_log_probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives by (means, log_std) of the loss that has `by_log_probability` [B] by log_probability(actions).

        Of the log probability they are (a - mean) / deviation^2 and ((a - mean) / deviation)^2 - 1.
        """
        away = self._away(actions)
        by_log_std: np.ndarray = by_log_probability @ (away * away - 1)
        return by_log_probability[:, None] * away * np.exp(-self.log_std), by_log_std

    def entropy_slopes(self, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives by (means, log_std) of -weight * entropy."""
        return np.zeros_like(self.means), np.full_like(self.log_std, -weight)

    def fisher_product(self, speed: np.ndarray) -> np.ndarray:
        """The Fisher matrix by the means, 1 / deviation^2, times `speed` [B, n]; by log_std it is 2."""
        product: np.ndarray = speed * np.exp(-2 * self.log_std)
        return product

    def divergence(self, other: "Gaussian") -> float:
        """The mean KL(self, other), in nats."""
        old, new = self.log_std.astype(np.float64), other.log_std.astype(np.float64)
        squares = np.exp(2 * old) + np.square(self.means - other.means, dtype=np.float64)
        return float((new - old + squares / (2 * np.exp(2 * new)) - 0.5).sum(1).mean())

    def _away(self, actions: np.ndarray) -> np.ndarray:
        """From the means, in deviations."""
        away: np.ndarray = (actions - self.means) * np.exp(-self.log_std)
        return away
