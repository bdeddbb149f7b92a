"""Distributions of actions, for a whole batch in NumPy, with the derivatives that learning needs.

Both are made from the actor's outputs, float32 [B, n]: `Categorical` of logits, `Gaussian` of means. The
derivatives are written by hand; `networks.reference_losses` has them by autograd. Invalid actions get the
logit MASKED_LOGIT, so low that their probability and all derivatives are exactly 0, but finite, so that
0 * log 0 is 0 (Huang and Ontanon 2022, "A Closer Look at Invalid Action Masking in Policy Gradient
Algorithms", section 3).
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

MASKED_LOGIT = np.float32(-1e30)
LOG_SQRT_TAU = 0.5 * np.log(2 * np.pi)
NO_GRAD = np.zeros(0, np.float32)


def apply_mask(logits: np.ndarray, action_mask: np.ndarray | None) -> np.ndarray:
    """Logits [B, n] with MASKED_LOGIT where `action_mask`, bool [B, n], is false; None: all are valid."""
    return logits if action_mask is None else np.where(action_mask, logits, MASKED_LOGIT)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities along the last axis, [..., n], of logits [..., n]."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_probs


class Branches:
    """Where the choices of each branch lie in a row of logits. Discrete actions have one branch."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes, max_size = [*sizes], max(sizes)
        self.shape = (len(self.sizes), max_size)
        is_used = np.arange(max_size) < np.array(self.sizes)[:, None]
        self.columns = None if is_used.all() else np.flatnonzero(is_used)

    def split(self, logits: np.ndarray) -> np.ndarray:
        """[B, n] to [B, branches, largest size], smaller branches padded with MASKED_LOGIT."""
        if self.columns is not None:
            padded = np.full((len(logits), self.shape[0] * self.shape[1]), MASKED_LOGIT, logits.dtype)
            padded[:, self.columns] = logits
            logits = padded
        return logits.reshape(-1, *self.shape)

    def merge(self, parts: np.ndarray) -> np.ndarray:
        """The inverse of `split`."""
        flat = parts.reshape(len(parts), -1)
        return flat if self.columns is None else flat[:, self.columns]

    def argmax(self, logits: np.ndarray) -> np.ndarray:
        """The choice with the largest of `logits` [B, n] in every branch, int64 [B, branches]."""
        actions: np.ndarray = self.split(logits).argmax(2)
        return actions


class Categorical:
    """One choice per branch, independent of each other; actions are int64 [B, branches].

    The log probability of an action is the sum over its branches, and so is the entropy.
    """

    def __init__(self, logits: np.ndarray, branches: Branches) -> None:
        self.logits, self.branches = logits, branches
        self.log_probs = log_softmax(branches.split(logits))

    @cached_property
    def probs(self) -> np.ndarray:
        """[B, branches, largest size]."""
        probs: np.ndarray = np.exp(self.log_probs)
        return probs

    @cached_property
    def entropies(self) -> np.ndarray:
        """[B, branches], in nats."""
        entropies: np.ndarray = -(self.probs * self.log_probs).sum(2)
        return entropies

    @property
    def entropy(self) -> float:
        """Mean over the batch."""
        return float(self.entropies.sum(1).mean())

    def log_prob(self, actions: np.ndarray) -> np.ndarray:
        """[B]."""
        log_probs: np.ndarray = self.log_probs.reshape(-1)[self._flat_index(actions)].sum(1)
        return log_probs

    def grad_log_prob(self, actions: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Backpropagate `grad` [B], a loss's gradient by log_prob(actions), to (logits, nothing).

        The derivative of a log probability by the logits is action - p, with the action one-hot.
        """
        grad_logits = -self.probs * grad[:, None, None]
        grad_logits.reshape(-1)[self._flat_index(actions)] += grad[:, None]
        return self.branches.merge(grad_logits), NO_GRAD

    def grad_entropy(self, coef: float) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of -coef * entropy by (logits, nothing): of -H by a logit it is p * (log p + H)."""
        scale = coef / len(self.logits)
        grad_logits = scale * self.probs * (self.log_probs + self.entropies[:, :, None])
        return self.branches.merge(grad_logits), NO_GRAD

    def fisher_vector_product(self, vector: np.ndarray) -> np.ndarray:
        """The Fisher matrix by the logits, diag(p) - p p^T in every branch, times `vector` [B, n]."""
        parts = self.branches.split(vector)
        product = self.probs * (parts - (self.probs * parts).sum(2, keepdims=True))
        return self.branches.merge(product)

    def kl_divergence(self, other: "Categorical") -> float:
        """The mean KL(self, other), in nats."""
        log_p, log_q = (
            log_softmax(self.branches.split(distribution.logits.astype(np.float64)))
            for distribution in (self, other)
        )
        return float((self.probs * (log_p - log_q)).sum((1, 2)).mean())

    def _flat_index(self, actions: np.ndarray) -> np.ndarray:
        """Where the chosen entries lie in the flat log probabilities, [B, branches]."""
        branches, max_size = self.branches.shape
        starts = np.arange(0, len(actions) * branches * max_size, max_size)
        index: np.ndarray = starts.reshape(-1, branches) + actions
        return index


class Gaussian:
    """Independent normal components with a state-independent std; actions are unclipped float32 [B, n]."""

    def __init__(self, means: np.ndarray, log_std: np.ndarray) -> None:
        self.means, self.log_std = means, log_std.copy()

    @property
    def entropy(self) -> float:
        """In nats."""
        return float((self.log_std + 0.5 + LOG_SQRT_TAU).sum())

    def log_prob(self, actions: np.ndarray) -> np.ndarray:
        """[B]."""
        z = self._z_scores(actions)
        log_probs: np.ndarray = -(0.5 * np.square(z) + self.log_std + LOG_SQRT_TAU).sum(1)
        return log_probs

    def grad_log_prob(self, actions: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Backpropagate `grad` [B], a loss's gradient by log_prob(actions), to (means, log_std).

        The derivatives of a log probability are (a - mean) / std^2 and ((a - mean) / std)^2 - 1.
        """
        z = self._z_scores(actions)
        grad_log_std: np.ndarray = grad @ (z * z - 1)
        return grad[:, None] * z * np.exp(-self.log_std), grad_log_std

    def grad_entropy(self, coef: float) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of -coef * entropy by (means, log_std)."""
        return np.zeros_like(self.means), np.full_like(self.log_std, -coef)

    def fisher_vector_product(self, vector: np.ndarray) -> np.ndarray:
        """The Fisher matrix by the means, 1 / std^2, times `vector` [B, n]; by log_std it is 2."""
        product: np.ndarray = vector * np.exp(-2 * self.log_std)
        return product

    def kl_divergence(self, other: "Gaussian") -> float:
        """The mean KL(self, other), in nats."""
        log_std, other_log_std = self.log_std.astype(np.float64), other.log_std.astype(np.float64)
        squares = np.exp(2 * log_std) + np.square(self.means - other.means, dtype=np.float64)
        terms = other_log_std - log_std + squares / (2 * np.exp(2 * other_log_std)) - 0.5
        return float(terms.sum(1).mean())

    def _z_scores(self, actions: np.ndarray) -> np.ndarray:
        """Distance from the means, in standard deviations."""
        z: np.ndarray = (actions - self.means) * np.exp(-self.log_std)
        return z
