"""The state of rows that come and go."""

import numpy as np
import pytest

from handlers.decoding.state import CACHE, CARRIED, CHUNK, CONSTANT, RowStates, StatePart

PARTS = (
    StatePart("memory", CONSTANT, (0, 2), axis=1),
    StatePart("hidden", CARRIED, (3,)),
    StatePart("cache", CACHE, (2, 0), axis=2),
)


def states(*lengths: int) -> RowStates:
    """Rows whose memory has these lengths and holds their numbers."""
    made = RowStates(PARTS)
    for row, length in enumerate(lengths):
        made.join({"memory": np.full((1, length, 2), row, np.float32)}, np.zeros(1, np.int64))
    return made


def test_rows_of_different_lengths_stand_beside_each_other() -> None:
    """Filled up with zeros; they may leave, come again, and be doubled."""
    made = states(1, 3, 2)
    assert made.arrays["memory"].shape == (3, 3, 2)
    assert made.arrays["memory"][2, :, 0].tolist() == [2, 2, 0]
    parked = made.copy_of([1])
    made.take([2, 2, 0])
    assert made.arrays["memory"][:, 0, 0].tolist() == [2, 2, 0]
    made.join(*parked)
    assert made.arrays["memory"][:, 0, 0].tolist() == [2, 2, 0, 1]
    made.take([])
    assert len(made) == 0
    made.join(*parked)
    assert made.arrays["memory"].shape == (1, 3, 2)


def test_a_cache_grows_by_chunks_and_keeps_each_rows_place() -> None:
    """New entries stand behind those of their own row; parts of the batch may be written alone."""
    made = states(1, 1)
    made.positions[:] = [0, 5]
    for step in range(CHUNK + 3):
        made.make_room()
        for rows in (slice(0, 1), slice(1, 2)):
            assert [one.shape[0] for one in made.inputs(rows)] == [1, 1, 1]
            new = np.full((1, 2, 1), 100 * rows.start + step + 1, np.float32)
            made.update(rows, {"hidden": np.full((1, 3), step, np.float32), "cache": new})
    assert made.positions.tolist() == [CHUNK + 3, CHUNK + 8]
    cache = made.arrays["cache"]
    assert cache.shape == (2, 2, 2 * CHUNK)
    assert cache[0, 0, : CHUNK + 3].tolist() == [*range(1, CHUNK + 4)]
    assert cache[1, 1, 5 : CHUNK + 8].tolist() == [*range(101, CHUNK + 104)]
    assert not cache[1, :, :5].any()
    assert made.arrays["hidden"][:, 0].tolist() == [CHUNK + 2] * 2


def test_parts_that_are_none_are_refused() -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match="has the role lost"):
        StatePart.from_config({"name": "x", "role": "lost", "shape": []})
    with pytest.raises(ValueError, match="has the role cache"):
        StatePart.from_config({"name": "x", "role": "cache", "shape": [1]})
    assert StatePart.from_config(PARTS[0].as_config()) == PARTS[0]
