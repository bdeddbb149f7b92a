"""Regressors of table rows: the same value is the same answer."""

from typing import Any

import numpy as np

from marina.kinds.kind import Kind, Measured
from marina.kinds.tables import TableMeasurement


class ValueMeasurement(TableMeasurement):
    """mae, rmse, r2, coverage and width of the interval."""

    def score(self, answers: list[Any]) -> Measured:
        """The metrics that the recipe measures."""
        from training.recipes.regressor import metrics_of

        found = np.array([reply["value"] for reply in answers])
        width = answers[0]["upper"] - answers[0]["value"] if "upper" in answers[0] else None
        return Measured(metrics_of(found, np.array(self.truth), width), found)


class RegressorKind(Kind):
    """A row -> a number and its interval."""

    name = "regressor"
    measurement_class = ValueMeasurement

    def summarize(self, content: Any) -> str:
        """The value and the interval."""
        if not isinstance(content, dict) or "value" not in content:
            return super().summarize(content)
        interval = f" ({content['lower']:.4g} to {content['upper']:.4g})" if "lower" in content else ""
        return f"{content['value']:.4g}{interval}"


KIND = RegressorKind()
