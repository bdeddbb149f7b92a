"""Forecasters of series: nearly the same values are the same answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.inputs.series import SeriesInput
from handlers.runtime.export import Export
from marina.core.spec import Spec
from marina.kinds.kind import Kind, Measured
from marina.kinds.measurement import RequestMeasurement, largest_difference

MOST = 2000  # windows of one measurement, evenly from all
LISTS = ("value", "lower", "upper")


class ForecastMeasurement(RequestMeasurement):
    """Sends a window per origin and scores the forecasts."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.series.preparation import windows_to_measure

        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec).model_copy(update={"data": data})
        windows = windows_to_measure(settings, SeriesInput.from_config(export.preprocess), is_recorded)
        self.is_recorded = is_recorded and len(windows) <= MOST
        self.windows = windows.spread(MOST)

    def requests(self) -> list[Any]:
        """The last values before each origin."""
        return [self.windows.request(row) for row in range(len(self.windows))]

    def score(self, answers: list[Any]) -> Measured:
        """What the recipe measures."""
        from training.series.assessment import metrics_of

        lists = {name: np.array([reply[name] for reply in answers]) for name in LISTS if name in answers[0]}
        ends = (lists["lower"], lists["upper"]) if "lower" in lists else None
        return Measured(metrics_of(lists["value"], self.windows.truth(), ends), lists["value"])

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """How many windows, and the largest difference. Raises WorkError where answers differ."""
        worst = largest_difference(served.details, local.details)
        return {"windows": len(local.details), "largest_difference": worst}


class ForecasterKind(Kind):
    """The last values of a series -> the next ones."""

    name = "forecaster"
    measurement_class = ForecastMeasurement
    # ONNX Runtime has operators for recurrent networks, which OpenVINO takes a minute to convert
    export_defaults: Mapping[str, Any] = {"runtimes": ("onnxruntime",)}

    def summarize(self, content: Any) -> str:
        """The first and the last forecast."""
        values = content.get("value") if isinstance(content, dict) else None
        if not isinstance(values, list) or not values:
            return super().summarize(content)
        if len(values) == 1:
            return f"{values[0]:.4g}"
        return f"{values[0]:.4g} to {values[-1]:.4g}, {len(values)} steps"


KIND = ForecasterKind()
