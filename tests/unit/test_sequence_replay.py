"""The replay of deep Q-learning, against slow references: returns of several steps, stacks of frames, priorities."""

from dataclasses import dataclass

import numpy as np
import pytest

from training.policies.priorities import Priorities
from training.policies.sequences import SequenceReplay


@dataclass
class Row:
    """One step of one copy, as a slow list keeps it."""

    observation: np.ndarray  # [stack, 2], oldest first
    action: int
    reward: float
    terminated: bool
    ended: bool
    real: bool


def play(replay: SequenceReplay, steps: int, copies: int, stack: int, seed: int = 0) -> list[list[Row]]:
    """Made-up episodes of 1 to 6 steps, some terminated and some cut off, put into `replay`; returns [steps][copies] of the same."""
    random, told = np.random.default_rng(seed), []
    stacks, resetting = np.zeros((copies, stack, 2), np.float32), np.zeros(copies, bool)
    stacks[:] = random.normal(size=(copies, 1, 2))
    for _ in range(steps):
        actions, rewards = random.integers(3, size=copies), random.normal(size=copies).astype(np.float32)
        ends = (random.random(copies) < 0.3) & ~resetting
        terminated = ends & (random.random(copies) < 0.5)
        real = ~resetting
        rewards[resetting] = 0
        replay.add(stacks if stack > 1 else stacks[:, 0], actions, rewards, terminated, ends, real)
        told.append(
            [Row(stacks[c].copy(), *(column[c].item() for column in (actions, rewards, terminated, ends, real))) for c in range(copies)]
        )
        frames = random.normal(size=(copies, 2)).astype(np.float32)
        following = np.concatenate((stacks[:, 1:], frames[:, None]), 1)
        following[resetting] = frames[resetting][:, None]  # an episode begins with copies of its first frame
        stacks, resetting = following, ends
    return told


def slow_return(told: list[list[Row]], time: int, copy: int, n_steps: int, gamma: float) -> tuple[float, float, np.ndarray]:
    """(return, discount of what follows, what follows): step by step."""
    total, discount = 0.0, 1.0
    for step in range(n_steps):
        row = told[time + step][copy]
        total += discount * row.reward
        discount *= gamma
        if row.terminated:
            return total, 0.0, told[time + step + 1][copy].observation
        if row.ended:
            return total, discount, told[time + step + 1][copy].observation
    return total, discount, told[time + n_steps][copy].observation


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_what_is_drawn_equals_a_slow_list_of_all_steps_at_ends_cuts_and_after_overwriting(
    stack: int, n_steps: int, alpha: float | None
) -> None:
    replay = SequenceReplay(90, 3, (stack, 2) if stack > 1 else (2,), "float32", gamma=0.9, n_steps=n_steps, stack=stack, alpha=alpha)
    told = play(replay, 100, 3, stack)
    assert replay.times == 30

    drawn = replay.draw(1000, np.random.default_rng(0), beta=0.5)

    times, copies = drawn.rows // 3, drawn.rows % 3
    times += (99 - times) // 30 * 30  # the last time that a place was written
    expected = {(t, c) for t in range(70 + stack - 1, 100 - n_steps) for c in range(3) if told[t][c].real}
    assert set(zip(times.tolist(), copies.tolist(), strict=True)) == expected
    for place, (time, copy) in enumerate(zip(times, copies, strict=True)):
        row = told[time][copy]
        total, discount, following = slow_return(told, time, copy, n_steps, 0.9)
        assert drawn.actions[place] == row.action
        assert drawn.returns[place] == pytest.approx(total, rel=1e-5, abs=1e-6)
        assert drawn.discounts[place] == pytest.approx(discount, rel=1e-5)
        np.testing.assert_array_equal(drawn.observations[place], row.observation if stack > 1 else row.observation[0])
        if discount:
            np.testing.assert_array_equal(drawn.following[place], following if stack > 1 else following[0])


def test_a_frame_is_kept_once_and_as_it_came() -> None:
    replay = SequenceReplay(1000, 2, (4, 84, 84), "uint8", gamma=0.99, stack=4)

    assert replay.frames.shape == (500, 2, 84, 84)
    assert replay.frames.dtype == np.uint8


def test_breaking_off_cuts_the_episodes_and_learns_from_no_step_whose_end_was_not_seen() -> None:
    replay = SequenceReplay(100, 1, (1,), "float32", gamma=0.9, n_steps=2)
    for time in range(4):
        replay.add(*(np.array([value]) for value in ([float(time)], 0, 1.0, False, False, True)))
    replay.break_off()
    for time in range(10, 14):
        replay.add(*(np.array([value]) for value in ([float(time)], 0, 1.0, False, False, True)))

    drawn = replay.draw(200, np.random.default_rng(0))

    pairs = set(zip(drawn.observations[:, 0].tolist(), drawn.following[:, 0].tolist(), strict=True))
    assert pairs == {(0, 2), (1, 3), (2, 3), (10, 12), (11, 13)}


def test_rows_are_drawn_in_proportion_to_their_priorities_to_the_power_alpha() -> None:
    priorities, random = Priorities(50, alpha=0.7), np.random.default_rng(0)
    given = random.exponential(size=50)
    given[7] = 5
    priorities.put(np.arange(50), given)
    priorities.forget(np.array([3, 49]))
    expected = given**0.7
    expected[[3, 49]] = 0

    counts = sum(np.bincount(priorities.draw(64, random), minlength=50) for _ in range(1000))

    assert counts[3] == counts[49] == 0
    chances = expected / expected.sum()
    assert (np.abs(counts - 64_000 * chances) <= 4 * np.sqrt(64_000 * chances)).all()  # four standard deviations of a binomial count


def test_the_draws_of_a_batch_are_spread_over_the_sum_so_that_none_gets_more_than_its_share_and_one() -> None:
    priorities = Priorities(100, alpha=1.0)
    priorities.put(np.arange(100), 1.0)

    counts = np.bincount(priorities.draw(100, np.random.default_rng(0)), minlength=100)

    assert counts.max() <= 2


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_are_the_papers(beta: float) -> None:
    priorities = Priorities(20, alpha=0.6)
    given = np.random.default_rng(1).exponential(size=12)
    priorities.put(np.arange(12), given)
    chances = given**0.6 / (given**0.6).sum()
    exact = (12 * chances) ** -beta

    found = priorities.weights(np.array([0, 5, 11, 5]), beta)

    np.testing.assert_allclose(found, (exact / exact.max())[[0, 5, 11, 5]], rtol=1e-6)


def test_sums_follow_every_change_and_draws_never_leave_what_there_is() -> None:
    priorities, random = Priorities(1000, alpha=0.5), np.random.default_rng(0)
    plain = np.zeros(1000)
    for _ in range(200):
        rows, errors = np.unique(random.integers(1000, size=30)), random.exponential(size=30) * 10.0 ** random.integers(-8, 8)
        priorities.learned(rows, errors[: len(rows)])
        plain[rows] = (errors[: len(rows)] + 1e-6) ** 0.5
        lost = random.integers(1000, size=20)
        priorities.forget(lost)
        plain[lost] = 0
        assert (plain[priorities.draw(100, random)] > 0).all()

    assert priorities.sums.sum() == pytest.approx(plain.sum(), rel=1e-12)
    assert priorities.least.min() == plain[plain > 0].min()


def test_a_new_row_gets_the_largest_priority_that_there_was() -> None:
    priorities = Priorities(9, alpha=1.0)
    priorities.learned(np.array([0, 1]), np.array([4.0, 2.0]))
    priorities.learned(np.array([0]), np.array([0.0]))

    priorities.welcome(np.array([2]))

    assert priorities.raised.reshape(-1)[[0, 1, 2]].tolist() == pytest.approx([1e-6, 2.0, 4.0], rel=1e-5)
