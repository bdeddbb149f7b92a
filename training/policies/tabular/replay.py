"""Learning more than once from each step: a learned model, or whole trajectories kept and replayed."""

import numpy as np

from training.policies.tabular.mdp import FiniteMDP
from training.policies.tabular.vector_mdp import ControlConfig, ControlResult, start_control


def dyna_q(world: FiniteMDP, config: ControlConfig) -> ControlResult:
    """Q-learning, and after each step `planning_steps` updates of known pairs by their last outcome.

    Sutton 1990; section 8.2, p. 164. The last outcome is all of the model, which suits deterministic worlds.
    """
    envs, table = start_control(world, config)
    size = table.q.shape
    model_rewards, model_next_states = np.zeros(size), np.zeros(size, np.int64)
    # pairs in the order they were met
    known, count = np.zeros((size[0], size[1] * size[2]), np.int64), np.zeros(size[0], np.int64)
    for _ in range(config.steps):
        states, actions = envs.states, table.sample_actions(envs.states)
        rewards, next_states = envs.step(actions)
        new = np.unique(
            np.stack([table.rows, states * size[2] + actions], 1)[
                table.visits[table.rows, states, actions] == 0
            ],
            axis=0,
        )
        for row, pair in new:
            known[row, count[row]] = pair
            count[row] += 1
        where = table.rows, states, actions
        model_rewards[where], model_next_states[where] = rewards, next_states
        table.update(states, actions, rewards + config.gamma * table.values_at(next_states).max(1))
        for _ in range(config.planning_steps):
            sampled = known[
                table.rows, (table.rng.random(config.num_envs) * count[table.rows]).astype(np.int64)
            ]
            before, action = np.divmod(sampled, size[2])
            where = table.rows, before, action
            table.update(
                before,
                action,
                model_rewards[where] + config.gamma * table.values_at(model_next_states[where]).max(1),
                count_visits=False,
            )
    return ControlResult(table.q, envs.episodes())


def trajectory_replay(world: FiniteMDP, config: ControlConfig, reverse: bool = True) -> ControlResult:
    """Q-learning from whole episodes, each replayed `planning_steps` times once it has ended.

    Lin 1992, "Self-improving reactive agents". With `reverse` a replay runs from the last step to the first,
    so that one pass carries a reward all the way back; forwards it moves by one step per pass.
    """
    envs, table = start_control(world, config)
    trajectories: list[list[tuple[int, int, float, int]]] = [[] for _ in range(config.num_envs)]
    for _ in range(config.steps):
        states, actions = envs.states, table.sample_actions(envs.states)
        rewards, next_states = envs.step(actions)
        for env, step in enumerate(
            zip(states.tolist(), actions.tolist(), rewards.tolist(), next_states.tolist(), strict=True)
        ):
            trajectories[env].append(step)
        np.add.at(table.visits, (table.rows, states, actions), 1)
        for env in np.flatnonzero(envs.done).tolist():
            row, q = table.rows[env], table.q[table.rows[env]]
            for _ in range(config.planning_steps):
                for before, action, reward, after in (
                    reversed(trajectories[env]) if reverse else trajectories[env]
                ):
                    size = config.alpha / table.visits[row, before, action] ** config.power
                    q[before, action] += size * (reward + config.gamma * q[after].max() - q[before, action])
            trajectories[env].clear()
    return ControlResult(table.q, envs.episodes())
