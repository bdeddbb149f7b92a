"""Serves text classifiers: tokens -> logits -> the classes, or the labels, and which words they rest on.

How texts are read is in `kinds.texts`.
"""

from typing import Any

import numpy as np

from ..protocol.options import Number
from ..protocol.requests import Prepared
from ..runtime.export import Export
from .labels import LabelPredictor
from .occlusion import occlusions
from .texts import TextPredictor, explained_tokens, tokens_schema


class TextClassifierPredictor(TextPredictor, LabelPredictor):
    """Answers `ClassAnswers` or `LabelAnswers`, with "truncated": whether the text has more tokens than
    count.
    """

    def configure(self, export: Export) -> None:
        """Read the files of an export."""
        super().configure(export)
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
