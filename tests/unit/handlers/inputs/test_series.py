"""Series in requests: whatever is sent is read as what it says, or refused with what to send instead."""

import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.inputs.frequency import MONTHS, SECONDS, Frequency
from handlers.inputs.series import SeriesInput, interpolated
from handlers.protocol.errors import RequestError
from tests.support.series_models import INPUT, PLAIN, REQUEST, monthly
from tests.support.strategies import cells

CELLS = cells(["north", "sun", "NA", "2024-02-29", "9999-12-31", "0001-01-01"])
DATES = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(5000, 1, 1)).map(
    lambda date: date.replace(microsecond=0)
)
FREQUENCIES = st.builds(Frequency, st.sampled_from([*SECONDS, *MONTHS]), st.integers(1, 12))


def tried(step: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a step gives, or the words of its refusal; anything else that it raises fails the test."""
    try:
        return step(*arguments), ""
    except RequestError as refusal:
        return None, str(refusal)


def encoded(series: SeriesInput, payload: Any) -> np.ndarray:
    return series.encode(series.read(payload))[0]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(INPUT.table.names), st.integers(0, 5), CELLS)
def test_any_cell_is_read_or_refused_by_its_column(name: str, place: int, cell: Any) -> None:
    """What is read is encoded as finite numbers."""
    column = REQUEST[name] if isinstance(REQUEST[name], list) else [REQUEST[name]]
    cells = [cell if index == place % len(column) else other for index, other in enumerate(column)]
    features, refusal = tried(encoded, INPUT, {**REQUEST, name: cells})
    if refusal:
        assert name in refusal
    else:
        assert all(map(math.isfinite, features.tolist()))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        CELLS,
        st.lists(CELLS, max_size=6),
        st.dictionaries(st.sampled_from([*INPUT.table.names, "rows", "x"]), st.lists(CELLS, max_size=6)),
        st.fixed_dictionaries({"rows": st.lists(st.dictionaries(st.text(max_size=4), CELLS), max_size=3)}),
    ),
    st.sampled_from([INPUT, PLAIN]),
)
def test_any_payload_is_a_window_or_refused(payload: Any, series: SeriesInput) -> None:
    """Nothing else is raised."""
    features, refusal = tried(encoded, series, payload)
    assert refusal or np.isfinite(features).all()


@settings(max_examples=200, deadline=None)
@given(DATES, FREQUENCIES, st.integers(1, 400))
def test_a_time_so_many_steps_later_is_so_many_steps_later(
    date: datetime, frequency: Frequency, steps: int
) -> None:
    """In the calendar, too; a text of the frequency is read as the same."""
    later = frequency.after(date, steps)
    assert frequency.between(date, later) == steps
    assert frequency.between(later, date) == -steps
    assert frequency.number(later) - frequency.number(date) in (steps, steps + 1, steps - 1)
    assert Frequency.from_text(str(frequency)) == frequency


def test_months_end_where_months_end() -> None:
    """The last day follows the last day; another keeps its number where the month has it."""
    month = Frequency("month")
    assert month.after(datetime(2024, 1, 31), 1) == datetime(2024, 2, 29)
    assert month.after(datetime(2023, 2, 28), 1) == datetime(2023, 3, 31)
    assert month.after(datetime(2024, 1, 30), 1) == datetime(2024, 2, 29)
    assert month.after(datetime(2024, 1, 15), 13) == datetime(2025, 2, 15)
    assert Frequency("hour", 6).between(datetime(2024, 1, 1), datetime(2024, 1, 1, 5)) is None
    assert [Frequency.from_text(text).season for text in ("month", "day", "hour", "2 months", "year")] == [
        12, 7, 24, 6, 1,
    ]  # fmt: skip
    for text in ("fortnight", "0 days", "-1 day", ""):
        with pytest.raises(ValueError, match="is no frequency"):
            Frequency.from_text(text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(1, 1e6), min_size=3, max_size=3),
    st.sampled_from(["none", "log", "sqrt"]),
    st.floats(-1e6, 1e6),
)
def test_features_do_not_depend_on_the_level_and_values_come_back(
    values: list[float], transform: str, shift: float
) -> None:
    """The last value is the anchor; what was transformed is restored."""
    series = monthly(transform)
    history, anchors, scales = series.scaled(np.array([values]), np.ones(1))
    back = series.restored(anchors[:, None] + scales[:, None] * history)
    assert np.allclose(back, values, rtol=1e-3, atol=1e-3)
    assert history[0, -1] == 0
    if transform == "none":
        shifted = PLAIN.scaled(np.array([values]) + shift, np.ones(1))[0]
        assert np.allclose(history, shifted, atol=1e-3)


def test_values_before_the_window_do_not_count_and_gaps_are_filled() -> None:
    """Missing values between others lie on the line between them; the config is read as it was written."""
    assert SeriesInput.from_config(json.loads(json.dumps(INPUT.as_config()))) == INPUT
    assert (encoded(PLAIN, [9, 1, 2, 3]) == encoded(PLAIN, [1, 2, 3])).all()
    assert interpolated(np.array([np.nan, 1, np.nan, 3, np.nan]))[1:4].tolist() == [1, 2, 3]
    read = INPUT.read({**REQUEST, "sold": [10, None, "NA", 13]})
    assert read.values.tolist() == [10, 11, 12, 13]
    assert read.past[-1] + timedelta(days=1) == read.future[0]
    assert (encoded(INPUT, {**REQUEST, "sold": [10, 12, 11, 13, None]}) == encoded(INPUT, REQUEST)).all()
