"""Requests to the built-in forecaster `co2`: good ones in every form, and those that must be refused."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

from tests.support.sent_requests import JSON, Bad, Sent

KIND = frozenset({"forecaster"})
CSV = ("Content-Type", "text/csv")
WINDOW = 36  # months
VALUES = [350 + 0.1 * month + 3 * ((month % 12) - 6) / 6 for month in range(WINDOW + 4)]
DATES = [f"{1990 + month // 12}-{month % 12 + 1:02}-01" for month in range(WINDOW + 4)]


def sent(**content: Any) -> bytes:
    """An object as JSON."""
    return json.dumps(content).encode()


def tensor(name: str, data: list[Any], datatype: str = "FP64") -> dict[str, Any]:
    """One row in the Open Inference Protocol."""
    return {"name": name, "shape": [1, len(data)], "datatype": datatype, "data": data}


def good() -> Iterator[Sent]:
    """Columns, rows, values alone, CSV, instances."""
    rows = [{"date": date, "co2": value} for date, value in zip(DATES, VALUES, strict=True)]
    lines = ["date,co2", *(f"{row['date']},{row['co2']}" for row in rows)]
    columns = {"date": DATES, "co2": VALUES}
    yield Sent("columns", sent(**columns), (JSON,))
    yield Sent("columns without a content type", sent(**columns))
    yield Sent("the last time alone", sent(date=DATES[-1], co2=VALUES), (JSON,))
    yield Sent("values alone", json.dumps(VALUES).encode(), (JSON,))
    yield Sent("values without times", sent(co2=VALUES[-WINDOW:]), (JSON,))
    yield Sent("rows", sent(rows=rows), (JSON,))
    yield Sent("rows, gzipped", gzip.compress(sent(rows=rows)), (JSON, ("Content-Encoding", "gzip")))
    yield Sent("CSV", "\n".join(lines).encode(), (CSV,))
    yield Sent("fewer steps", sent(**columns, horizon=3), (JSON,))
    yield Sent("fewer steps by a header", sent(**columns), (JSON, ("horizon", "2")))
    yield Sent("many instances", sent(instances=[columns, {"co2": VALUES}]), (JSON,))
    yield Sent("a tensor", sent(inputs=[tensor("co2", VALUES)]), (JSON,))
    yield Sent("why", sent(**columns), (JSON,), path="explanations")


def bad() -> Iterator[Bad]:
    """Too short, with gaps, of other columns, without numbers."""
    gap = [*DATES[:-1], "1999-01-01"]
    bodies = {
        "too few values": sent(co2=VALUES[: WINDOW - 1]),
        "no values": sent(co2=[]),
        "a value that is a word": sent(co2=[*VALUES, "many"]),
        "a value that is true": sent(co2=[*VALUES, True]),
        "a value that is not a number": b'{"co2": [%s, NaN]}' % json.dumps(VALUES)[1:-1].encode(),
        "an infinite value": b'{"co2": [%s, 1e999]}' % json.dumps(VALUES)[1:-1].encode(),
        "lists of values": sent(co2=[VALUES]),
        "another column": sent(ch4=VALUES),
        "a column too many": sent(co2=VALUES, ch4=VALUES),
        "columns of other lengths": sent(date=DATES[:-1], co2=VALUES),
        "times with a gap": sent(date=gap, co2=VALUES),
        "times in another order": sent(date=DATES[::-1], co2=VALUES),
        "a time that is none": sent(date=[*DATES[:-1], "soon"], co2=VALUES),
        "no steps": sent(co2=VALUES, horizon=0),
        "more steps than were learned": sent(co2=VALUES, horizon=13),
        "half a step": sent(co2=VALUES, horizon=1.5),
        "an object in the place of values": sent(co2={"values": VALUES}),
        "a text": b'"370"',
        "an empty object": b"{}",
        "no end of it": b'{"co2": [350.0',
        "a tensor that is too short": sent(inputs=[tensor("co2", VALUES[:5])]),
        "a tensor of another size": sent(inputs=[{**tensor("co2", VALUES), "shape": [1, 7]}]),
    }
    for name, body in bodies.items():
        yield Bad(name, body, (JSON,), KIND)
    yield Bad("no body", b"", (), KIND)
    yield Bad("a CSV of nothing but a header", b"date,co2\n", (CSV,), KIND)
