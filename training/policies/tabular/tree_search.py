"""Planning by tree search: simulates a known model from some states, without a table of all values.

The algorithm is UCT (Kocsis and Szepesvari 2006, "Bandit based Monte-Carlo Planning", figure 1): every pair
of depth and state is a bandit, which takes the action with the highest upper confidence bound and learns the
mean of the returns after it. All trees grow together, one simulation of each at a time.
"""

import numpy as np

from training.policies.tabular.mdp import FiniteMDP


def uct(
    world: FiniteMDP,
    roots: np.ndarray,
    simulations: int,
    horizon: int,
    gamma: float,
    exploration: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(action values float64 [R, A], visits int64 [R, A]) of a tree for each of `roots`, int64 [R].

    A simulation ends with the episode or after `horizon` steps. `exploration` is the weight of the confidence
    bound sqrt(ln n / n_a), of the size of differences between returns. The action to take is the most visited
    one; an action that a state doesn't have is never visited and worth minus infinity. Memory is R x horizon
    x states x actions numbers, twice.
    """
    rng, rows, is_valid = np.random.default_rng(seed), np.arange(len(roots)), world.valid_actions
    visits = np.zeros((len(roots), horizon, world.states + 1, world.actions), np.int32)
    means = np.zeros(visits.shape, np.float32)
    for _ in range(simulations):
        states, path = roots, []
        for depth in range(horizon):
            tried = visits[rows, depth, states]
            bonus = np.sqrt(np.log(np.maximum(tried.sum(1, keepdims=True), 1)) / np.maximum(tried, 1))
            # what was never tried comes first
            bound = np.where(tried > 0, means[rows, depth, states] + exploration * bonus, np.inf)
            bound = np.where(is_valid[states], bound, -np.inf)
            actions = ((bound == bound.max(1, keepdims=True)) * (1 + rng.random(bound.shape))).argmax(1)
            running = np.flatnonzero(states < world.states)
            rewards, next_states = np.zeros(len(roots)), states.copy()
            rewards[running], next_states[running] = world.step(states[running], actions[running], rng)
            path.append((states, actions, rewards))
            states = next_states
            if len(running) == 0:
                break
        returns = np.zeros(len(roots))
        for depth, (states, actions, rewards) in reversed(list(enumerate(path))):
            returns = rewards + gamma * returns
            place = (rows, depth, states, actions)
            visits[place] += 1
            means[place] += (returns - means[place]) / visits[place]
    root_visits = visits[rows, 0, roots].astype(np.int64)
    return np.where(root_visits > 0, means[rows, 0, roots].astype(np.float64), -np.inf), root_visits
