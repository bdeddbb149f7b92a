"""Learning more than once from each step: a learned model, or whole trajectories kept and replayed."""

import numpy as np

from training.tabular.copies import Learned, Learning, begin
from training.tabular.mdp import FiniteMDP


def dyna_q(world: FiniteMDP, how: Learning) -> Learned:
    """Q-learning, and after each step `planning` updates of known pairs by their last outcome (Sutton 1990; section 8.2, p. 164).

    The last outcome is all of the model, which suits worlds without chance.
    """
    copies, table = begin(world, how)
    size = table.q.shape
    model_rewards, model_following = np.zeros(size), np.zeros(size, np.int64)
    known, count = np.zeros((size[0], size[1] * size[2]), np.int64), np.zeros(size[0], np.int64)  # pairs in the order they were met
    for _ in range(how.steps):
        states, actions = copies.states, table.choose(copies.states)
        rewards, following = copies.step(actions)
        new = np.unique(np.stack([table.rows, states * size[2] + actions], 1)[table.visits[table.rows, states, actions] == 0], axis=0)
        for row, pair in new:
            known[row, count[row]] = pair
            count[row] += 1
        where = table.rows, states, actions
        model_rewards[where], model_following[where] = rewards, following
        table.learn(states, actions, rewards + how.gamma * table.at(following).max(1))
        for _ in range(how.planning):
            drawn = known[table.rows, (table.random.random(how.copies) * count[table.rows]).astype(np.int64)]
            before, action = np.divmod(drawn, size[2])
            where = table.rows, before, action
            table.learn(before, action, model_rewards[where] + how.gamma * table.at(model_following[where]).max(1), real=False)
    return Learned(table.q, copies.finished())


def trajectory_replay(world: FiniteMDP, how: Learning, reverse: bool = True) -> Learned:
    """Q-learning from whole episodes, each replayed `planning` times once it has ended (Lin 1992, "Self-improving reactive agents").

    With `reverse` a replay runs from the last step to the first, so that one pass carries a reward all the way back; forwards
    it moves by one step per pass.
    """
    copies, table = begin(world, how)
    trajectories: list[list[tuple[int, int, float, int]]] = [[] for _ in range(how.copies)]
    for _ in range(how.steps):
        states, actions = copies.states, table.choose(copies.states)
        rewards, following = copies.step(actions)
        for copy, step in enumerate(zip(states.tolist(), actions.tolist(), rewards.tolist(), following.tolist(), strict=True)):
            trajectories[copy].append(step)
        np.add.at(table.visits, (table.rows, states, actions), 1)
        for copy in np.flatnonzero(copies.fresh).tolist():
            row, q = table.rows[copy], table.q[table.rows[copy]]
            for _ in range(how.planning):
                for before, action, reward, after in reversed(trajectories[copy]) if reverse else trajectories[copy]:
                    size = how.alpha / table.visits[row, before, action] ** how.power
                    q[before, action] += size * (reward + how.gamma * q[after].max() - q[before, action])
            trajectories[copy].clear()
    return Learned(table.q, copies.finished())
