"""Columns of dates: as the days since 1970, and as parts, like the weekday, that come back in circles."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from ..protocol.errors import BadRequest
from .columns import FURTHEST, Column, shown

EPOCH = datetime(1970, 1, 1)
# part of a date -> its period: an angle, whose sine and cosine are near where the parts are
PERIODS = {"month": 12, "day": 31, "weekday": 7, "hour": 24, "day_of_year": 366}


@dataclass(frozen=True)
class DateColumn(Column):
    """Dates, with or without the time of day: as days (`elapsed`, scaled), and as `parts`.

    `form` is how they are written, by Python's codes; by default as in ISO 8601. A time zone is
    converted to UTC.
    """

    form: str = ""
    minimum: str = ""  # in ISO 8601, as maximum
    maximum: str = ""
    parts: tuple[str, ...] = ("elapsed",)
    mean: float = 0.0  # days since 1970
    deviation: float = math.inf  # until it is fitted

    type: ClassVar[str] = "date"

    def parse(self, cell: Any, is_text: bool) -> datetime:
        """A date within the bounds."""
        if not isinstance(cell, str):
            raise BadRequest(f"{self.name} is {shown(cell)}; it must be {self.words()}")
        try:
            date = self._date(cell.strip())
        except ValueError as error:
            reason = f" ({error})" if "range" in str(error) else ""  # day is out of range for month
            raise BadRequest(f"{self.name} is {cell[:40]!r}{reason}; it must be {self.words()}") from None
        if (self.minimum and date < _iso(self.minimum)) or (self.maximum and date > _iso(self.maximum)):
            raise BadRequest(f"{self.name} is {cell[:40]}, out of range; it must be {self.words()}")
        return date

    def check(self, value: datetime | None) -> None:
        """Not so far from the training rows that all other columns are lost beside it."""
        super().check(value)
        if value is not None and abs(self._scaled(value)) > FURTHEST:
            raise BadRequest(f"{self.name} is {self.sent(value)}, too far from the training rows' dates")

    def encode(self, value: datetime | None) -> list[float]:
        """The parts, an angle as sine and cosine; where missing ones are imputed also 1 for such a one."""
        date = self.typical if value is None else value
        features: list[float] = []
        for part in self.parts:
            if part == "elapsed":
                features.append(self._scaled(date))
            elif part == "year":
                features.append((date.year - 1970 - self.mean / 365.2425) * 365.2425 / self.deviation)
            else:
                angle = 2 * math.pi * _part(date, part) / PERIODS[part]
                features += [math.sin(angle), math.cos(angle)]
        return [*features, float(value is None)] if self.imputes else features

    @property
    def typical(self) -> datetime:
        """The baseline, which is written in ISO 8601."""
        return _iso(self.baseline)

    def sent(self, value: Any) -> Any:
        """As it is written."""
        if not isinstance(value, datetime):
            return value
        if self.form:
            return value.strftime(self.form)
        return value.date().isoformat() if value.time() == datetime.min.time() else value.isoformat()

    def words(self) -> str:
        """A date, and its bounds."""
        form = f"a date like {self.sent(datetime(2024, 3, 31))}"
        bounds = [("from", self.minimum), ("to", self.maximum)]
        return " ".join([form, *(f"{word} {bound}" for word, bound in bounds if bound)])

    def value_schema(self) -> dict[str, Any]:
        """A text."""
        return {"type": "string", "format": "date"} if not self.form else {"type": "string"}

    def _date(self, text: str) -> datetime:
        return _utc(datetime.strptime(text, self.form)) if self.form else _iso(text)

    def _scaled(self, date: datetime) -> float:
        return (days_of(date) - self.mean) / self.deviation


def days_of(date: datetime) -> float:
    """Days since 1970, with the time of day as a fraction."""
    return (date - EPOCH) / timedelta(days=1)


def _iso(text: str) -> datetime:
    """Raises ValueError for what is no date in ISO 8601."""
    return _utc(datetime.fromisoformat(text))


def _utc(date: datetime) -> datetime:
    try:
        return date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date
    except OverflowError:
        raise ValueError("out of range") from None


def _part(date: datetime, part: str) -> float:
    if part == "hour":
        return date.hour + date.minute / 60
    if part == "weekday":
        return date.weekday()
    return date.timetuple().tm_yday if part == "day_of_year" else float(getattr(date, part))
