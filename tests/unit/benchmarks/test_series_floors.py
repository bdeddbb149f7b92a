"""The floors of the recipes for series; `marina bench series` measures three seeds of each."""

import pytest

from benchmarks.series import measured


@pytest.mark.slow
@pytest.mark.parametrize(("name", "skill", "mae"), [("co2", 0.1, 0.6), ("sunspots", 0.22, 15.0)])
def test_forecasters_reach_their_floor(name: str, skill: float, mae: float) -> None:
    """Better than every naive forecast; of one seed the interval covers 90 % within six points."""
    pytest.importorskip("statsmodels", reason="marina[series]")
    metrics = measured(name, 0, {})["metrics"]

    assert metrics["skill"] >= skill
    assert metrics["mae"] <= mae
    assert metrics["mase"] < 1
    assert abs(metrics["coverage"] - 0.9) < 0.06
