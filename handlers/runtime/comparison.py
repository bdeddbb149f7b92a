"""How a kind compares answers: with what a spec expects, and between two forms of one model."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ..protocol.requests import Prepared
from .golden import difference


class AnswerComparison:
    """The part of `Predictor` that judges answers."""

    # The key of a sample's expectation, and the part of the answer that it is about.
    expectation: ClassVar[tuple[str, str]] = ("", "")
    # Held-out instances that tell what fewer bits than float32 cost; None where they may never serve.
    reduced_precision_instances: ClassVar[int | None] = None
    # What a request would ask for, so that two answers can be compared down to the last guess.
    agreement_options: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def mismatch(cls, expect: Mapping[str, Any], answer: Any) -> str:
        """Where `answer` is not what a spec's sample expects, in words; empty if it is.

        A kind without an `expectation` of its own expects each key of `expect` in the answer, with an equal
        value but for rounding.
        """
        if not isinstance(answer, dict):
            return f"no JSON object: {str(answer)[:80]}"
        key, part = cls.expectation
        if not key:
            missing = next((name for name in expect if name not in answer), None)
            if missing is not None:
                return f"the answer has {', '.join(answer)}, not {missing!r}"
            return next(filter(None, (difference(expect[name], answer[name], name) for name in expect)), "")
        if key not in expect:
            return f"a sample of this kind expects {key!r}, not {', '.join(expect)}"
        if part not in answer:
            return f"the answer has {', '.join(answer)}, not {part!r}"
        return cls.contradiction(expect[key], answer[part])

    @classmethod
    def contradiction(cls, expected: Any, part: Any) -> str:
        """Where a part of an answer is not what is expected, in words; empty if it is. See `expectation`."""
        raise NotImplementedError

    def agreement(self, expected: Any, found: Any, prepared: list[Prepared], certain: float) -> list[float]:
        """How far two outputs of the graph for one batch give the same answers: a share 0..1 per instance.

        `certain` is the score from which on a detection is no mere guess.
        """
        answers = self.postprocess(expected, prepared), self.postprocess(found, prepared)
        return [self.same_answer(one, other, certain) for one, other in zip(*answers, strict=True)]

    def same_answer(self, one: Any, other: Any, certain: float) -> float:
        """How far two answers to one instance are the same, 0..1; by default 1 if equal but for rounding."""
        return float(not difference(one, other, reduced=True))

    def postprocess(self, outputs: Any, prepared: list[Prepared]) -> list[Any]:
        """As in Predictor."""
        raise NotImplementedError
