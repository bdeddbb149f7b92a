"""Batches for one epoch after another that can go on in the middle of one, with the very random numbers that would have come."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch

Batch = TypeVar("Batch")


class Batches(ABC, Generic[Batch]):
    """A loader that can tell its place exactly, and go on there; `checkpoints` keeps it.

    A subclass says which rows each step of an epoch takes and makes a batch of them; it draws from torch's random numbers or from
    its own `generator`. With several processes each takes its part of every step's rows, in the order that one alone
    would draw, and draws its noise from a seed of its own.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self._place: dict[str, Any] = {}
        self._given: dict[str, Any] = {}

    @abstractmethod
    def __len__(self) -> int:
        """Steps of an epoch."""

    @abstractmethod
    def order(self) -> Sequence[Sequence[int]]:
        """Draw the rows of each step of the next epoch."""

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> Batch:
        """What a step learns from."""

    def __iter__(self) -> Iterator[Batch]:
        place, self._given = self._given, {}
        if place:
            self._set_random(place["begun"])
        begun = self._random()
        order = self._own_order()
        if place:
            self._set_random(place["random"])
        for step in range(place.get("step", 0), len(order)):
            self._place = {"step": step, "begun": begun, "random": self._random()}
            yield self.batch(order[step])

    def _own_order(self) -> Sequence[Sequence[int]]:
        """The order of an epoch; with several processes the one that the first would draw alone, and of it this one's part."""
        if not _together():
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

    def place(self) -> dict[str, Any]:
        """Where the step stands that was handed out last, before it was made. With several processes all must call it."""
        if not _together():
            return self._place
        places: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(places, self._place)
        return {"by_process": places}

    def go_on(self, place: dict[str, Any]) -> None:
        """Begin the next epoch at that step."""
        self._given = place["by_process"][torch.distributed.get_rank()] if "by_process" in place else place

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


def shuffled(count: int, size: int, generator: torch.Generator) -> Sequence[Sequence[int]]:
    """The rows 0..count-1 in a drawn order, in steps of `size`; a short rest is left out."""
    order = torch.randperm(count, generator=generator)
    steps: list[list[int]] = order[: count // size * size].reshape(-1, size).tolist()
    return steps


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
