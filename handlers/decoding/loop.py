"""The loop: answers of different lengths, made together one token at a time.

    decoder.set_active(generations)     these and no others; who leaves keeps its state, or is done
    decoder.step()                      one token more for each

A model has two programs. The prompt's takes tokens int64 [B, S], filled up behind, and their numbers int64
[B], and gives the first state by the names of its parts; of a model that continues its prompt (a language
model) also "logits" [B, V] of the first token. The step's takes the last token of each row int64 [B], how
many came before it int64 [B], and the state, and gives "logits" [B, V], the new state, and "attention" [B, S]
where the model has it. Rows know nothing of each other, so that one may join or leave between any two steps
(Yu et al. 2022, Orca, section 4.1).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..protocol.errors import ModelError
from .generation import FAILED, TIME, Generation
from .state import RowStates, StatePart

logger = logging.getLogger(__name__)

Program = Callable[..., Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Layout:
    """How a model's programs are called: the parts of its state, the token that an answer begins with (None:
    it continues the prompt), the one that ends it, and the length that every prompt is filled up to (0: to
    the longest).
    """

    state: tuple[StatePart, ...]
    begin: int | None
    end: int
    prompt_length: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Layout":
        """As in postprocess_config.json."""
        parts = tuple(map(StatePart.from_config, config["state"]))
        return cls(parts, config["begin"], int(config["end"]), int(config["prompt_length"]))

    def as_config(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "state": [part.as_config() for part in self.state]}


class Decoder:
    """The answers that are being made, and their state."""

    def __init__(self, prompt: Program, step: Program, layout: Layout, most: int, seconds: float) -> None:
        self.prompt, self.program, self.layout = prompt, step, layout
        self.most = most  # rows that a graph takes
        self.seconds = seconds  # that an answer may take
        self.active: list[Generation] = []
        self._states = RowStates(layout.state)
        self._tokens = np.zeros(0, np.int64)

    def set_active(self, generations: Sequence[Generation]) -> None:
        """Let these be computed and no others. A prompt that the model fails on fails alone."""
        wanted = {id(one) for one in generations if not one.is_done}
        kept: list[int] = []
        staying: list[Generation] = []
        first = 0
        for one in self.active:
            rows = range(first, first + len(one.next_tokens))
            first = rows.stop
            if id(one) in wanted:
                kept += rows
                staying.append(one)
            elif not one.is_done:
                one.parked = self._states.copy_of(rows)
        self._states.take(kept)
        self._tokens = self._tokens[kept]
        self.active = staying
        there = {id(one) for one in staying}
        joining = [one for one in generations if id(one) in wanted and id(one) not in there]
        for one in joining:
            if one.parked is not None:
                self._join([one], *one.parked)
                one.parked = None
            elif one.next_tokens:
                raise ValueError("an answer in the making has lost its state")
        self._start([one for one in joining if id(one) not in {id(each) for each in self.active}])

    def step(self) -> None:
        """One token more for each; those that have ended leave."""
        if not self.active:
            return
        try:
            self._step()
        except Exception:  # whatever the graph raised: one may be to blame
            logger.exception("a step of %d answers failed", len(self.active))
            self._step_one_by_one()

    def run(self, generations: Sequence[Generation]) -> None:
        """Make these answers, whole."""
        self.set_active(generations)
        while self.active:
            self.step()

    def _start(self, generations: list[Generation]) -> None:
        """Read the prompts of those that begin, of about one length together."""
        groups: dict[int, list[Generation]] = {}
        for one in generations:
            groups.setdefault((max(32, len(one.prompt)) - 1).bit_length(), []).append(one)
        for group in groups.values():
            for first in range(0, len(group), self.most):
                part = group[first : first + self.most]
                try:
                    self._read(part)
                except Exception:  # whatever the graph raised: one prompt may be to blame, others get answers
                    logger.exception("%d prompts failed", len(part))
                    self._read_one_by_one(part)

    def _read_one_by_one(self, generations: list[Generation]) -> None:
        for one in generations:
            try:
                self._read([one])
            except Exception:  # whatever the graph raised: its caller is told, without a traceback
                logger.exception("a prompt failed alone")
                one.failure = ModelError(FAILED)

    def _read(self, generations: list[Generation]) -> None:
        started = time.monotonic()
        lengths = np.array([len(one.prompt) for one in generations], np.int64)
        tokens = np.zeros((len(generations), self.layout.prompt_length or int(lengths.max())), np.int64)
        for row, one in zip(tokens, generations, strict=True):
            row[: len(one.prompt)] = one.prompt
        outputs = dict(self.prompt(tokens, lengths))
        logits = outputs.pop("logits", None)
        seconds = time.monotonic() - started
        if logits is None:
            assert self.layout.begin is not None
            for one in generations:
                one.next_tokens = [self.layout.begin]
            lengths = np.zeros(len(generations), np.int64)
            rows = [*range(len(generations))]
        else:
            rows = [
                place + parent
                for place, one in enumerate(generations)
                for parent in one.advance(logits[place : place + 1])
            ]
        for one in generations:
            one.seconds += seconds
        index = np.array(rows, np.int64)
        going = [one for one in generations if not one.is_done]
        self._join(going, {name: array[index] for name, array in outputs.items()}, lengths[index])

    def _join(self, generations: list[Generation], arrays: Any, positions: np.ndarray) -> None:
        self._states.join(arrays, positions)
        tokens = [token for one in generations for token in one.next_tokens]
        self._tokens = np.concatenate([self._tokens, np.array(tokens, np.int64)])
        self.active += generations

    def _step(self) -> None:
        started = time.monotonic()
        states = self._states
        states.make_room()
        parts = [slice(first, first + self.most) for first in range(0, len(states), self.most)]
        computed = [
            dict(self.program(self._tokens[part], states.positions[part], *states.inputs(part)))
            for part in parts
        ]
        for part, outputs in zip(parts, computed, strict=True):
            states.update(part, outputs)
        logits = _joined([one["logits"] for one in computed])
        attention = _joined([one["attention"] for one in computed]) if "attention" in computed[0] else None
        seconds = time.monotonic() - started
        rows: list[int] = []
        first = 0
        for one in self.active:
            count = len(one.next_tokens)
            if one.attention is not None and attention is not None:
                one.attention.append(attention[first].copy())
            going = one.advance(logits[first : first + count])
            one.seconds += seconds
            if going and one.seconds > self.seconds:
                one.end(TIME)
                going = []
            rows += [first + parent for parent in going]
            first += count
        self.active = [one for one in self.active if not one.is_done]
        states.take(rows)
        self._tokens = np.array([token for one in self.active for token in one.next_tokens], np.int64)

    def _step_one_by_one(self) -> None:
        together = self.active
        self.set_active([])
        for one in together:
            self.set_active([one])
            try:
                self._step()
            except Exception:  # as of a prompt
                logger.exception("an answer failed alone")
                one.failure = ModelError(FAILED)
                self._drop()
        self.set_active(together)

    def _drop(self) -> None:
        """Forget all rows."""
        self.active, self._states, self._tokens = [], RowStates(self.layout.state), np.zeros(0, np.int64)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
