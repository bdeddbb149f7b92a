"""Several labels of one instance: logits -> those that reach their thresholds, and all by probability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..protocol.requests import Prepared
from ..runtime.export import Export
from .classes import ClassAnswers, ClassPredictor


@dataclass(frozen=True)
class LabelAnswers(ClassAnswers):
    """{"labels": [name, ...], "predictions": [{"class", "probability", "class_index"}, ...]}.

    `labels` are the classes whose probability reaches the threshold of their own, in the model's order;
    `predictions` the most probable classes, whether they reach it or not. Probabilities are independent of
    each other.
    """

    thresholds: tuple[float, ...] = ()

    @classmethod
    def from_config(cls, config: dict[str, Any], classes: Sequence[str]) -> "LabelAnswers":
        """Of postprocess_config.json."""
        thresholds = tuple(map(float, config["thresholds"]))
        if len(thresholds) != len(classes):
            raise ValueError(f"{len(thresholds)} thresholds for {len(classes)} classes")
        return cls(classes, int(config["top_k"]), None, thresholds)

    def of(self, logits: np.ndarray, prepared: Sequence[Prepared]) -> list[dict[str, Any]]:
        """Logits [B, classes] -> the labels of each row, and its `top_k` best classes."""
        probabilities = self.probabilities(logits)
        order = np.argsort(-probabilities, axis=1, kind="stable").tolist()
        answers = []
        for row, indices, one in zip(probabilities.tolist(), order, prepared, strict=True):
            best = indices[: one.options.get("top_k", self.top_k)]
            answers.append(
                {
                    "labels": [self.classes[index] for index in reached(row, self.thresholds)],
                    "predictions": [self.named(index, row[index]) for index in best],
                }
            )
        return answers

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Float32 [B, classes], each 0..1 by itself."""
        with np.errstate(over="ignore"):  # of a very negative logit: 0 is right
            probabilities: np.ndarray = 1 / (1 + np.exp(-logits.astype(np.float32)))
        return probabilities

    def log_odds(self, logits: np.ndarray, index: int) -> np.ndarray:
        """Of one class, which has nothing to do with the others: float64 [B]."""
        return logits[:, index].astype(np.float64)

    def schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        schema = super().schema()
        thresholds = ", ".join(
            f"{name} {threshold:.3g}" for name, threshold in zip(self.classes, self.thresholds, strict=True)
        )
        labels = {
            "type": "array",
            "items": {"type": "string", "enum": list(self.classes)},
            "description": f"the classes that reach their thresholds: {thresholds}",
        }
        schema["properties"] = {"labels": labels, **schema["properties"]}
        schema["required"] = ["labels", *schema["required"]]
        return schema


class LabelPredictor(ClassPredictor):
    """The base of what answers `ClassAnswers` or, by its export, `LabelAnswers`."""

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export."""
        super().configure(export)
        if export.postprocess["type"] == "labels":
            self.answers = LabelAnswers.from_config(export.postprocess, self.labels)

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


def reached(probabilities: Sequence[float], thresholds: Sequence[float]) -> list[int]:
    """The indices of the classes that reach their thresholds."""
    pairs = zip(probabilities, thresholds, strict=True)
    return [index for index, (probability, threshold) in enumerate(pairs) if probability >= threshold]
