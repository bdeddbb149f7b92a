"""One answer in the making: its search, its text, and what of it may be shown already."""

from typing import Any

import numpy as np

from ..protocol.errors import ModelError
from .options import GenerationOptions
from .search import STOP, Continuation, make_search
from .vocabulary import Vocabulary

FAILED = "the model failed on this request; the server's log says why"
TIME = "time"  # why an answer ends that takes longer than the server allows
REPLACEMENT = "\ufffd"  # a character whose bytes aren't all there yet


class Generation:
    """One answer: `prompt` int64 [n] are the tokens of the request. `parked` is its state while it is in no
    batch, and `seconds` the time of the steps that it was in.
    """

    def __init__(
        self,
        prompt: np.ndarray,
        options: GenerationOptions,
        vocabulary: Vocabulary,
        end: int,
        *,
        is_continued: bool = False,
        is_shown: bool = False,
        keeps_attention: bool = False,
    ) -> None:
        self.prompt, self.options, self.vocabulary = prompt, options, vocabulary
        self.search = make_search(options, prompt.tolist() if is_continued else [], end)
        self.failure: Exception | None = None
        self.finish_reason = ""
        self.text = ""
        self.seconds = 0.0
        self.next_tokens: list[int] = []  # of its rows, for the next step
        self.parked: Any = None
        self.attention: list[np.ndarray] | None = [] if keeps_attention else None
        self._shown = 0  # characters
        # whether its text is needed after each step; beams may change what they wrote
        self._is_written = bool(is_shown or options.stop) and options.num_beams == 1

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or not."""
        return bool(self.finish_reason or self.failure)

    def advance(self, logits: np.ndarray) -> list[int]:
        """Take a step with the logits of its rows; the rows that go on."""
        try:
            going: Continuation = self.search.advance(logits)
        except ValueError:
            self.failure = ModelError("the model gave no probabilities for this request; its log says why")
            return []
        self.next_tokens = going.tokens
        self.finish_reason = self.search.finish_reason
        if self._is_written or self.finish_reason:
            self._write()
        return [] if self.is_done else going.parents

    def end(self, reason: str) -> None:
        """End it as it is."""
        self.finish_reason = self.finish_reason or reason
        self._write()

    def delta(self) -> str:
        """The text that came since it was asked last, without what may be the beginning of a stop text or
        of a character.
        """
        until = len(self.text) if self.is_done else len(self.text) - self._held()
        shown = self.text[self._shown : until]
        self._shown = max(self._shown, until)
        return shown

    def answer(self) -> Any:
        """What the caller gets, or the error."""
        if self.failure:
            return self.failure
        return {
            "text": self.text,
            "tokens": len(self.search.tokens),
            "score": float(self.search.score),
            "finish_reason": self.finish_reason,
        }

    def _write(self) -> None:
        text = self.vocabulary.text(self.search.tokens)
        places = [place for one in self.options.stop if (place := text.find(one)) >= 0]
        if places:
            text, self.finish_reason = text[: min(places)], STOP
        self.text = text

    def _held(self) -> int:
        """Characters at the end that may be no part of the answer."""
        held = len(self.text) - len(self.text.rstrip(REPLACEMENT))
        for stop in self.options.stop:
            for size in range(min(len(stop) - 1, len(self.text)), held, -1):
                if self.text.endswith(stop[:size]):
                    held = size
                    break
        return held
