"""One-step control: each step moves q(S, A) towards R + gamma times a value of the next state.

The algorithms differ in which value.
"""

import numpy as np

from training.policies.tabular.episodes import sample_actions
from training.policies.tabular.exploration import greedy
from training.policies.tabular.mdp import FiniteMDP
from training.policies.tabular.planning import expectation
from training.policies.tabular.vector_mdp import ControlConfig, ControlResult, Table, start_control


def sarsa(world: FiniteMDP, config: ControlConfig) -> ControlResult:
    """Towards R + gamma q(S', A'), with the action that is taken next: on-policy.

    Rummery and Niranjan 1994; section 6.4, p. 130.
    """
    envs, table = start_control(world, config)
    actions = table.sample_actions(envs.states)
    for _ in range(config.steps):
        states = envs.states
        rewards, next_states = envs.step(actions)
        next_actions = table.sample_actions(next_states)
        ahead = table.values_at(next_states)[np.arange(config.num_envs), next_actions]
        table.update(states, actions, rewards + config.gamma * ahead)
        actions = np.where(envs.done, table.sample_actions(envs.states), next_actions)
    return ControlResult(table.q, envs.episodes())


def expected_sarsa(world: FiniteMDP, config: ControlConfig) -> ControlResult:
    """Towards R + gamma sum of pi(a | S') q(S', a): SARSA without the variance of A'.

    van Seijen et al. 2009; section 6.6, p. 133.
    """
    envs, table = start_control(world, config)
    for _ in range(config.steps):
        states, actions = envs.states, table.sample_actions(envs.states)
        rewards, next_states = envs.step(actions)
        table.update(
            states,
            actions,
            rewards + config.gamma * expectation(table.policy(next_states), table.values_at(next_states)),
        )
    return ControlResult(table.q, envs.episodes())


def q_learning(world: FiniteMDP, config: ControlConfig) -> ControlResult:
    """Towards R + gamma max q(S', a), whatever is done next: off-policy.

    Watkins 1989; section 6.5, p. 131.
    """
    envs, table = start_control(world, config)
    for _ in range(config.steps):
        states, actions = envs.states, table.sample_actions(envs.states)
        rewards, next_states = envs.step(actions)
        table.update(states, actions, rewards + config.gamma * table.values_at(next_states).max(1))
    return ControlResult(table.q, envs.episodes())


def double_q_learning(world: FiniteMDP, config: ControlConfig) -> ControlResult:
    """Two tables: one selects the best next action, the other evaluates it.

    van Hasselt 2010; section 6.7, p. 136. A coin decides which one learns; both together act, and their mean
    is returned.
    """
    envs, table = start_control(world, config)
    first, second = table, Table(world, config, table.rng)
    rows = np.arange(config.num_envs)
    for _ in range(config.steps):
        states = envs.states
        visits = (first.visits + second.visits)[first.rows, states].sum(1)
        actions = sample_actions(
            config.explore((first.values_at(states) + second.values_at(states)) / 2, visits), table.rng
        )
        rewards, next_states = envs.step(actions)
        heads = table.rng.random(config.num_envs) < 0.5
        chosen, judged = first.values_at(next_states), second.values_at(next_states)
        towards_first = judged[rows, sample_actions(greedy(chosen), table.rng)]
        towards_second = chosen[rows, sample_actions(greedy(judged), table.rng)]
        first.update(states, actions, rewards + config.gamma * towards_first, heads)
        second.update(states, actions, rewards + config.gamma * towards_second, ~heads)
    return ControlResult((first.q + second.q) / 2, envs.episodes())
