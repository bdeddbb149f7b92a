"""Forecasters of series: nearly the same values are the same answer."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.inputs.series import SeriesInput
from handlers.runtime.export import Export
from marina.core.errors import CallError, WorkError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Kind, Measured, MeasurementOptions, Progress
from marina.kinds.recorded_data import data_of, is_trained_on

TOGETHER = 64  # windows that are sent at once
MOST = 2000  # windows of one measurement, evenly from all
LISTS = ("value", "lower", "upper")
SAME = 1e-3  # that values of two runs may differ by, relative to the largest


class ForecasterKind(Kind):
    """The last values of a series -> the next ones."""

    name = "forecaster"
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

    def draw(self, body: bytes, answer: Any) -> Any:
        """Forecasts are drawn in the report."""
        raise CallError("only answers about pictures can be drawn; leave --draw out")

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "ForecastMeasurement":
        """What the recipe measured, on the test part, or on all windows of other data."""
        return ForecastMeasurement(spec, data_of(spec, options.data), is_trained_on(spec, options.data))


class ForecastMeasurement:
    """Sends a window per origin and scores the forecasts."""

    def __init__(self, spec: Spec, data: str, is_trained_on: bool) -> None:
        from training import recipes
        from training.series.preparation import windows_to_measure

        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec).model_copy(update={"data": data})
        windows = windows_to_measure(settings, SeriesInput.from_config(export.preprocess), is_trained_on)
        self.is_recorded = is_trained_on and len(windows) <= MOST
        self.windows = windows.spread(MOST)

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Metrics of the answers."""
        from training.series.assessment import metrics_of

        replies: list[Any] = []
        for start in progress(range(0, len(self.windows), TOGETHER)):
            rows = range(start, min(start + TOGETHER, len(self.windows)))
            bodies = [json.dumps(self.windows.request(row)).encode() for row in rows]
            replies += answer([(body, "application/json") for body in bodies], {})
        lists = {name: np.array([reply[name] for reply in replies]) for name in LISTS if name in replies[0]}
        ends = (lists["lower"], lists["upper"]) if "lower" in lists else None
        return Measured(metrics_of(lists["value"], self.windows.truth(), ends), lists["value"])

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """How many windows, and the largest difference. Raises WorkError where answers differ."""
        one, other = np.array(served.details), np.array(local.details)
        worst = float(np.abs(one - other).max(initial=0)) / max(1.0, float(np.abs(other).max(initial=0)))
        if worst > SAME:
            raise WorkError(f"the endpoint's answers are off by {worst:.3g} from those of this process")
        return {"windows": len(one), "largest_difference": worst}


KIND = ForecasterKind()
