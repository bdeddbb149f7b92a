"""What the kinds for rows of a table share: measuring on a table's test rows."""

from typing import Any

import numpy as np

from handlers.inputs.tables import Table
from handlers.runtime.export import Export
from marina.core.errors import WorkError
from marina.core.spec import Spec
from marina.kinds.kind import Measured
from marina.kinds.measurement import RequestMeasurement, largest_difference
from marina.kinds.recorded_data import is_import


class TableMeasurement(RequestMeasurement):
    """Sends the test rows, one request each, and scores the answers."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.tables.preparation import rows_to_measure

        super().__init__(spec, data, is_recorded)
        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec).model_copy(update={"data": data})
        self.values, self.truth = rows_to_measure(
            settings,
            spec.training.seed,
            Table.from_config(export.preprocess),
            export.labels,
            is_recorded and not is_import(spec),
        )

    def requests(self) -> list[Any]:
        """The rows; the details of a score are a number or class for each."""
        return list(self.values)

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """How many rows, and the largest difference. Raises WorkError where answers differ."""
        one, other = np.array(served.details), np.array(local.details)
        if one.dtype.kind != "f":
            if different := int((one != other).sum()):
                raise WorkError(f"the endpoint answers {different:,} of {len(one):,} rows otherwise")
            return {"rows": len(one)}
        return {"rows": len(one), "largest_difference": largest_difference(one, other)}
