"""What lets a training go on after it was stopped, even by `kill -9`: all that a learner holds but its environments.

A learner is walked from attribute to attribute, so that none can be forgotten: arrays, tensors, optimisers, generators and
counters, of itself and of the parts that it has. Two learners that were made alike have the same attributes in the same places.
Where a copy of an environment stands can't be kept; after a stop all copies begin new episodes.

The file is one dict of tensors and text (`torch.load` reads it with `weights_only`), replaced in one step. Only `marina train` keeps
one; a recipe that is called from elsewhere leaves nothing behind.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from pydantic import BaseModel

from marina import paths
from marina.spec import Spec

EVERY_SECONDS = 30.0
MOST_BYTES = 64 << 20  # a larger replay is left out, and filled anew before learning goes on
PLAIN = (bool, int, float, str, type(None))
FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial, type)
MADE_ANEW = (*FUNCTIONS, BaseModel, gymnasium.Env, gymnasium.vector.VectorEnv, gymnasium.Space, torch.dtype, torch.device, Path)

LOG = logging.getLogger("marina")
Put = Callable[[Any], Any]

_kept: ContextVar[Path | None] = ContextVar("kept", default=None)


@contextmanager
def kept(spec: Spec, settings: BaseModel) -> Iterator[None]:
    """While this lasts, trainings keep their state in cache/runs/, by the model, its settings and its seed."""
    text = json.dumps([spec.training.recipe, settings.model_dump(mode="json"), spec.training.seed], sort_keys=True)
    folder = paths.cache() / "runs" / f"{spec.name}-{spec.version}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    token = _kept.set(folder / "state.pt")
    try:
        yield
    finally:
        _kept.reset(token)


@dataclass(frozen=True)
class Slot:
    """One thing that is kept."""

    what: Any  # a tensor, text, or what an optimiser gives
    put: Put


class Checkpoint:
    """The state of what is named in `holders`, in the file that `kept` names; without one nothing happens."""

    def __init__(self, **holders: Any) -> None:
        self.path, self.holders = _kept.get(), holders

    def save(self) -> None:
        """Replace the file."""
        if self.path is None:
            return
        state = {where: slot.what for where, slot in self._slots().items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            torch.save({**state, "torch": torch.get_rng_state()}, part)
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)

    def load(self) -> bool:
        """Put everything back as it was; false where there is nothing, or nothing that fits."""
        if self.path is None or not self.path.is_file():
            return False
        slots = self._slots()
        try:
            state = torch.load(self.path, weights_only=True)
            torch.set_rng_state(state.pop("torch"))
            # what a new learner hasn't, it makes for itself
            if unlike := [where for where, slot in slots.items() if type(state.get(where)) is not type(slot.what)]:
                raise ValueError(f"{unlike[0]} is not in it")
        except Exception as error:  # whatever a broken file makes the reader raise
            LOG.warning("%s is of no use (%s); learning begins anew", self.path, error)
            return False
        for where, slot in slots.items():
            slot.put(state[where])
        return True

    def forget(self) -> None:
        """Remove the file: the training has come to its end."""
        if self.path is not None:
            shutil.rmtree(self.path.parent, ignore_errors=True)

    def _slots(self) -> dict[str, Slot]:
        seen: set[int] = set()
        return {where: slot for name, one in self.holders.items() for where, slot in _walk(one, name, None, seen)}


def _walk(value: Any, where: str, put: Put | None, seen: set[int]) -> Iterator[tuple[str, Slot]]:
    """All slots in `value`, which lies at `where`; `put` sets another value there, where that can be done."""
    if _is_plain(value):
        if put is not None:  # parts of tuples and lists that hold more than numbers stay
            yield where, _text(value, put)
        return
    if id(value) in seen or isinstance(value, MADE_ANEW) or getattr(value, "too_large_to_keep", False):
        return
    seen.add(id(value))
    if (slot := _leaf(value, put)) is not None:
        yield where, slot
    else:
        for name, part, place in _parts(value, where):
            yield from _walk(part, f"{where}{name}", place, seen)


def _leaf(value: Any, put: Put | None) -> Slot | None:
    """The slot of what has no parts."""
    slot = None
    if isinstance(value, torch.Tensor):
        slot = Slot(value.detach(), value.detach().copy_)
    elif isinstance(value, np.ndarray):
        slot = Slot(torch.from_numpy(np.ascontiguousarray(value)), lambda kept: _put_array(value, kept.numpy(), put))
    elif isinstance(value, torch.optim.Optimizer):
        slot = Slot(value.state_dict(), value.load_state_dict)
    elif isinstance(value, np.random.Generator):
        slot = Slot(json.dumps(value.bit_generator.state), lambda text: setattr(value.bit_generator, "state", json.loads(text)))
    elif isinstance(value, torch.Generator):
        slot = Slot(value.get_state(), value.set_state)
    elif hasattr(value, "hexdigest") and put is not None:  # it can't be gone on with: the new one begins with what the old one gave
        slot = Slot(value.hexdigest(), lambda text: put(hashlib.sha256(text.encode())))
    elif isinstance(value, np.generic) and put is not None:
        slot = Slot(json.dumps(value.item()), lambda text: put(type(value)(json.loads(text))))
    return slot


def _text(value: Any, put: Put) -> Slot:
    return Slot(json.dumps(value), lambda text: put(_like(value, json.loads(text))))


def _setter(value: Any, name: str) -> Put:
    return lambda new: object.__setattr__(value, name, new)


def _put_array(array: np.ndarray, kept: np.ndarray, put: Put | None) -> None:
    """In place, since others may share the memory."""
    if array.shape == kept.shape:
        array[...] = kept
    elif put is not None:
        put(kept.copy())


def _parts(value: Any, where: str) -> Iterator[tuple[str, Any, Put | None]]:
    """(name, part, how to put another one there) of all parts of a container or an object."""
    if isinstance(value, list | tuple):
        yield from ((f".{place}", part, None) for place, part in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f".{key}", part, functools.partial(value.__setitem__, key)) for key, part in value.items())
    elif hasattr(value, "__dict__"):
        for name, part in vars(value).items():
            inner = isinstance(value, torch.nn.Module) and name.startswith("_")
            if not inner or name in ("_parameters", "_buffers", "_modules"):
                yield f".{name}", part, _setter(value, name)
    else:
        raise TypeError(f"{where}: a {type(value).__name__} can't be kept")


def _is_plain(value: Any) -> bool:
    """Whether JSON can say it: numbers, text, and lists of such."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _like(before: Any, value: Any) -> Any:
    """Lists of JSON as tuples where they were or are rows of a list."""
    if not isinstance(value, list):
        return value
    rows = [tuple(row) if isinstance(row, list) else row for row in value]
    return tuple(rows) if isinstance(before, tuple) else rows
