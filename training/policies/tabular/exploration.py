"""Exploration: pi(a | s) float64 [N, A] of action values q [N, A] and visits of states [N].

Actions worth minus infinity are those that a state doesn't have, and are never taken. Equal best actions
share their probability, so that a table of zeros explores evenly. Optimistic initial values (section 2.6, p.
34) need nothing here: start the table high.
"""

from collections.abc import Callable

import numpy as np

Explore = Callable[[np.ndarray, np.ndarray], np.ndarray]


def greedy(q: np.ndarray) -> np.ndarray:
    """All chance on the best actions."""
    best = q == q.max(-1, keepdims=True)
    shares: np.ndarray = best / best.sum(-1, keepdims=True)
    return shares


def epsilon_soft(q: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
    """Any action with chance epsilon [N], otherwise a best one (section 5.4, p. 100)."""
    is_valid = q > -np.inf
    any_action = is_valid / is_valid.sum(-1, keepdims=True)
    shares: np.ndarray = greedy(q) + epsilon[:, None] * (any_action - greedy(q))
    return shares


def epsilon_greedy(epsilon: float) -> Explore:
    """A constant share of random actions; 0 is greedy."""
    return lambda q, _: epsilon_soft(q, np.full(len(q), epsilon))


def glie(half: float) -> Explore:
    """Epsilon-greedy with epsilon(s) = half / (half + visits of s), which falls towards 0.

    Greedy in the limit with infinite exploration, since the sum of 1 / n diverges (Singh, Jaakkola, Littman
    and Szepesvari 2000, "Convergence results for single-step on-policy reinforcement-learning algorithms",
    appendix B).
    """
    return lambda q, visits: epsilon_soft(q, half / (half + visits))


def boltzmann(temperature: float) -> Explore:
    """Softmax: pi(a | s) proportional to exp(q / temperature) (section 2.8, p. 37, with q as preferences)."""

    def explore(q: np.ndarray, visits: np.ndarray) -> np.ndarray:  # noqa: ARG001
        weights = np.exp((q - q.max(-1, keepdims=True)) / temperature)
        shares: np.ndarray = weights / weights.sum(-1, keepdims=True)
        return shares

    return explore
