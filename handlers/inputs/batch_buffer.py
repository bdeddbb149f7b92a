"""The batch that a worker keeps in memory: every picture is resized straight into its slot, and the graph
reads the slots where they lie.

A new array for each picture and one more for the batch would cost several times the copying: the system
clears their pages each time.

There are twice as many as the graph takes, since the next instances may be read while it computes, and the
two halves take turns. So whoever writes into a slot must be done when it is computed (`DecodePool.wait` sees
to it), and nothing may look at one later.
"""

from collections.abc import Sequence
from operator import is_

import numpy as np

from ..protocol.requests import Instance


class BatchBuffer:
    """Twice `count` slots of `shape`, uint8. Memory that no picture has come to yet takes no pages."""

    def __init__(self, count: int, shape: Sequence[int]) -> None:
        self.count = count
        self.memory = np.empty((2 * count, *shape), np.uint8)
        self.slots = list(self.memory)
        self.places = {id(slot): place for place, slot in enumerate(self.slots)}

    def hand_out(self, instances: Sequence[Instance], turn: int) -> None:
        """To each of `count` instances at most a slot of its own, in their order: of the first half in
        even turns, else of the second.
        """
        first = turn % 2 * self.count
        for instance, slot in zip(instances, self.slots[first : first + self.count], strict=False):
            instance.slot = slot

    def together(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays as one batch: a view of the slots if they are such, one after the other; else, as where
        one was refused, a copy.
        """
        first = self.places.get(id(arrays[0]), len(self.slots))
        neighbours = self.slots[first : first + len(arrays)]
        if len(neighbours) == len(arrays) and all(map(is_, neighbours, arrays)):
            return self.memory[first : first + len(arrays)]
        return np.array(arrays)
