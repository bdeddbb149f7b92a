"""Regressors of table rows: the same value is the same answer."""

from typing import Any, ClassVar

import numpy as np

from marina.core.spec import Spec
from marina.kinds.kind import Measured
from marina.kinds.tables import TableKind, TableMeasurement


class RegressorKind(TableKind):
    """A row -> a number and its interval."""

    name = "regressor"
    import_recipe: ClassVar[str | None] = "imported_regressor"

    def summarize(self, content: Any) -> str:
        """The value and the interval."""
        if not isinstance(content, dict) or "value" not in content:
            return super().summarize(content)
        interval = f" ({content['lower']:.4g} to {content['upper']:.4g})" if "lower" in content else ""
        return f"{content['value']:.4g}{interval}"

    def measured(self, spec: Spec, data: str, is_recorded: bool) -> "ValueMeasurement":
        """Errors, and how many true values the interval covers."""
        return ValueMeasurement(spec, data, is_recorded)


class ValueMeasurement(TableMeasurement):
    """mae, rmse, r2, coverage and width of the interval."""

    def score(self, replies: list[Any]) -> Measured:
        """The metrics that the recipe measures."""
        from training.recipes.regressor import metrics_of

        found = np.array([reply["value"] for reply in replies])
        width = replies[0]["upper"] - replies[0]["value"] if "upper" in replies[0] else None
        return Measured(metrics_of(found, np.array(self.truth), width), found)


KIND = RegressorKind()
