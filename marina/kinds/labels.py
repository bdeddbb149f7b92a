"""What the kinds whose answers are a class, or several labels, share: summing up, comparing, measuring."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from marina.kinds.kind import SHORT
from marina.kinds.pictures import PictureMeasurement, same_first_class, summarize_classes


def summarize_labels(content: dict[str, Any]) -> str:
    """The labels of an expectation or an answer, or its first class with the probability."""
    if "labels" not in content:
        return summarize_classes(content)
    text = ", ".join(content["labels"]) or "none"
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def same_labels(answer: Any, other: Any) -> bool:
    """Whether two answers have the same labels, or the same first class."""
    if "labels" in answer:
        return bool(answer["labels"] == other["labels"])
    return same_first_class(answer, other)


def label_scores(answers: Sequence[Collection[str]], truths: Sequence[Collection[str]]) -> dict[str, float]:
    """micro_f1, and the share of answers with exactly the true labels."""
    pairs = [(set(found), set(truth)) for found, truth in zip(answers, truths, strict=True)]
    both = sum(len(found & truth) for found, truth in pairs)
    total = sum(len(found) + len(truth) for found, truth in pairs)
    exact = np.mean([found == truth for found, truth in pairs])
    return {"micro_f1": 2 * both / total if total else 0.0, "exact_match": float(exact)}


class PictureLabels(PictureMeasurement):
    """F1 of the labels of pictures."""

    def score(self, answers: list[Any]) -> dict[str, float]:
        """{"micro_f1", "exact_match"}."""
        names = self.images.classes
        truths = [[names[label] for label in example.labels] for example in self.images.test]
        return label_scores([reply["labels"] for reply in answers], truths)
