"""Batches of one epoch after another that resume in the middle of one, with the same random numbers."""

import random
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)
Steps = Iterable[Sequence[int]]
POOL = 50  # batches whose rows are sorted by length together


class Batches(ABC, Generic[Batch]):
    """A data loader whose position is saved in checkpoints.

    A subclass says which rows each step of an epoch takes, reads them, perhaps ahead of time, and makes a
    batch of what was read; it draws from torch's random numbers or from its own `generator`, but not in
    `read`. With several processes each takes its part of every step's rows, in the order that a single one
    would draw, and draws its noise from a seed of its own.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self._position: dict[str, Any] = {}  # of the step that was handed out last
        self._resumed: dict[str, Any] = {}  # where the next epoch begins

    @abstractmethod
    def __len__(self) -> int:
        """Steps of an epoch."""

    @abstractmethod
    def order(self) -> Sequence[Sequence[int]]:
        """Draw the rows of each step of the next epoch."""

    def read(self, steps: Steps) -> Generator[Any, None, None]:
        """What `batch` makes a batch of, for the rows of each step: the rows themselves."""
        yield from steps

    @abstractmethod
    def batch(self, read: Any) -> Batch:
        """What a step learns from."""

    def __iter__(self) -> Iterator[Batch]:
        resumed, self._resumed = self._resumed, {}
        if resumed:
            self._set_random(resumed["epoch_random"])
        epoch_random = self._random()
        order = self._own_order()
        if resumed:
            self._set_random(resumed["random"])
        first = resumed.get("step", 0)
        with closing(self.read(order[first:])) as steps:
            for step, read in enumerate(steps, first):
                self._position = {"step": step, "epoch_random": epoch_random, "random": self._random()}
                yield self.batch(read)

    def _own_order(self) -> Sequence[Sequence[int]]:
        """The order of an epoch; with several processes this one's part of the first one's order."""
        if not _is_distributed():
            return self.order()
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        state = [self._random()]
        torch.distributed.broadcast_object_list(state)
        self._set_random(state[0])
        order = [list(rows)[rank::world] for rows in self.order()]
        if rank:
            seed = int(torch.empty((), dtype=torch.int64).random_()) % (1 << 62) + rank
            torch.manual_seed(seed)
            self.generator.manual_seed(seed)
        return order

    def state_dict(self) -> dict[str, Any]:
        """The step that was handed out last, and the random numbers before it. With several processes all
        must call this.
        """
        if not _is_distributed():
            return self._position
        positions: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(positions, self._position)
        return {"by_process": positions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next epoch at that step."""
        by_process = state.get("by_process")
        self._resumed = by_process[torch.distributed.get_rank()] if by_process else state

    def _random(self) -> dict[str, Any]:
        """The state of all random numbers, in what `torch.load` reads without running code."""
        name, keys, *rest = np.random.get_state()  # the old generator is what others may draw from
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
            "python": random.getstate(),
            "own": self.generator.get_state(),
        }

    def _set_random(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        random.setstate(state["python"])
        self.generator.set_state(state["own"])


class Split(Protocol[Batch_co]):
    """Examples that are batched by their rows."""

    def __len__(self) -> int: ...

    def batch(self, rows: Sequence[int], /) -> Batch_co:
        """What a step learns from."""


class SplitBatches(Batches[Batch]):
    """Batches of a split, shuffled each epoch; a short rest is left out."""

    def __init__(self, split: Split[Batch], size: int, seed: int) -> None:
        super().__init__(seed)
        self.split, self.size = split, min(size, len(split))

    def __len__(self) -> int:
        return len(self.split) // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """All rows in a drawn order."""
        return shuffled(len(self.split), self.size, self.generator)

    def batch(self, read: Any) -> Batch:
        """What the split makes of these rows."""
        return self.split.batch(read)


class LengthBatches(SplitBatches[Batch]):
    """Batches of a split, drawn, but each of rows of about one length: little is padding.

    `lengths` int64 [N] are those of the rows; rows are sorted by them within pools of POOL batches.
    """

    def __init__(self, split: Split[Batch], lengths: np.ndarray, size: int, seed: int) -> None:
        super().__init__(split, size, seed)
        self.lengths = lengths

    def order(self) -> Sequence[Sequence[int]]:
        """Drawn rows, sorted within pools."""
        rows = np.array(super().order()).reshape(-1)
        steps: list[list[int]] = []
        for start in range(0, len(rows), POOL * self.size):
            pool = rows[start : start + POOL * self.size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            steps += pool.reshape(-1, self.size).tolist()
        return [steps[step] for step in torch.randperm(len(steps), generator=self.generator).tolist()]


@contextmanager
def random_kept(batches: Batches[Any]) -> Iterator[None]:
    """Set all random numbers, and those of `batches`, back at the end to what they were."""
    state = batches._random()
    try:
        yield
    finally:
        batches._set_random(state)


def shuffled(count: int, size: int, generator: torch.Generator) -> Sequence[Sequence[int]]:
    """The rows 0..count-1 in a drawn order, in steps of `size`; a short rest is left out."""
    order = torch.randperm(count, generator=generator)
    steps: list[list[int]] = order[: count // size * size].reshape(-1, size).tolist()
    return steps


def _is_distributed() -> bool:
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )
