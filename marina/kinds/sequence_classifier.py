"""Classifiers of signals: the first class decides."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.inputs.signals import SignalInput
from handlers.runtime.export import Export
from marina.core.spec import Spec
from marina.kinds.kind import Measured
from marina.kinds.labels import LabelsKind
from marina.kinds.measurement import RequestMeasurement


class SignalMetrics(RequestMeasurement):
    """What share of the answers to the test signals is right."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.recipes.sequence_classifier import held_out

        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec).model_copy(update={"data": data})
        super().__init__(spec, data, is_recorded)
        self.classes = export.labels
        signals = SignalInput.from_config(export.preprocess)
        self.signals = held_out(settings, signals, export.labels, spec.training.seed, not is_recorded)

    def requests(self) -> list[Any]:
        """The values of each signal."""
        return [{"signal": one.values.tolist()} for one in self.signals]

    def score(self, answers: list[Any]) -> Measured:
        """Accuracy."""
        truths = [self.classes[one.label] for one in self.signals]
        pairs = zip(answers, truths, strict=True)
        right = [reply["predictions"][0]["class"] == truth for reply, truth in pairs]
        return Measured({"accuracy": float(np.mean(right)), "signals": len(answers)})


class SequenceClassifierKind(LabelsKind):
    """A signal -> its classes."""

    name = "sequence_classifier"
    measurement_class = SignalMetrics
    # of recurrent networks, too, whose steps OpenVINO unrolls
    export_defaults: Mapping[str, Any] = {"runtimes": ("onnxruntime",)}


KIND = SequenceClassifierKind()
