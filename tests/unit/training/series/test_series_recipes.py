"""Forecasters: learned from tables of times, exported, and served as they were measured."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.inputs.series import SeriesInput
from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import BelowFloor, CallError
from marina.evaluation.measurement import in_process
from marina.kinds.forecaster import KIND
from marina.kinds.kind import MeasurementOptions
from tests.support.table_models import as_csv, write_csv
from training.findings import Findings
from training.recipes import forecaster
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.series.baselines import CHANGED, LAST, RIDGE, SEASONAL, naive_forecasts
from training.series.networks import Forecast
from training.series.preparation import draft_of, prepare
from training.series.windows import WindowBatches
from training.train import train

SHOPS: dict[str, Any] = {
    "target": "sold",
    "time": "day",
    "frequency": "day",
    "series": "shop",
    "known": {"price": "number"},
    "calendar": ["weekday"],
    "window": 10,
    "horizon": 3,
    "network": "linear",
    "epochs": 12,
    "blocks": 2,
    "learning_rate": 0.02,
}


def sales(days: int = 200) -> list[dict[str, Any]]:
    """Two shops, the second ten times the first: weekdays, a price that acts on its own day, noise."""
    rng = np.random.default_rng(0)
    rows = []
    for shop, size in (("north", 1.0), ("south", 10.0)):
        for day in range(days):
            price = float(rng.integers(8, 13))
            sold = 50 + 10 * math.sin(2 * math.pi * day / 7) - 5 * (price - 10) + rng.normal()
            date = datetime.date(2023, 1, 1) + datetime.timedelta(day)
            rows.append(
                {"day": date.isoformat(), "shop": shop, "price": price, "sold": round(size * sold, 2)}
            )
    return rows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("series") / "sales.csv", sales())


def write(home: Path, training: dict[str, Any], floor: str = "{skill: 0.3}") -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    text = f"# A toy.\nkind: forecaster\ntraining: {json.dumps({'recipe': 'forecaster', **training})}\n"
    (home / "models" / "toy.yaml").write_text(f"{text}export: {{runtimes: []}}\nfloor: {floor}\n")
    return spec.load("toy", home=home)


def test_series_are_learned_exported_and_measured_again(home: Path, table: Path) -> None:
    """What is served is what was measured: the metrics again, from requests with prices ahead."""
    model = write(home, {**SHOPS, "data": str(table)})
    folder = train(model)
    export = Export.open(folder)
    metrics = export.metadata["metrics"]
    assert metrics["mase"] < 0.6
    assert 0.75 < metrics["coverage"] <= 1
    assert set(export.metadata["training"]["beside"]) == {LAST, SEASONAL, CHANGED, RIDGE}
    names = {path.name for path in (folder / "report").iterdir()}
    assert {"curves.png", "forecasts.png", "errors.png", "comparison.png"} <= names
    answer = in_process(model)
    for data, is_recorded in ((None, True), (str(table.with_name("other.csv")), False)):
        table.with_name("other.csv").write_text(as_csv(*sales(40)))
        measurement = KIND.measurement(model, MeasurementOptions(data=data))
        assert measurement.is_recorded == is_recorded
        measured = measurement.run(answer, lambda items: items, is_endpoint=False)
        measurement.compare(measured, measured)
        if is_recorded:
            for name, value in measured.metrics.items():
                assert value == pytest.approx(metrics[name], rel=1e-3), name


def test_a_forecast_no_better_than_naive_is_not_exported(tmp_path: Path, home: Path) -> None:
    """A random walk: MASE is 1 or more, whatever the floor says."""
    values = np.random.default_rng(1).normal(size=300).cumsum()
    path = tmp_path / "walk.csv"
    path.write_text("x\n" + "\n".join(f"{value:.4f}" for value in values))
    settings = {
        "data": str(path),
        "target": "x",
        "window": 12,
        "horizon": 1,
        "network": "linear",
        "epochs": 3,
    }
    settings |= {"learning_rate": 0.1, "coverage": None, "loss": "mse"}
    with pytest.raises(BelowFloor, match=r"mase .* is not below 1: .* no better than the naive ones"):
        train(write(home, settings, "{skill: -9}"))
    assert not list((home / "exports" / "toy").glob("*/SHA256SUMS"))


def test_splits_are_by_time_and_nothing_is_fitted_on_later_ones(table: Path) -> None:
    """No target of a split lies in another; means are those of the times before the validation."""
    settings = forecaster.Settings(data=str(table), **SHOPS)
    prepared = prepare(settings, Findings())
    ends = [(int(one.first_numbers.min()), int(one.last_numbers.max())) for one in prepared.splits.values()]
    assert ends[0][1] < ends[1][0] <= ends[1][1] < ends[2][0]
    assert int(prepared.before_test().last_numbers.max()) < ends[2][0]
    prices = [row["price"] for row in sales() if row["day"] < "2023-05-21"]  # 70 % of 200 days
    assert prepared.series.known[0].as_config()["mean"] == pytest.approx(np.mean(prices))
    assert prepared.series.deviations["south"] == pytest.approx(
        10 * prepared.series.deviations["north"], rel=0.1
    )


def test_a_window_is_encoded_as_its_request_is(table: Path) -> None:
    """Training and serving see the same features; windows are gathered when asked for."""
    settings = forecaster.Settings(data=str(table), **{**SHOPS, "missing": "interpolate"})
    prepared = prepare(settings, Findings())
    served = SeriesInput.from_config(json.loads(json.dumps(prepared.series.as_config())))
    test = prepared.splits["test"].spread(12)
    batch = test.batch(slice(None))
    for row in range(len(test)):
        features, basis = served.encode(served.read(json.loads(json.dumps(test.request(row)))))
        assert np.allclose(features, batch.features[row].numpy(), atol=1e-6)
        assert basis == pytest.approx((batch.anchors[row], batch.scales[row]))


def test_naive_forecasts_are_what_they_say(table: Path) -> None:
    """By hand, for one window."""
    prepared = prepare(forecaster.Settings(data=str(table), **SHOPS), Findings())
    test = prepared.splits["test"]
    naive, origin, values = naive_forecasts(test, 7), int(test.origins[0]), test.flat.values
    assert naive[LAST][0].tolist() == [values[origin - 1]] * 3
    assert naive[SEASONAL][0].tolist() == values[origin - 7 : origin - 4].tolist()
    change = values[origin - 1] - values[origin - 8]
    assert naive[CHANGED][0] == pytest.approx(values[origin - 7 : origin - 4] + change)


@pytest.mark.filterwarnings("ignore:.*_flat_weights")
@pytest.mark.parametrize(
    "network",
    [
        {"network": "rnn", "layers": 2, "bidirectional": True},
        {"network": "lstm"},
        {"network": "gru", "layers": 2, "dropout": 0.1},
        {"network": "tcn", "layers": 3},
        {"network": "transformer", "heads": 2},
        {"network": "linear"},
    ],
)
def test_every_network_begins_with_the_last_value_and_exports(table: Path, network: dict[str, Any]) -> None:
    """The first forecast is that nothing changes; after a step it is another, for every row of a batch."""
    settings = forecaster.Settings(data=str(table), **{**SHOPS, "hidden": 8, **network})
    seed_everything(0)
    train_windows = prepare(settings, Findings()).splits["train"]
    model = Forecast(settings, train_windows.series)
    features, targets = next(iter(WindowBatches(train_windows, 16, 0)))
    assert not model(features).any()
    (model(features) - targets).square().mean().backward()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.grad is not None:
                weights.sub_(weights.grad, alpha=0.1)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        model.eval(), (features,), dynamic_shapes=({0: batch},), strict=False
    ).module()
    assert torch.allclose(program(features[:3]), model(features)[:3], atol=1e-5)
    assert model(features).any()


def test_bad_rows_and_gaps_are_findings(tmp_path: Path) -> None:
    """Named by row; what they leave is a gap, whose windows are not there."""
    rows = [row for row in sales(120) if row["shop"] == "north"]
    rows[3]["sold"] = "many"
    rows[20]["day"] = "2023-02-30"
    rows[40] = dict(rows[41])
    rows[60]["day"] += "T12:00"
    rows += [{**rows[0], "shop": "east", "day": f"2023-01-{day:02}"} for day in range(1, 4)]
    path = tmp_path / "bad.csv"
    path.write_text(as_csv(*rows))
    findings = Findings()
    prepared = prepare(forecaster.Settings(data=str(path), **SHOPS), findings)
    said = {str(one) for one in findings}
    for words in (
        "2 of 123 rows left out: a cell can't be read: bad.csv row 4: sold is 'many'; it must be a number, "
        "bad.csv row 21: day is '2023-02-30'",
        "1 of 123 rows left out: the series has this time already: bad.csv row 42",
        "1 of 123 rows left out: no whole number of days from the first: bad.csv row 61",
        "1 of 2 series left out: none has 10 values and 3 behind them without a gap: east",
    ):
        assert any(words in one for one in said), (words, said)
    whole = prepare(forecaster.Settings(data=str(path), **{**SHOPS, "missing": "interpolate"}), Findings())
    assert len(whole.windows) >= len(prepared.windows)
    with pytest.raises(CallError, match="strict: "):
        forecaster.train(
            forecaster.Settings(data=str(path), **SHOPS), Run(tmp_path, findings=Findings(strict=True))
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "sales"}, "has no column 'sales'; it has day, shop, price, sold"),
        ({"window": 190}, "windows of 190 values with 3 behind them are in the train part, too few"),
        ({"transform": "log", "target": "price", "known": {}, "window": 5000}, "too few"),
        ({"frequency": None}, "time and frequency go together"),
        ({"frequency": "fortnight"}, "is no frequency; write second"),
        ({"series": "day"}, "'day' is named twice"),
        ({"network": "tcn", "bidirectional": True}, "bidirectional is for rnn, lstm, gru, not for tcn"),
        ({"network": "transformer", "hidden": 30}, "has no equal parts for 4 heads"),
    ],
)
def test_settings_that_cannot_be_are_refused(table: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises((CallError, ValueError), match=words):
        prepare(forecaster.Settings(data=str(table), **{**SHOPS, **change}), Findings())


def test_an_unknown_series_may_be_forecast_where_the_spec_says_so(table: Path) -> None:
    """Some windows are learned as such a one; it is scaled as all are."""
    settings = forecaster.Settings(data=str(table), **{**SHOPS, "unknown": "other", "scale": "window"})
    prepared = prepare(settings, Findings())
    test = prepared.splits["test"]
    body = {**test.request(0), "shop": "west"}
    features, _ = prepared.series.encode(prepared.series.read(body))
    assert features[-3:].tolist() == [0, 0, 1]
    batches = WindowBatches(prepared.splits["train"], 64, 0)
    assert batches.learns_other
    assert any(batch[0][:, -1].any() for batch in batches)


def test_packaged_series_are_read_from_their_package() -> None:
    """Months without a measurement are empty; the years are whole."""
    pytest.importorskip("statsmodels", reason="marina[series]")
    settings = forecaster.Settings(
        data="statsmodels:co2", target="co2", time="date", frequency="month", missing="interpolate"
    )
    flat = prepare(settings, Findings()).windows.flat
    assert (len(flat.values), int(np.isnan(flat.values).sum())) == (526, 5)
    years = forecaster.Settings(data="statsmodels:sunspots", target="sunspots", window=24, horizon=1)
    assert len(prepare(years, Findings()).windows.flat.values) == 309
    with pytest.raises(CallError, match="statsmodels:nile: unknown; known: co2, sunspots"):
        prepare(years.model_copy(update={"data": "statsmodels:nile"}), Findings())
    assert draft_of(settings).frequency.season == 12
