"""What the kinds for rows of a table share: measuring on a table's test rows."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.inputs.tables import Table
from handlers.runtime.export import Export
from marina.core.errors import CallError, WorkError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Kind, Measured, MeasurementOptions, Progress
from marina.kinds.recorded_data import data_of, is_import, is_trained_on

TOGETHER = 64  # rows that are sent at once
SAME = 1e-3  # that values of two runs may differ by, relative to the largest


class TableKind(Kind):
    """A row -> what a column says."""

    def check_import(self, source: str, overrides: Mapping[str, Any]) -> None:
        """The recipe says what it lacks."""

    def draw(self, body: bytes, answer: Any) -> Any:
        """Rows have no picture."""
        raise CallError("only answers about pictures can be drawn; leave --draw out")

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "TableMeasurement":
        """What the recipe measured, on the test rows, or on all rows of another table."""
        return self.measured(spec, data_of(spec, options.data), is_trained_on(spec, options.data))

    def measured(self, spec: Spec, data: str, is_recorded: bool) -> "TableMeasurement":
        """The measurement of this kind."""
        raise NotImplementedError


class TableMeasurement:
    """Sends the test rows, one request each, and scores the answers."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.tables.preparation import rows_to_measure

        self.spec, self.is_recorded = spec, is_recorded
        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec).model_copy(update={"data": data})
        self.values, self.truth = rows_to_measure(
            settings,
            spec.training.seed,
            Table.from_config(export.preprocess),
            export.labels,
            is_recorded and not is_import(spec),
        )

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Metrics of the answers."""
        replies: list[Any] = []
        bodies = [(json.dumps(row).encode(), "application/json") for row in self.values]
        for start in progress(range(0, len(bodies), TOGETHER)):
            replies += answer(bodies[start : start + TOGETHER], {})
        return self.score(replies)

    def score(self, replies: list[Any]) -> Measured:
        """Metrics of the answers to all rows; the details are a number or class per row."""
        raise NotImplementedError

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """How many rows, and the largest difference. Raises WorkError where answers differ."""
        one, other = np.array(served.details), np.array(local.details)
        if one.dtype.kind != "f":
            if different := int((one != other).sum()):
                raise WorkError(f"the endpoint answers {different:,} of {len(one):,} rows otherwise")
            return {"rows": len(one)}
        worst = float(np.abs(one - other).max(initial=0)) / max(1.0, float(np.abs(other).max(initial=0)))
        if worst > SAME:
            raise WorkError(f"the endpoint's answers are off by {worst:.3g} from those of this process")
        return {"rows": len(one), "largest_difference": worst}
