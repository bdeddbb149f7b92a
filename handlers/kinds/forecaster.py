"""Serves forecasters: the last values of a series -> the next ones, with the interval of each.

    {"date": [..., "2001-12-01"], "co2": [..., 371.0]}
        -> {"time": ["2002-01-01", ...], "value": [371.6, ...], "lower": [371.1, ...], "upper": [372.2, ...]}

postprocess_config.json has the half width of the interval at each step ahead, in the graph's units, and its
coverage (`training.series.intervals`); without them the values stand alone. The graph takes features [B, F]
(`inputs.series`) and gives values less the last one, in deviations of the series: float32 [B, horizon].
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..inputs.series import SeriesInput, SeriesWindow
from ..inputs.series_payloads import series_of
from ..protocol.errors import BadRequest
from ..protocol.options import Number, object_schema
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from .tables import ColumnPredictor

PARTS = 64  # of a window; neighbors of a longer one are left out together, so that an explanation is bounded
UNSCALED = (0.0, 1.0)  # anchor and scale where no values were sent, as in a trial of the export
HORIZON = "horizon"


class ForecasterPredictor(ColumnPredictor):
    """Answers {"time", "value", "lower", "upper"}, a list each; of several series also its name."""

    def configure(self, export: Export) -> None:
        """Read the columns and the interval of an export."""
        super().configure(export)
        self.input = SeriesInput.from_config(export.preprocess)
        widths = export.postprocess.get("half_widths")
        self.half_widths = None if widths is None else np.array(widths)
        ahead = f"so many {self.input.frequency}s ahead; default: all" if self.input.time else "so many ahead"
        self.options = {HORIZON: Number(int, 1, self.input.horizon, ahead)}

    def input_names(self) -> list[str]:
        """The tensors of a request in the Open Inference Protocol: the columns."""
        return self.input.table.names

    def rows_of(self, payload: Any, most: int) -> list[Any] | None:
        """The series of a CSV, and of lists."""
        return series_of(payload, most, self.input.series.name if self.input.series else None)

    def decode(self, instance: Instance) -> SeriesWindow:
        """The window."""
        with _named(instance):
            return self.input.read(instance.payload)

    def preprocess(self, item: SeriesWindow, instance: Instance) -> Prepared:
        """Its features, and what the outputs are relative to."""
        with _named(instance):
            features, basis = self.input.encode(item)
        return Prepared((features,), instance.options, basis=(item, *basis))

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Outputs [B, horizon] -> one answer each."""
        return [self._answer(row, one) for row, one in zip(outputs.astype(np.float64), prepared, strict=True)]

    def explanation(self, item: SeriesWindow, prepared: Prepared) -> dict[str, Any]:
        """How much lower the mean forecast would be if a value were the window's mean, or an input were its
        baseline (occlusion; Zeiler and Fergus 2014, section 2.1, of pictures).
        """
        parts = np.array_split(np.arange(self.input.window), min(self.input.window, PARTS))
        inputs = self._without_inputs(item)
        variants = [item, *(self._without(item, part) for part in parts), *inputs.values()]
        found = self._means(variants, int(prepared.options.get(HORIZON, self.input.horizon)))
        falls = found[0] - found[1:]
        values = [
            {
                **({"time": self._sent(item.past[index])} if item.past else {}),
                "value": float(item.values[index]),
                "contribution": float(fall) / len(part),
            }
            for part, fall in zip(parts, falls, strict=False)
            for index in part
        ]
        return {
            "value": float(found[0]),
            "method": "occlusion",
            "values": values,
            "inputs": {name: float(fall) for name, fall in zip(inputs, falls[len(parts) :], strict=True)},
        }

    def request_schema(self) -> dict[str, Any]:
        """An object with a list per column, or with rows; a list of values where that says all."""
        columns = {column.name: column.schema() for column in self.input.table.columns}
        optional = [] if self.input.time is None or self.input.time.parts else [self.input.time.name]
        required = [name for name in columns if name not in optional]
        least = self.input.window
        option = {HORIZON: self.options[HORIZON].schema()}
        series = self.input.series.name if self.input.series else None
        lists = {
            name: {"type": "array", "items": _or_null(cell), "minItems": 1 if name == series else least}
            for name, cell in columns.items()
        }
        for column in (self.input.series, self.input.time):
            if column is not None:
                lists[column.name] = {"anyOf": [columns[column.name], lists[column.name]]}
        row = {"type": "object", "properties": {name: _or_null(cell) for name, cell in columns.items()}}
        rows = {"type": "array", "items": row, "minItems": least}
        by_column = object_schema({**lists, **option}, required)
        forms = [by_column, object_schema({"rows": rows, **option}, ["rows"])]
        if self.input.needs_target_alone:
            forms.append(lists[self.input.target.name])
        return {"anyOf": forms}

    def answer_schema(self) -> dict[str, Any]:
        """Lists of the same length."""
        config = self.export.postprocess
        unit = {"description": f"in {self.input.target.unit}"} if self.input.target.unit else {}
        number = {"type": "number", "format": "double", **unit}
        names = ["value"] if self.half_widths is None else ["value", "lower", "upper"]
        lists = {name: {"type": "array", "items": number, "x-dimension": HORIZON} for name in names}
        if self.half_widths is not None:
            lists["lower"]["description"] = f"the interval covers {config['coverage']:.0%} of the true values"
        name = {"series": {"type": "string"}} if self.input.series else {}
        properties = {**name, **lists}
        required = list(properties)
        if self.input.time:
            about = "where times were sent"
            time = {
                "type": "array",
                "items": {"type": "string"},
                "x-dimension": HORIZON,
                "description": about,
            }
            properties["time"] = time
        return object_schema(properties, required)

    def explanation_schema(self) -> dict[str, Any]:
        """The mean forecast, and what each value and each input contributes to it."""
        number = {"type": "number"}
        about = "how much lower the mean forecast would be with the window's mean in its place"
        value = {
            "time": {"type": "string"},
            "value": number,
            "contribution": {**number, "description": about},
        }
        names = [*self.input.known_slices, *self.input.observed_slices]
        inputs = {name: {**number, "description": "the same, with the input's baseline"} for name in names}
        properties = {
            "value": {**number, "description": "the mean forecast"},
            "method": {"type": "string", "enum": ["occlusion"]},
            "values": {"type": "array", "items": object_schema(value, ["value", "contribution"])},
            "inputs": object_schema(inputs, names),
        }
        return object_schema(properties, list(properties))

    def _answer(self, row: np.ndarray, prepared: Prepared) -> dict[str, Any]:
        item, anchor, scale = prepared.basis or (None, *UNSCALED)
        count = int(prepared.options.get(HORIZON, len(row)))
        row = row[:count]
        answer: dict[str, Any] = {}
        if item is not None and self.input.series:
            answer["series"] = item.series
        if item is not None and item.future:
            answer["time"] = [self._sent(time) for time in item.future[:count]]
        answer["value"] = self.input.restored(anchor + scale * row).tolist()
        if self.half_widths is not None:
            for name, sign in (("lower", -1), ("upper", 1)):
                ends = row + sign * self.half_widths[:count]
                answer[name] = self.input.restored(anchor + scale * ends).tolist()
        return answer

    def _sent(self, time: Any) -> str:
        assert self.input.time is not None
        return str(self.input.time.sent(time))

    def _means(self, windows: list[SeriesWindow], count: int) -> np.ndarray:
        """The mean of the first `count` forecasts of each window, float64."""
        encoded = [self.input.encode(window) for window in windows]
        most = int(self.metadata["max_batch"])
        means = []
        for start in range(0, len(encoded), most):
            part = encoded[start : start + most]
            outputs = self.model(np.stack([features for features, _ in part])).astype(np.float64)
            for row, (_, (anchor, scale)) in zip(outputs, part, strict=True):
                means.append(float(self.input.restored(anchor + scale * row[:count]).mean()))
        return np.array(means)

    def _without(self, item: SeriesWindow, part: np.ndarray) -> SeriesWindow:
        values = item.values.copy()
        values[part] = item.values.mean()
        return replace(item, values=values)

    def _without_inputs(self, item: SeriesWindow) -> dict[str, SeriesWindow]:
        """Input -> the window with the input's baseline at all times; the calendar keeps still at its first
        time.
        """
        columns = {one.name: one for one in (*self.input.known, *self.input.observed)}
        variants = {}
        for key, slices in (("known", self.input.known_slices), ("observed", self.input.observed_slices)):
            for name, part in slices.items():
                features = getattr(item, key).copy()
                column = columns.get(name)
                features[:, part] = features[0, part] if column is None else column.encode(column.typical)
                variants[name] = replace(item, **{key: features})
        return variants


@contextmanager
def _named(instance: Instance) -> Iterator[None]:
    """A refusal says which series of a request it is about."""
    try:
        yield
    except BadRequest as refusal:
        where = f"series {instance.position}: " if instance.position else ""
        raise BadRequest(f"{where}{refusal}") from None


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A cell that may be missing."""
    if isinstance(schema["type"], list):  # it may be already
        return schema
    names = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **names}


PREDICTOR = ForecasterPredictor
