"""The batch that a worker keeps in memory: every picture is resized straight into its row, and the graph reads the rows where they lie.

A new array for each picture and one more for the batch would cost several times the copying: the system clears their pages each time.

There are twice as many as the graph takes, since the next instances may be read while it computes, and the two halves take turns. So
whoever writes into a row must be done when it is computed (`Readers.wait` sees to it), and nothing may look at one later.
"""

from collections.abc import Sequence
from operator import is_

import numpy as np

from bundle_requests import Instance


class Rows:
    """Twice `count` rows of `shape`, uint8. Memory that no picture has come to yet takes no pages."""

    def __init__(self, count: int, shape: Sequence[int]) -> None:
        self.count = count
        self.memory = np.empty((2 * count, *shape), np.uint8)
        self.rows = list(self.memory)
        self.places = {id(row): place for place, row in enumerate(self.rows)}

    def hand_out(self, instances: Sequence[Instance], turn: int) -> None:
        """To each of `count` instances at most a row of its own, in their order: of the first half in even turns, else of the second."""
        first = turn % 2 * self.count
        for instance, row in zip(instances, self.rows[first : first + self.count], strict=False):
            instance.row = row

    def together(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays as one batch: a view of the rows if they are such, one after the other; else, as where one was refused, a copy."""
        first = self.places.get(id(arrays[0]), len(self.rows))
        neighbours = self.rows[first : first + len(arrays)]
        if len(neighbours) == len(arrays) and all(map(is_, neighbours, arrays)):
            return self.memory[first : first + len(arrays)]
        return np.array(arrays)
