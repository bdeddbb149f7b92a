"""Rows of a table: whatever is sent is read as what it says, or refused by the column's name."""

import io
import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.inputs.columns import CategoryColumn, NumberColumn
from handlers.inputs.date_columns import DateColumn
from handlers.inputs.tables import Table, csv_rows
from handlers.protocol.errors import RequestError
from tests.support.strategies import cells
from tests.support.table_models import ROW, TABLE, as_csv

CELLS = cells(["f", "m", "1", "NA", "2021-02-28", "2021-02-28T25:00", "9999-12-31T23:59-12:00", "1e5"])


def tried(step: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a step gives, or the words of its refusal; anything else that it raises fails the test."""
    try:
        return step(*arguments), ""
    except RequestError as refusal:
        return None, str(refusal)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TABLE.names), CELLS)
def test_any_cell_is_read_or_refused_by_its_column(name: str, cell: Any) -> None:
    """What is read is encoded as finite numbers, and read again from what it is sent as."""
    values, refusal = tried(TABLE.read, {**ROW, name: cell})
    if refusal:
        assert name in refusal
        return
    features = TABLE.encode(values)
    assert all(map(math.isfinite, features.tolist()))
    again = TABLE.read(json.loads(json.dumps(TABLE.sent(values))))
    assert (TABLE.encode(again) == features).all()


@settings(max_examples=200, deadline=None)
@given(st.one_of(CELLS, st.lists(CELLS, max_size=6), st.dictionaries(st.text(max_size=8), CELLS, max_size=6)))
def test_any_payload_is_a_row_or_refused(payload: Any) -> None:
    """Nothing else is raised."""
    values, refusal = tried(TABLE.read, payload)
    assert refusal or len(values) == len(TABLE.columns)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('a1,;\t|"\n\r \0é'), max_size=60))
def test_any_text_is_csv_or_refused(text: str) -> None:
    """Each row has a cell for every name, or is a refusal in its place."""
    rows, refusal = tried(lambda: list(csv_rows(io.StringIO(text, newline=""), 5)))
    assert refusal or rows
    names = {tuple(row) for row in rows or () if isinstance(row, dict)}
    assert len(names) <= 1


def test_csv_keeps_quoted_cells() -> None:
    """Separators, line ends and quotes inside of quotes."""
    rows = list(csv_rows(io.StringIO(as_csv({"a": 'x,"y"\n', "b": "é;"}), newline=""), 5))

    assert rows == [{"a": 'x,"y"\n', "b": "é;"}]


def test_quantiles_are_ranks_and_do_not_leave_their_range() -> None:
    """From -1 to 1, steady between, also where many training rows have one value."""
    column = NumberColumn("x", baseline=2.0, quantiles=(0.0, 1.0, 1.0, 4.0, 16.0), deviation=1.0)
    found = [column.encode(value)[0] for value in (-5.0, 0.0, 0.5, 1.0, 2.5, 4.0, 10.0, 16.0, 99.0)]

    assert found == pytest.approx([-1, -1, -0.75, 0, 0.25, 0.5, 0.75, 1, 1])


def test_parts_of_dates_come_back_in_circles() -> None:
    """Sunday is beside Monday, December beside January; a time zone is converted."""
    column = DateColumn("d", parts=("weekday", "month", "hour"), baseline="2024-01-01", deviation=1.0)
    monday, sunday = (column.encode(datetime(2024, 1, day)) for day in (1, 7))
    assert math.dist(monday[:2], sunday[:2]) == pytest.approx(2 * math.sin(math.pi / 7))
    december = column.encode(datetime(2023, 12, 4))
    assert math.dist(monday[2:4], december[2:4]) == pytest.approx(2 * math.sin(math.pi / 12))
    assert column.parse("2024-01-01T02:00+02:00", False) == datetime(2024, 1, 1)
    german = DateColumn("d", form="%d.%m.%Y", baseline="2024-01-01", deviation=1.0)
    assert german.sent(german.parse("31.03.2024", True)) == "31.03.2024"


def test_categories_have_places_for_others_and_missing_ones() -> None:
    """One-hot or by index; numbers and truths stand for their names."""
    ward = CategoryColumn("w", values=("1", "2"), unknown="other", missing="impute", baseline="1")
    assert [ward.encode(value).index(1.0) for value in ("1", "2", "9", None)] == [0, 1, 2, 3]
    index = CategoryColumn("w", values=("1", "2"), unknown="other", dimension=3, baseline="1")
    assert [index.encode(value) for value in ("1", "2", "9")] == [[0.0], [1.0], [2.0]]
    assert [ward.parse(cell, False) for cell in (1, 1.0, True, " 1 ", 1.5)] == ["1", "1", "true", "1", "1.5"]


def test_a_table_of_one_column_takes_its_value_alone() -> None:
    """Instances of KServe v1 are often bare numbers."""
    table = Table((NumberColumn("x", baseline=0.0, deviation=1.0),))

    assert table.read(3) == table.read([3]) == table.read({"x": 3}) == [3.0]
