"""Classifiers of texts: the first class decides, or the labels do."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from handlers.runtime.export import Export
from marina.core.spec import Spec
from marina.kinds.kind import Measured
from marina.kinds.labels import LabelsKind, label_scores
from marina.kinds.measurement import RequestMeasurement


class TextMetrics(RequestMeasurement):
    """What share of the answers to the test texts is right; of several labels their F1."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.data.texts import held_out_texts
        from training.findings import Findings

        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec)
        reading = settings.reading
        super().__init__(spec, data, is_recorded)
        self.classes = export.labels
        self.has_several = export.postprocess["type"] == "labels"
        self.texts = held_out_texts(
            data, spec.training.seed, Findings(), reading, export.labels, self.has_several, not is_recorded
        )

    def requests(self) -> list[Any]:
        """The texts."""
        return [{"text": one.text} for one in self.texts]

    def score(self, answers: list[Any]) -> Measured:
        """Accuracy, or F1 of several labels."""
        return Measured({**self._score(answers), "texts": len(answers)})

    def _score(self, answers: Sequence[Any]) -> dict[str, float]:
        truths = [{self.classes[label] for label in one.labels} for one in self.texts]
        if not self.has_several:
            pairs = zip(answers, truths, strict=True)
            return {
                "accuracy": float(
                    np.mean([reply["predictions"][0]["class"] in truth for reply, truth in pairs])
                )
            }
        return label_scores([reply["labels"] for reply in answers], truths)


class TextClassifierKind(LabelsKind):
    """A text -> its classes, or its labels."""

    name = "text_classifier"
    measurement_class = TextMetrics


KIND = TextClassifierKind()
