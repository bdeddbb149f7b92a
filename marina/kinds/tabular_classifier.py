"""Classifiers of table rows: the first class decides."""

from typing import Any

from marina.kinds.kind import Measured
from marina.kinds.labels import LabelsKind
from marina.kinds.tables import TableMeasurement


class ClassMeasurement(TableMeasurement):
    """The share of rows whose first class is right."""

    def score(self, answers: list[Any]) -> Measured:
        """Accuracy."""
        found = [reply["predictions"][0]["class"] for reply in answers]
        right = [one == truth for one, truth in zip(found, self.truth, strict=True)]
        return Measured({"accuracy": sum(right) / len(right)}, found)


class TabularClassifierKind(LabelsKind):
    """A row -> its classes."""

    name = "tabular_classifier"
    measurement_class = ClassMeasurement


KIND = TabularClassifierKind()
