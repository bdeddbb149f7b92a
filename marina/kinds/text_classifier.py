"""Classifiers of texts: the first class decides, or the labels do."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from handlers.runtime.export import Export
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Kind, Measured, MeasurementOptions, Progress
from marina.kinds.labels import label_scores, same_labels, summarize_labels
from marina.kinds.recorded_data import data_of, is_trained_on

PART = 32  # texts that are sent at once


class TextClassifierKind(Kind):
    """A text -> its classes, or its labels."""

    name = "text_classifier"

    def summarize(self, content: Any) -> str:
        """The first class with its probability, or the labels."""
        return summarize_labels(content)

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether both have the same labels, or the same first class."""
        return same_labels(answer, other)

    def draw(self, body: bytes, answer: Any) -> Any:
        """A text has no picture."""
        raise CallError("only answers about pictures can be drawn; leave --draw out")

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "TextMetrics":
        """Accuracy or F1 on the test split."""
        return TextMetrics(spec, data_of(spec, options.data), is_trained_on(spec, options.data))


class TextMetrics:
    """What share of the answers to the test texts is right; of several labels their F1."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.data.texts import Reading, held_out_texts
        from training.findings import Findings

        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec)
        reading = Reading(settings.encoding, settings.label_separator, settings.limits)
        self.spec, self.classes, self.is_recorded = spec, export.labels, is_recorded
        self.has_several = export.postprocess["type"] == "labels"
        self.texts = held_out_texts(
            data, spec.training.seed, Findings(), reading, export.labels, self.has_several, not is_recorded
        )

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Send every text as a request of its own."""
        rows = [(_body(one.text), "application/json") for one in self.texts]
        parts = [rows[start : start + PART] for start in range(0, len(rows), PART)]
        answers = [reply for part in progress(parts) for reply in answer(part, {})]
        return Measured({**self._score(answers), "texts": len(answers)})

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """Nothing: their metrics stand side by side."""
        return {}

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


def _body(text: str) -> bytes:
    return json.dumps({"text": text}, ensure_ascii=False).encode()


KIND = TextClassifierKind()
