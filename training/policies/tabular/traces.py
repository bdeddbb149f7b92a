"""Control with eligibility traces: each error moves all pairs (state, action) on the way to it.

Traces are replacing, e(S, A) = 1, and fade by gamma lambda per step (Singh and Sutton 1996).
"""

from collections.abc import Callable

import numpy as np

from training.policies.tabular.mdp import FiniteMDP
from training.policies.tabular.vector_mdp import ControlConfig, ControlResult, start_control

# action values [N, A] of the next states, those of the next actions [N] -> (the value that the error
# bootstraps from [N], whether traces end there, bool [N])
Bootstrap = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def sarsa_lambda(world: FiniteMDP, config: ControlConfig) -> ControlResult:
    """SARSA's error along the traces (Rummery and Niranjan 1994; section 12.7, p. 303); lambda 0 is SARSA."""
    return _control(world, config, lambda _, taken: (taken, np.zeros(len(taken), bool)))


def watkins_q(world: FiniteMDP, config: ControlConfig) -> ControlResult:
    """Q-learning's error along the traces, which are cut where the next action isn't a best one.

    Watkins 1989; section 12.10, p. 312.
    """
    return _control(world, config, lambda values, taken: (values.max(1), taken < values.max(1)))


def _control(world: FiniteMDP, config: ControlConfig, bootstrap: Bootstrap) -> ControlResult:
    envs, table = start_control(world, config)
    traces, rows = np.zeros((config.num_envs, *table.q.shape[1:])), np.arange(config.num_envs)
    actions = table.sample_actions(envs.states)
    for _ in range(config.steps):
        states = envs.states
        rewards, next_states = envs.step(actions)
        next_actions, next_values = table.sample_actions(next_states), table.values_at(next_states)
        bootstrapped, is_cut = bootstrap(next_values, next_values[rows, next_actions])
        errors = rewards + config.gamma * bootstrapped - table.values_at(states)[rows, actions]
        traces *= config.gamma * config.trace
        traces[rows, states, actions] = 1
        table.update_along_traces(states, actions, errors, traces)
        traces[envs.done | is_cut] = 0
        actions = np.where(envs.done, table.sample_actions(envs.states), next_actions)
    return ControlResult(table.q, envs.episodes())
