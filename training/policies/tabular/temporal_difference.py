"""Temporal differences: values from rewards and from the values that follow.

Every function takes N separate estimates, float64 [N, S + 1] with 0 at the end S, lets each learn from its
own episode, and returns the new ones; `alpha` is one number or float64 [N], so that runs and step sizes go
side by side. (The states of an episode beyond its end are S, where all errors are 0.)
"""

import numpy as np

from training.policies.tabular.episodes import Episodes

Step = float | np.ndarray


def td0(values: np.ndarray, episodes: Episodes, alpha: Step, gamma: float) -> np.ndarray:
    """One-step TD, v(S) <- v(S) + alpha (R + gamma v(S') - v(S)) (Sutton 1988; section 6.1, p. 120)."""
    values, rows = values.copy(), np.arange(len(values))
    for step in range(episodes.steps):
        state, next_states = episodes.states[:, step], episodes.states[:, step + 1]
        error = episodes.rewards[:, step] + gamma * values[rows, next_states] - values[rows, state]
        values[rows, state] += alpha * error
    return values


def batch_td0(episodes: Episodes, end: int, alpha: float, gamma: float, sweeps: int) -> np.ndarray:
    """Values float64 [end + 1] of batch TD(0): the increments of all steps are summed before an update.

    Section 6.3, p. 126.
    """
    values = np.zeros(end + 1)
    state, next_states = episodes.states[:, :-1], episodes.states[:, 1:]
    for _ in range(sweeps):
        errors = episodes.rewards + gamma * values[next_states] - values[state]
        values += alpha * np.bincount(state.ravel(), errors.ravel(), end + 1)
    return values


def n_step_td(values: np.ndarray, episodes: Episodes, alpha: Step, gamma: float, n: int) -> np.ndarray:
    """v(S_t) <- v(S_t) + alpha (G_t:t+n - v(S_t)), where G_t:t+n ends in gamma^n v(S_t+n).

    Section 7.1, p. 144.
    """
    values, rows, steps = values.copy(), np.arange(len(values)), episodes.steps
    discounts = gamma ** np.arange(n)
    for start in range(steps):
        last = min(start + n, steps)
        target = episodes.rewards[:, start:last] @ discounts[: last - start]
        target += gamma**n * values[rows, episodes.states[:, last]]
        state = episodes.states[:, start]
        values[rows, state] += alpha * (target - values[rows, state])
    return values


def lambda_returns(
    values: np.ndarray, episodes: Episodes, gamma: float, trace: float, horizon: int | None = None
) -> np.ndarray:
    """G_t^lambda = R_t+1 + gamma ((1 - lambda) v(S_t+1) + lambda G_t+1^lambda), float64 [N, horizon].

    Section 12.1, p. 289. With a `horizon` h, returns are truncated: G_h-1 = R_h + gamma v(S_h) (section 12.3,
    p. 296, with v as it is).
    """
    horizon = episodes.steps if horizon is None else horizon
    ahead = np.take_along_axis(values, episodes.states[:, 1 : horizon + 1], 1)
    returns, next_return = np.zeros((len(values), horizon)), ahead[:, -1]
    for step in reversed(range(horizon)):
        next_return = returns[:, step] = episodes.rewards[:, step] + gamma * (
            (1 - trace) * ahead[:, step] + trace * next_return
        )
    return returns


def forward_view(
    values: np.ndarray, episodes: Episodes, alpha: Step, gamma: float, trace: float
) -> np.ndarray:
    """Offline lambda-return algorithm: v(S_t) <- v(S_t) + alpha (G_t^lambda - v(S_t)), by the old values.

    Section 12.1, p. 290.
    """
    state = episodes.states[:, :-1]
    errors = lambda_returns(values, episodes, gamma, trace) - np.take_along_axis(values, state, 1)
    new = values.copy()
    np.add.at(new, (np.arange(len(values))[:, None], state), np.reshape(alpha, (-1, 1)) * errors)
    return _zero_end(new)


def td_lambda(
    values: np.ndarray,
    episodes: Episodes,
    alpha: Step,
    gamma: float,
    trace: float,
    replacing: bool = False,
    offline: bool = False,
) -> np.ndarray:
    """Backward view: every error moves all earlier states, by e(s) <- gamma lambda e(s), and e(S_t) + 1.

    Section 12.2, p. 293. `replacing` sets e(S_t) to 1 instead (Singh and Sutton 1996, "Reinforcement learning
    with replacing eligibility traces"). `offline` gathers the changes until the episode's end: then, with
    accumulating traces, they are those of `forward_view`.
    """
    values, rows = values.copy(), np.arange(len(values))
    used, traces, size = (
        values.copy() if offline else values,
        np.zeros_like(values),
        np.reshape(alpha, (-1, 1)),
    )
    for step in range(episodes.steps):
        state, next_states = episodes.states[:, step], episodes.states[:, step + 1]
        error = episodes.rewards[:, step] + gamma * used[rows, next_states] - used[rows, state]
        traces *= gamma * trace
        traces[rows, state] = 1 if replacing else traces[rows, state] + 1
        values += size * error[:, None] * traces
    return _zero_end(values)


def true_online_td_lambda(
    values: np.ndarray, episodes: Episodes, alpha: Step, gamma: float, trace: float
) -> np.ndarray:
    """True online TD(lambda) with dutch traces, for a table of states.

    van Seijen and Sutton 2014; section 12.5, p. 300. Step for step it gives the values of
    `online_forward_view`, at the cost of `td_lambda`.
    """
    values, rows = values.copy(), np.arange(len(values))
    traces, size, old = np.zeros_like(values), np.reshape(alpha, (-1, 1)), np.zeros(len(values))
    flat = np.broadcast_to(np.ravel(alpha), len(values))
    for step in range(episodes.steps):
        state, next_states = episodes.states[:, step], episodes.states[:, step + 1]
        now, ahead = values[rows, state], values[rows, next_states]
        error = episodes.rewards[:, step] + gamma * ahead - now
        traces *= gamma * trace
        traces[rows, state] += 1 - flat * traces[rows, state]
        values += size * (error + now - old)[:, None] * traces
        values[rows, state] -= flat * (now - old)
        old = ahead
    return _zero_end(values)


def online_forward_view(
    values: np.ndarray, episodes: Episodes, alpha: Step, gamma: float, trace: float
) -> np.ndarray:
    """Online lambda-return algorithm: after every step all updates are repeated, up to the new horizon.

    Section 12.4, p. 298. The update of S_t for the horizon h uses the truncated return by the values that
    earlier horizons left, where G_t:h ends in the value of S_h by the latest of them. Its cost is quadratic
    in the steps: it is a reference.
    """
    rows, first, size = np.arange(len(values)), values, np.broadcast_to(np.ravel(alpha), len(values))
    known = np.zeros((len(values), episodes.steps))  # v(S_t+1) by the last values of horizon t
    latest = first
    for horizon in range(1, episodes.steps + 1):
        known[:, horizon - 1] = latest[rows, episodes.states[:, horizon]]
        redone = first.copy()
        returns, next_return = np.zeros((len(values), horizon)), known[:, horizon - 1]
        for step in reversed(range(horizon)):
            next_return = returns[:, step] = episodes.rewards[:, step] + gamma * (
                (1 - trace) * known[:, step] + trace * next_return
            )
        for step in range(horizon):
            state = episodes.states[:, step]
            redone[rows, state] += size * (returns[:, step] - redone[rows, state])
        latest = _zero_end(redone)
    return latest


def _zero_end(values: np.ndarray) -> np.ndarray:
    """The end is worth nothing, whatever rounding says."""
    values[:, -1] = 0
    return values
