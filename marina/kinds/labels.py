"""What the kinds whose answers are a class, or several labels, share: summing up, comparing, measuring."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from marina.kinds.kind import Kind, shortened
from marina.kinds.pictures import PictureMeasurement, same_first_class, summarize_classes


class LabelsKind(Kind):
    """Something -> its classes, or its labels where it may have several."""

    def summarize(self, content: Any) -> str:
        """The labels, or the first class with its probability."""
        if "labels" not in content:
            return summarize_classes(content)
        return shortened(", ".join(content["labels"]) or "none")

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether both have the same labels, or the same first class."""
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
