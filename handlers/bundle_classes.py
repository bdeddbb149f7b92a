"""Answers of classifiers, of single pictures and of clips: logits -> the classes, answer first, and their JSON schema."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bundle_decision import Decision, ranked
from bundle_options import Number
from bundle_requests import Prepared

TOP_K = Number(int, 1, 1000, "so many classes at most; all when there are fewer")


@dataclass(frozen=True)
class ClassAnswers:
    """{"predictions": [{"class", "probability", "class_index"}, ...]}, most probable first.

    An export may carry a decision (`bundle_decision`): then the class that it decides for comes first, whatever its probability.
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
        probabilities = softmax(logits)
        order = ranked(probabilities, self.decision)
        probabilities = np.take_along_axis(probabilities, order, 1)
        answers = []
        for row, indices, one in zip(probabilities.tolist(), order.tolist(), prepared, strict=True):
            best = list(zip(row, indices, strict=True))[: one.options.get("top_k", self.top_k)]
            answers.append({"predictions": [self.named(index, probability) for probability, index in best]})
        return answers

    def named(self, index: int, probability: float) -> dict[str, Any]:
        """One class of an answer."""
        return {"class": self.classes[index], "probability": probability, "class_index": index}

    def schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        one = {"type": "object", "properties": self.named_schema(), "required": ["class", "probability", "class_index"]}
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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits [B, classes] -> probabilities, float32."""
    with np.errstate(invalid="ignore"):  # of logits that aren't finite come shares that aren't, which are never sent
        exponentials = np.exp(logits.astype(np.float32) - logits.max(axis=1, keepdims=True))
        shares: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares
