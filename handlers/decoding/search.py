"""How the next tokens of one answer are found: the most probable one, a draw, or beams.

A search has one or several rows of the decoder's batch. After each step it is given their logits, and says
which of them go on, each with which token.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from .options import GenerationOptions

LENGTH, STOP = "length", "stop"  # why an answer ends: tokens are at their limit; the model or a text ended it


class Continuation(NamedTuple):
    """The rows that go on, by their numbers within the search, and the token of each."""

    parents: list[int]
    tokens: list[int]


class Search(Protocol):
    """The search of one answer."""

    finish_reason: str  # empty while it grows

    @property
    def tokens(self) -> list[int]:
        """Of the best answer so far."""

    @property
    def score(self) -> float:
        """The sum of its log-probabilities."""

    def advance(self, logits: np.ndarray) -> Continuation:
        """Take one more step, with logits float [rows, V]. Raises ValueError for logits that are no
        numbers.
        """


def make_search(options: GenerationOptions, prompt: list[int], end: int) -> Search:
    """The search that a request asks for; `end` is the token that ends an answer."""
    if options.num_beams > 1:
        return BeamSearch(options, prompt, end)
    return OneByOne(options, prompt, end)


@dataclass
class OneByOne:
    """The most probable token, or one that is drawn."""

    options: GenerationOptions
    prompt: list[int]  # what repetition counts, beside the answer
    end: int
    tokens: list[int] = field(default_factory=list)
    score: float = 0.0
    finish_reason: str = ""

    def __post_init__(self) -> None:
        self.random = np.random.Generator(np.random.Philox(self.options.seed))

    def advance(self, logits: np.ndarray) -> Continuation:
        """One more token."""
        row = penalized(_checked(logits)[0], [*self.prompt, *self.tokens], self.options.repetition_penalty)
        token = drawn(row, self.options, self.random) if self.options.temperature > 0 else int(row.argmax())
        self.score += float(log_softmax(row)[token])
        if token == self.end:
            self.finish_reason = STOP
            return Continuation([], [])
        self.tokens.append(token)
        if len(self.tokens) >= self.options.max_new_tokens:
            self.finish_reason = LENGTH
            return Continuation([], [])
        return Continuation([0], [token])


class Hypothesis(NamedTuple):
    """An answer of beam search, whole or not, and the sum of its log-probabilities."""

    tokens: list[int]
    score: float


class BeamSearch:
    """The best answers side by side (Sutskever et al. 2014, section 3.2); ended ones are ranked by their
    score over their length to the power of the length penalty, and the search ends when none that grows
    can be better.
    """

    def __init__(self, options: GenerationOptions, prompt: list[int], end: int) -> None:
        self.options, self.prompt, self.end = options, prompt, end
        self.beams = [Hypothesis([], 0.0)]
        self.ended: list[Hypothesis] = []
        self.finish_reason = ""

    @property
    def best(self) -> Hypothesis:
        """The best that has ended, else the best so far."""
        return max(self.ended or self.beams, key=self._rank)

    @property
    def tokens(self) -> list[int]:
        """Of the best."""
        return self.best.tokens

    @property
    def score(self) -> float:
        """Of the best."""
        return self.best.score

    def advance(self, logits: np.ndarray) -> Continuation:
        """One more token of each beam."""
        width = self.options.num_beams
        scores = np.stack(
            [
                one.score
                + log_softmax(penalized(row, [*self.prompt, *one.tokens], self.options.repetition_penalty))
                for row, one in zip(_checked(logits), self.beams, strict=True)
            ]
        )
        order = np.argsort(-scores, axis=None, kind="stable")[: 2 * width]
        parents: list[int] = []
        tokens: list[int] = []
        beams: list[Hypothesis] = []
        for place in order.tolist():
            parent, token = divmod(place, scores.shape[1])
            score = float(scores[parent, token])
            if token == self.end:
                if len(parents) < width:
                    self.ended.append(Hypothesis(self.beams[parent].tokens, score))
            elif len(parents) < width:
                parents.append(parent)
                tokens.append(token)
                beams.append(Hypothesis([*self.beams[parent].tokens, token], score))
        self.ended = sorted(self.ended, key=self._rank, reverse=True)[:width]
        self.beams = beams
        at_limit = len(beams[0].tokens) >= self.options.max_new_tokens
        if at_limit and not self.ended:
            self.finish_reason = LENGTH
        elif at_limit or self._is_settled():
            self.finish_reason = STOP
        return Continuation([], []) if self.finish_reason else Continuation(parents, tokens)

    def _is_settled(self) -> bool:
        """Whether no beam that grows can become better than the worst of enough that have ended."""
        if len(self.ended) < self.options.num_beams:
            return False
        length = self.options.max_new_tokens if self.options.length_penalty > 0 else len(self.beams[0].tokens)
        reachable = self.beams[0].score / float(max(1, length) ** self.options.length_penalty)
        return reachable <= self._rank(self.ended[-1])

    def _rank(self, one: Hypothesis) -> float:
        return one.score / float((len(one.tokens) + 1) ** self.options.length_penalty)


def drawn(logits: np.ndarray, options: GenerationOptions, random: np.random.Generator) -> int:
    """A token, after temperature, top_k (Fan et al. 2018) and top_p (Holtzman et al. 2020), in this order."""
    scaled = logits / options.temperature
    order = np.argsort(-scaled, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    probabilities = np.exp(scaled[order] - scaled[order[0]])
    probabilities /= probabilities.sum()
    if options.top_p < 1:
        before = np.cumsum(probabilities) - probabilities
        kept = max(1, int((before < options.top_p).sum()))
        order, probabilities = order[:kept], probabilities[:kept]
    # by number, so that two that are equally probable never change places between two batches
    by_number = np.argsort(order, kind="stable")
    cumulated = np.cumsum(probabilities[by_number])
    place = int(np.searchsorted(cumulated, random.random() * cumulated[-1], side="right"))
    return int(order[by_number[min(place, len(order) - 1)]])


def penalized(logits: np.ndarray, tokens: list[int], penalty: float) -> np.ndarray:
    """Logits in float64 with those of `tokens` lowered (Keskar et al. 2019, section 4.1)."""
    row = logits.astype(np.float64)
    if penalty != 1 and tokens:
        there = np.unique(np.array(tokens, np.int64))
        there = there[there < len(row)]
        row[there] = np.where(row[there] > 0, row[there] / penalty, row[there] * penalty)
    return row


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of one row."""
    highest = logits.max()
    result: np.ndarray = logits - highest - np.log(np.exp(logits - highest).sum())
    return result


def _checked(logits: np.ndarray) -> np.ndarray:
    """Raises ValueError where a row has no number."""
    if np.isnan(logits).any() or not np.isfinite(logits.max(1)).all():
        raise ValueError("the model gave logits that are no numbers")
    return logits
