"""Classifiers of signals: the first class decides."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.inputs.signals import SignalInput
from handlers.runtime.export import Export
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Kind, Measured, MeasurementOptions, Progress
from marina.kinds.pictures import same_first_class, summarize_classes
from marina.kinds.recorded_data import data_of, is_trained_on

PART = 32  # signals that are sent at once


class SequenceClassifierKind(Kind):
    """A signal -> its classes."""

    name = "sequence_classifier"
    # of recurrent networks, too, whose steps OpenVINO unrolls
    export_defaults: Mapping[str, Any] = {"runtimes": ("onnxruntime",)}

    def summarize(self, content: Any) -> str:
        """The first class with its probability."""
        return summarize_classes(content)

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether both have the same first class."""
        return same_first_class(answer, other)

    def draw(self, body: bytes, answer: Any) -> Any:
        """Signals are drawn in the report."""
        raise CallError("only answers about pictures can be drawn; leave --draw out")

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "SignalMetrics":
        """Accuracy on the test split."""
        return SignalMetrics(spec, data_of(spec, options.data), is_trained_on(spec, options.data))


class SignalMetrics:
    """What share of the answers to the test signals is right."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.recipes.sequence_classifier import held_out

        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec).model_copy(update={"data": data})
        self.classes, self.is_recorded = export.labels, is_recorded
        signals = SignalInput.from_config(export.preprocess)
        self.signals = held_out(settings, signals, export.labels, spec.training.seed, not is_recorded)

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Send every signal as a request of its own."""
        bodies = [json.dumps({"signal": one.values.tolist()}).encode() for one in self.signals]
        rows = [(body, "application/json") for body in bodies]
        parts = [rows[start : start + PART] for start in range(0, len(rows), PART)]
        answers = [reply for part in progress(parts) for reply in answer(part, {})]
        truths = [self.classes[one.label] for one in self.signals]
        pairs = zip(answers, truths, strict=True)
        right = [reply["predictions"][0]["class"] == truth for reply, truth in pairs]
        return Measured({"accuracy": float(np.mean(right)), "signals": len(answers)})

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """Nothing: their metrics stand side by side."""
        return {}


KIND = SequenceClassifierKind()
