"""What classifiers of single pictures and of clips share: logits -> the classes, answer first, and their JSON
schema.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..protocol.options import Number
from ..protocol.requests import Prepared
from ..runtime.export import Export
from ..runtime.predictor import Predictor
from .decision import Decision, ranked

TOP_K = Number(int, 1, 1000, "so many classes at most; all when there are fewer")


@dataclass(frozen=True)
class ClassAnswers:
    """{"predictions": [{"class", "probability", "class_index"}, ...]}, most probable first.

    An export may carry a decision (`kinds.decision`): then the class that it decides for comes first,
    whatever its probability.
    """

    classes: Sequence[str]
    top_k: int  # where a request says nothing else
    decision: Decision | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any], classes: Sequence[str]) -> "ClassAnswers":
        """Of postprocess_config.json."""
        return cls(classes, int(config["top_k"]), Decision.from_config(config))

    def of(self, logits: np.ndarray, prepared: Sequence[Prepared]) -> list[dict[str, Any]]:
        """Logits [B, classes] -> the `top_k` best classes of each row."""
        probabilities = self.probabilities(logits)
        order = ranked(probabilities, self.decision).tolist()
        answers = []
        for row, indices, one in zip(probabilities.tolist(), order, prepared, strict=True):
            best = indices[: one.options.get("top_k", self.top_k)]
            answers.append({"predictions": [self.named(index, row[index]) for index in best]})
        return answers

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Float32 [B, classes], 0..1."""
        return softmax(logits)

    def log_odds(self, logits: np.ndarray, index: int) -> np.ndarray:
        """The logarithm of a class's probability against all others' together: float64 [B], for two classes
        or more.
        """
        others = np.delete(logits, index, 1).astype(np.float64)
        highest = others.max(1)
        against = highest + np.log(np.exp(others - highest[:, None]).sum(1))
        odds: np.ndarray = logits[:, index] - against
        return odds

    def named(self, index: int, probability: float) -> dict[str, Any]:
        """One class of an answer."""
        return {"class": self.classes[index], "probability": probability, "class_index": index}

    def schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        one = {
            "type": "object",
            "properties": self.named_schema(),
            "required": ["class", "probability", "class_index"],
        }
        predictions = {"type": "array", "items": one, "minItems": 1, "description": self._order_in_words()}
        return {"type": "object", "properties": {"predictions": predictions}, "required": ["predictions"]}

    def named_schema(self) -> dict[str, Any]:
        """Properties of one class of an answer."""
        return {
            "class": {"type": "string", "enum": list(self.classes)},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "class_index": {"type": "integer", "minimum": 0, "maximum": len(self.classes) - 1},
        }

    def _order_in_words(self) -> str:
        if self.decision is None:
            return "most probable first"
        name = self.classes[self.decision.class_index]
        return f"{name} first from probability {self.decision.threshold:.3g} on; the rest most probable first"


class ClassPredictor(Predictor):
    """The base of what answers `ClassAnswers`, of whatever instances."""

    expectation: ClassVar[tuple[str, str]] = ("class", "predictions")
    reduced_precision_instances: ClassVar[int | None] = 100

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export."""
        super().configure(export)
        self.answers = ClassAnswers.from_config(self.export.postprocess, self.labels)
        self.options = {"top_k": TOP_K}

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Logits [B, classes] -> the `top_k` best classes of each row."""
        return self.answers.of(outputs, prepared)

    @classmethod
    def contradiction(cls, expected: Any, part: Any) -> str:
        """{"class": name} expects that the first class has this name."""
        name = part[0]["class"]
        return "" if name == expected else f"class {name!r} instead of {expected!r}"

    def same_answer(self, one: Any, other: Any, certain: float) -> float:
        """1 if both have the same first class."""
        return float(one["predictions"][0]["class"] == other["predictions"][0]["class"])

    def answer_schema(self) -> dict[str, Any]:
        """The predictions."""
        return self.answers.schema()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits [B, classes] -> probabilities, float32."""
    # of logits that aren't finite come shares that aren't, which are never sent
    with np.errstate(invalid="ignore"):
        exponentials = np.exp(logits.astype(np.float32) - logits.max(axis=1, keepdims=True))
        shares: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares
