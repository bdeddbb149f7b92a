"""Planning: values and policies of a known model, vectorized over its states.

A policy is pi(a | s), float64 [S + 1, A]; values are float64 [S + 1], 0 at the end.
"""

import numpy as np

from training.policies.tabular.mdp import FiniteMDP


def policy_evaluation(
    mdp: FiniteMDP, policy: np.ndarray, gamma: float, tolerance: float = 1e-12, sweeps: int = 1_000_000
) -> np.ndarray:
    """v_pi by iteration, all states at once: v(s) <- sum of pi(a | s) q(s, a).

    Iterative policy evaluation, section 4.1, p. 75, with two arrays. It stops when no value moves by more
    than `tolerance`, and after `sweeps` in any case: undiscounted values of a policy that never ends don't
    converge.
    """
    values, done, change = np.zeros(mdp.states + 1), 0, np.inf
    while change > tolerance and done < sweeps:
        before, values = values, expectation(policy, mdp.action_values(values, gamma))
        change, done = np.abs(values - before).max(), done + 1
    return values


def policy_evaluation_exact(mdp: FiniteMDP, policy: np.ndarray, gamma: float) -> np.ndarray:
    """v_pi as the solution of Bellman's linear equations, (I - gamma P) v = r (section 4.1, p. 74).

    Raises numpy's LinAlgError where they have no unique one: gamma is 1 and the policy may go on for ever.
    """
    weight = policy[:-1, :, None] * mdp.probability
    step = np.zeros((mdp.states, mdp.states + 1))
    np.add.at(step, (np.arange(mdp.states)[:, None, None], mdp.next_states), weight)
    solved = np.linalg.solve(np.eye(mdp.states) - gamma * step[:, :-1], (weight * mdp.rewards).sum((1, 2)))
    return np.append(solved, 0)


def policy_iteration(mdp: FiniteMDP, gamma: float) -> tuple[np.ndarray, int]:
    """(optimal q, rounds): evaluate the policy, make it greedy, until it is stable.

    Howard 1960; section 4.3, p. 80. An action changes only for one that is better by more than rounding,
    without which ties would never settle. It starts from the uniform policy, which ends wherever an end can
    be reached.
    """
    policy, rounds = uniform(mdp), 0
    while True:
        values = mdp.action_values(policy_evaluation(mdp, policy, gamma), gamma)
        rounds += 1
        best = values.max(1)
        is_kept = expectation(policy, values) >= best - 1e-9 * (1 + np.abs(best))
        if is_kept.all():
            return values, rounds
        policy = np.where(is_kept[:, None], policy, greedy(values))


def value_iteration(
    mdp: FiniteMDP, gamma: float, tolerance: float = 1e-12, sweeps: int = 1_000_000
) -> tuple[np.ndarray, int]:
    """(optimal q, sweeps): v(s) <- max over a of q(s, a), all states at once.

    Bellman 1957; section 4.4, p. 83. It stops once no value moves by more than `tolerance`, or after
    `sweeps`.
    """
    values, done, change = np.zeros(mdp.states + 1), 0, np.inf
    while change > tolerance and done < sweeps:
        before, values = values, mdp.action_values(values, gamma).max(1)
        change, done = np.abs(values - before).max(), done + 1
    return mdp.action_values(values, gamma), done


def greedy(values: np.ndarray) -> np.ndarray:
    """The policy [S + 1, A] that takes the first of the best actions by q [S + 1, A]."""
    policy: np.ndarray = np.eye(values.shape[1])[values.argmax(1)]
    return policy


def uniform(mdp: FiniteMDP) -> np.ndarray:
    """The policy [S + 1, A] that takes any action that a state has."""
    is_valid = mdp.valid_actions
    shares: np.ndarray = is_valid / is_valid.sum(1, keepdims=True)
    return shares


def expectation(policy: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum over the last axis of pi q, [...], where an action that isn't taken may be worth minus infinity."""
    total: np.ndarray = (policy * np.where(policy > 0, values, 0)).sum(-1)
    return total
