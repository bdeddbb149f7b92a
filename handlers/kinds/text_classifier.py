"""Serves text classifiers: tokens -> logits -> the classes, or the labels, and which words they rest on.

How texts are read is in `kinds.texts`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..protocol.options import Number
from ..protocol.requests import Prepared
from ..runtime.export import Export
from .classes import ClassPredictor
from .labels import LabelAnswers
from .occlusion import occlusions
from .texts import TextPredictor, explained_tokens, tokens_schema


class TextClassifierPredictor(TextPredictor, ClassPredictor):
    """Answers `ClassAnswers` or `LabelAnswers`, with "truncated": whether the text has more tokens than
    count.
    """

    def configure(self, export: Export) -> None:
        """Read the files of an export."""
        super().configure(export)
        if export.postprocess["type"] == "labels":
            self.answers = LabelAnswers.from_config(export.postprocess, self.labels)
        self.explain_options = {
            "class_index": Number(
                int, 0, len(self.labels) - 1, "the class to explain; by default the first of the answer"
            )
        }

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Logits [B, classes] -> an answer per text."""
        answers = self.answers.of(outputs, prepared)
        return [{**answer, "truncated": one.truncated} for answer, one in zip(answers, prepared, strict=True)]

    def explanation(self, item: str, prepared: Prepared) -> Any:
        """How much the log-odds of a class fall without each token."""
        encoded = self.encoded(item)
        logits = self.model(encoded.ids[None])
        (answer,) = self.answers.of(logits, [prepared])
        index = prepared.options.get("class_index", answer["predictions"][0]["class_index"])

        def log_odds(tokens: np.ndarray) -> np.ndarray:
            return self.answers.log_odds(self.model(tokens), index)

        falls = occlusions(log_odds, encoded.ids, int(self.metadata["max_batch"]))
        probability = float(self.answers.probabilities(logits)[0, index])
        return {
            **self.answers.named(index, probability),
            "method": "occlusion",
            "truncated": encoded.truncated,
            "tokens": explained_tokens(item, encoded, falls),
        }

    @classmethod
    def mismatch(cls, expect: Mapping[str, Any], answer: Any) -> str:
        """Where `answer` is not what a sample expects: its first class, or exactly its labels."""
        if "labels" not in expect or not isinstance(answer, dict):
            return super().mismatch(expect, answer)
        found = answer.get("labels")
        same = isinstance(found, list) and sorted(found) == sorted(expect["labels"])
        return "" if same else f"labels {found!r} instead of {expect['labels']!r}"

    def same_answer(self, one: Any, other: Any, certain: float) -> float:
        """1 if both have the same labels, or the same first class."""
        if "labels" in one:
            return float(one["labels"] == other["labels"])
        return super().same_answer(one, other, certain)

    def answer_schema(self) -> dict[str, Any]:
        """The classes, and whether the text was cut."""
        schema = super().answer_schema()
        return {
            **schema,
            "properties": {**schema["properties"], "truncated": self.truncated_schema()},
            "required": [*schema["required"], "truncated"],
        }

    def explanation_schema(self) -> dict[str, Any]:
        """The class that is explained, and each token with its place and what it counts."""
        about = "what the class's log-odds lose without it; below 0 it speaks against it"
        properties = {
            **self.answers.named_schema(),
            "method": {"type": "string", "enum": ["occlusion"]},
            "truncated": {"type": "boolean"},
            "tokens": tokens_schema(about),
        }
        return {"type": "object", "properties": properties, "required": list(properties)}


PREDICTOR = TextClassifierPredictor
