"""Series that lie in installed packages: statsmodels' data sets, read from its files.

statsmodels:co2         monthly means of the weekly CO2 at Mauna Loa, 1958 to 2001; months without a
                        measurement are empty
statsmodels:sunspots    yearly sunspot numbers, 1700 to 2008
"""

import csv
import hashlib
import importlib.util
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marina.core.errors import CallError

PREFIX = "statsmodels:"


@dataclass(frozen=True)
class PackagedSeries:
    """Rows of cells by their columns, with where they are from."""

    columns: list[str]
    rows: list[dict[str, Any]]
    fingerprint: str
    source: str
    licence: str = "public domain"


def load_series(name: str) -> PackagedSeries:
    """The data set of statsmodels. Raises CallError where it, or the package, isn't there."""
    readers = {"co2": _co2, "sunspots": _sunspots}
    if name not in readers:
        raise CallError(f"data {PREFIX}{name}: unknown; known: {', '.join(readers)}")
    package = importlib.util.find_spec("statsmodels")
    if package is None or package.origin is None:
        raise CallError(f"data {PREFIX}{name} needs statsmodels: pip install 'marina[series]'")
    file = Path(package.origin).parent / "datasets" / name / f"{name}.csv"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CallError(f"data {PREFIX}{name}: {error}") from error
    rows = list(csv.DictReader(content.decode().splitlines()))
    columns, found, source = readers[name](rows)
    return PackagedSeries(columns, found, hashlib.sha256(content).hexdigest(), source)


def _co2(rows: list[dict[str, str]]) -> tuple[list[str], list[dict[str, Any]], str]:
    months: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["co2"]:
            months[int(row["date"][:4]) * 12 + int(row["date"][4:6]) - 1].append(float(row["co2"]))
    found = []
    for month in range(min(months), max(months) + 1):
        values = months.get(month)
        mean = round(sum(values) / len(values), 4) if values else None
        found.append({"date": f"{month // 12}-{month % 12 + 1:02}-01", "co2": mean})
    return ["date", "co2"], found, "statsmodels co2: Keeling and Whorf 2004, CDIAC, monthly means"


def _sunspots(rows: list[dict[str, str]]) -> tuple[list[str], list[dict[str, Any]], str]:
    found = [{"year": row["YEAR"], "sunspots": float(row["SUNACTIVITY"])} for row in rows]
    return ["year", "sunspots"], found, "statsmodels sunspots: NOAA, yearly International sunspot numbers"
