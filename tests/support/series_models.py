"""Series with every kind of input, a network for them that learned nothing, and its predictor."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.inputs.columns import CategoryColumn, NumberColumn
from handlers.inputs.date_columns import DateColumn
from handlers.inputs.frequency import Frequency
from handlers.inputs.series import SeriesInput
from handlers.kinds import predictor_of
from handlers.kinds.forecaster import ForecasterPredictor
from handlers.runtime.export import Export
from handlers.runtime.runtimes import TorchRuntime
from training.export.trained import Sample, Trained

WINDOW, HORIZON = 4, 2
INPUT = SeriesInput(
    target=NumberColumn("sold", unit="pieces", minimum=0, deviation=1.0),
    window=WINDOW,
    horizon=HORIZON,
    time=DateColumn("day", baseline="1970-01-01", deviation=1e7, parts=("weekday",)),
    frequency=Frequency("day"),
    series=CategoryColumn("shop", values=("north", "south"), baseline="north"),
    known=(NumberColumn("price", mean=10, deviation=2, baseline=10.0),),
    observed=(CategoryColumn("weather", values=("sun", "rain"), baseline="sun"),),
    missing="interpolate",
    deviations={"": 2.0, "north": 2.0, "south": 4.0},
    missing_values=frozenset(("", "NA")),
)
PLAIN = SeriesInput(target=NumberColumn("level", deviation=1.0), window=3, horizon=2)
REQUEST: dict[str, Any] = {
    "day": ["2024-02-27", "2024-02-28", "2024-02-29", "2024-03-01"],
    "shop": "south",
    "sold": [10, 12, 11, 13],
    "price": [9, 9, 10, 10, 11, 12],
    "weather": ["sun", "rain", "sun", "sun"],
}
HALF_WIDTHS = [0.5, 1.0]
POSTPROCESS: dict[str, Any] = {"type": "forecast", "half_widths": HALF_WIDTHS, "coverage": 0.9}


class Mixed(torch.nn.Module):
    """features [B, F] -> changes [B, horizon]: each feature counts."""

    def __init__(self, series: SeriesInput) -> None:
        super().__init__()
        known, observed, own = series.widths
        width = series.window * (1 + known + observed) + series.horizon * known + own
        weights = torch.linspace(-1, 1, width * series.horizon).reshape(series.horizon, width)
        self.weights = torch.nn.Parameter(weights)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """One batch."""
        return features @ self.weights.T


def serve(folder: Path, series: SeriesInput = INPUT, **postprocess: Any) -> ForecasterPredictor:
    """A predictor of the toy; its files go to the empty `folder`."""
    files: dict[str, Any] = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": "forecaster", "max_batch": 8},
        "preprocess_config": series.as_config(),
        "postprocess_config": {**POSTPROCESS, **postprocess},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    predictor = predictor_of("forecaster")
    assert isinstance(predictor, ForecasterPredictor)
    predictor.configure(Export.open(folder))
    predictor.model = TorchRuntime(Mixed(series).eval())
    return predictor


def computed(request: dict[str, Any], series: SeriesInput = INPUT) -> np.ndarray:
    """What the network says of a request, in the target's unit."""
    features, (anchor, scale) = series.encode(series.read(request))
    with torch.inference_mode():
        changes = Mixed(series)(torch.from_numpy(features)[None])[0].double().numpy()
    values: np.ndarray = series.restored(anchor + scale * changes)
    return values


def trained() -> Trained:
    """As a recipe would give it."""
    requests = [REQUEST, {**REQUEST, "shop": "north"}, {**REQUEST, "sold": [3, None, 7, 4]}]
    features = np.stack([INPUT.encode(INPUT.read(request))[0] for request in requests])
    return Trained(
        kind="forecaster",
        module=Mixed(INPUT).eval(),
        example=(torch.from_numpy(features),),
        metrics={"accuracy": 1.0},
        preprocess=INPUT.as_config(),
        postprocess=POSTPROCESS,
        samples=[
            Sample(
                f"window-{place}",
                json.dumps(request).encode(),
                "application/json",
                {"value": computed(request).tolist()},
            )
            for place, request in enumerate(requests)
        ],
        data={"name": "drawn"},
    )


def as_rows(request: dict[str, Any], series: SeriesInput = INPUT) -> list[dict[str, Any]]:
    """A request as rows: those of the future have no target."""
    assert series.time is not None
    window = series.read(request)
    times = [series.time.sent(time) for time in (*window.past, *window.future)]
    rows = []
    for place, time in enumerate(times):
        row = {series.time.name: time}
        for name, cells in request.items():
            if name != series.time.name:
                listed = cells if isinstance(cells, list) else [cells] * len(times)
                row[name] = listed[place] if place < len(listed) else None
        rows.append(row)
    return rows


def monthly(transform: str = "none") -> SeriesInput:
    """Months without other inputs."""
    return replace(
        PLAIN,
        time=DateColumn("month", baseline="1970-01-01", deviation=1e7, parts=()),
        frequency=Frequency("month"),
        transform=transform,
        missing="error",
    )
