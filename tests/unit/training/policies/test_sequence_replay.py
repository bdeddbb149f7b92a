"""The replay of deep Q-learning, against slow references: returns of several steps, stacks of frames,
priorities.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from training.policies.buffers.prioritized import Priorities
from training.policies.buffers.sequences import SequenceReplayBuffer


@dataclass
class Row:
    """One step of one copy, as a slow list keeps it."""

    observation: np.ndarray  # [stack, 2], oldest first
    action: int
    reward: float
    terminated: bool
    done: bool
    valid: bool


def play(
    replay: SequenceReplayBuffer, steps: int, num_envs: int, stack: int, seed: int = 0
) -> list[list[Row]]:
    """Made-up episodes of 1 to 6 steps, some terminated and some cut off, put into `replay`; returns
    [steps][num_envs] of the same.
    """
    random, history = np.random.default_rng(seed), []
    stacks, resetting = np.zeros((num_envs, stack, 2), np.float32), np.zeros(num_envs, bool)
    stacks[:] = random.normal(size=(num_envs, 1, 2))
    for _ in range(steps):
        actions, rewards = random.integers(3, size=num_envs), random.normal(size=num_envs).astype(np.float32)
        ends = (random.random(num_envs) < 0.3) & ~resetting
        terminated = ends & (random.random(num_envs) < 0.5)
        real = ~resetting
        rewards[resetting] = 0
        replay.add(stacks if stack > 1 else stacks[:, 0], actions, rewards, terminated, ends, real)
        history.append(
            [
                Row(
                    stacks[c].copy(),
                    *(column[c].item() for column in (actions, rewards, terminated, ends, real)),
                )
                for c in range(num_envs)
            ]
        )
        frames = random.normal(size=(num_envs, 2)).astype(np.float32)
        following = np.concatenate((stacks[:, 1:], frames[:, None]), 1)
        following[resetting] = frames[resetting][:, None]  # an episode begins with copies of its first frame
        stacks, resetting = following, ends
    return history


def slow_return(
    history: list[list[Row]], time: int, env: int, n_steps: int, gamma: float
) -> tuple[float, float, np.ndarray]:
    """(return, discount of what follows, what follows): step by step."""
    total, discount = 0.0, 1.0
    for step in range(n_steps):
        row = history[time + step][env]
        total += discount * row.reward
        discount *= gamma
        if row.terminated:
            return total, 0.0, history[time + step + 1][env].observation
        if row.done:
            return total, discount, history[time + step + 1][env].observation
    return total, discount, history[time + n_steps][env].observation


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_sampled_rows_equal_a_slow_list_of_all_steps(stack: int, n_steps: int, alpha: float | None) -> None:
    """What is sampled equals a slow list of all steps, at terminations, truncations and after overwriting."""
    replay = SequenceReplayBuffer(
        90,
        3,
        (stack, 2) if stack > 1 else (2,),
        "float32",
        gamma=0.9,
        n_step_returns=n_steps,
        frame_stack=stack,
        alpha=alpha,
    )
    history = play(replay, 100, 3, stack)
    assert replay.num_times == 30

    drawn = replay.sample(1000, np.random.default_rng(0), beta=0.5)

    times, envs = drawn.rows // 3, drawn.rows % 3
    times += (99 - times) // 30 * 30  # the last time that a place was written
    expected = {(t, c) for t in range(70 + stack - 1, 100 - n_steps) for c in range(3) if history[t][c].valid}
    assert set(zip(times.tolist(), envs.tolist(), strict=True)) == expected
    for place, (time, env) in enumerate(zip(times, envs, strict=True)):
        row = history[time][env]
        total, discount, following = slow_return(history, time, env, n_steps, 0.9)
        assert drawn.actions[place] == row.action
        assert drawn.returns[place] == pytest.approx(total, rel=1e-5, abs=1e-6)
        assert drawn.discounts[place] == pytest.approx(discount, rel=1e-5)
        np.testing.assert_array_equal(drawn.obs[place], row.observation if stack > 1 else row.observation[0])
        if discount:
            np.testing.assert_array_equal(drawn.next_obs[place], following if stack > 1 else following[0])


def test_a_frame_is_kept_once_and_as_it_came() -> None:
    replay = SequenceReplayBuffer(1000, 2, (4, 84, 84), "uint8", gamma=0.99, frame_stack=4)

    assert replay.frames.shape == (500, 2, 84, 84)
    assert replay.frames.dtype == np.uint8


def test_interrupting_truncates_episodes_without_unseen_steps() -> None:
    """Breaking off truncates the episodes, and no step is learned whose end was not seen."""
    replay = SequenceReplayBuffer(100, 1, (1,), "float32", gamma=0.9, n_step_returns=2)
    for time in range(4):
        replay.add(*(np.array([value]) for value in ([float(time)], 0, 1.0, False, False, True)))
    replay.truncate()
    for time in range(10, 14):
        replay.add(*(np.array([value]) for value in ([float(time)], 0, 1.0, False, False, True)))

    drawn = replay.sample(200, np.random.default_rng(0))

    pairs = set(zip(drawn.obs[:, 0].tolist(), drawn.next_obs[:, 0].tolist(), strict=True))
    assert pairs == {(0, 2), (1, 3), (2, 3), (10, 12), (11, 13)}


def test_rows_are_drawn_in_proportion_to_priority_to_the_alpha() -> None:
    """Rows are drawn in proportion to their priorities to the power alpha."""
    priorities, random = Priorities(50, alpha=0.7), np.random.default_rng(0)
    given = random.exponential(size=50)
    given[7] = 5
    priorities.set(np.arange(50), given)
    priorities.remove(np.array([3, 49]))
    expected = given**0.7
    expected[[3, 49]] = 0

    counts = sum(np.bincount(priorities.sample(64, random), minlength=50) for _ in range(1000))

    assert counts[3] == counts[49] == 0
    chances = expected / expected.sum()
    # four standard deviations of a binomial count
    assert (np.abs(counts - 64_000 * chances) <= 4 * np.sqrt(64_000 * chances)).all()


def test_stratified_draws_exceed_no_share_by_more_than_one() -> None:
    """A batch's draws are spread over the sum, so that no row gets more than its share plus one."""
    priorities = Priorities(100, alpha=1.0)
    priorities.set(np.arange(100), 1.0)

    counts = np.bincount(priorities.sample(100, np.random.default_rng(0)), minlength=100)

    assert counts.max() <= 2


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_are_the_papers(beta: float) -> None:
    priorities = Priorities(20, alpha=0.6)
    given = np.random.default_rng(1).exponential(size=12)
    priorities.set(np.arange(12), given)
    chances = given**0.6 / (given**0.6).sum()
    exact = (12 * chances) ** -beta

    found = priorities.weights(np.array([0, 5, 11, 5]), beta)

    np.testing.assert_allclose(found, (exact / exact.max())[[0, 5, 11, 5]], rtol=1e-6)


def test_sums_follow_every_change_and_draws_never_leave_what_there_is() -> None:
    priorities, random = Priorities(1000, alpha=0.5), np.random.default_rng(0)
    plain = np.zeros(1000)
    for _ in range(200):
        rows, errors = (
            np.unique(random.integers(1000, size=30)),
            random.exponential(size=30) * 10.0 ** random.integers(-8, 8),
        )
        priorities.update(rows, errors[: len(rows)])
        plain[rows] = (errors[: len(rows)] + 1e-6) ** 0.5
        lost = random.integers(1000, size=20)
        priorities.remove(lost)
        plain[lost] = 0
        assert (plain[priorities.sample(100, random)] > 0).all()

    assert priorities.block_sums.sum() == pytest.approx(plain.sum(), rel=1e-12)
    assert priorities.block_mins.min() == plain[plain > 0].min()


def test_a_new_row_gets_the_largest_priority_that_there_was() -> None:
    priorities = Priorities(9, alpha=1.0)
    priorities.update(np.array([0, 1]), np.array([4.0, 2.0]))
    priorities.update(np.array([0]), np.array([0.0]))

    priorities.insert(np.array([2]))

    assert priorities.scaled.reshape(-1)[[0, 1, 2]].tolist() == pytest.approx([1e-6, 2.0, 4.0], rel=1e-5)
