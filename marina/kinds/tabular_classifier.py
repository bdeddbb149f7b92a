"""Classifiers of table rows: the first class decides."""

from typing import Any, ClassVar

from marina.core.spec import Spec
from marina.kinds.kind import Measured
from marina.kinds.pictures import same_first_class, summarize_classes
from marina.kinds.tables import TableKind, TableMeasurement


class TabularClassifierKind(TableKind):
    """A row -> its classes."""

    name = "tabular_classifier"
    import_recipe: ClassVar[str | None] = "imported_tabular_classifier"

    def summarize(self, content: Any) -> str:
        """The class."""
        return summarize_classes(content)

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether both have the same first class."""
        return same_first_class(answer, other)

    def measured(self, spec: Spec, data: str, is_recorded: bool) -> "ClassMeasurement":
        """Accuracy."""
        return ClassMeasurement(spec, data, is_recorded)


class ClassMeasurement(TableMeasurement):
    """The share of rows whose first class is right."""

    def score(self, replies: list[Any]) -> Measured:
        """Accuracy."""
        found = [reply["predictions"][0]["class"] for reply in replies]
        right = [answer == truth for answer, truth in zip(found, self.truth, strict=True)]
        return Measured({"accuracy": sum(right) / len(right)}, found)


KIND = TabularClassifierKind()
