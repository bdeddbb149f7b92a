"""How often a series has a value: every so many seconds to weeks, months or years.

Calendar units are counted in the calendar: a month follows a month whatever its length. Times have no time
zone, or are converted to UTC.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from .date_columns import EPOCH

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
MONTHS = {"month": 1, "quarter": 3, "year": 12}
SEASONS = {"hour": 24, "day": 7, "week": 52, "month": 12, "quarter": 4}  # that most series of a unit have
_FORM = re.compile(r"(?:(\d{1,6})\s+)?([a-z]+?)s?")


@dataclass(frozen=True)
class Frequency:
    """One value every `count` units."""

    unit: str
    count: int = 1

    @classmethod
    def from_text(cls, text: str) -> "Frequency":
        """Of `month` or `15 minutes`. Raises ValueError."""
        found = _FORM.fullmatch(text.strip().lower())
        count = int(found[1] or 1) if found else 0
        if not found or not count or found[2] not in {**SECONDS, **MONTHS}:
            known = ", ".join([*SECONDS, *MONTHS])
            raise ValueError(f"{text[:40]!r} is no frequency; write {known}, or like 15 minutes")
        return cls(found[2], count)

    def __str__(self) -> str:
        return self.unit if self.count == 1 else f"{self.count} {self.unit}s"

    @property
    def season(self) -> int:
        """Values per season, where the unit has a usual one, otherwise 1."""
        season = SEASONS.get(self.unit, 1)
        return season // self.count if season % self.count == 0 else 1

    def between(self, first: datetime, second: datetime) -> int | None:
        """How many values `second` is behind `first`; None if it doesn't fall on one."""
        if self.unit in SECONDS:
            steps, rest = divmod(second - first, timedelta(seconds=SECONDS[self.unit] * self.count))
            return None if rest else steps
        months = (second.year - first.year) * 12 + second.month - first.month
        steps, left = divmod(months, MONTHS[self.unit] * self.count)
        return None if left else steps

    def after(self, date: datetime, steps: int) -> datetime:
        """The time of the value so many steps behind that of `date`: in months on the same day, or on the
        last one where the month has no such day or `date` was the last of its month.

        Raises OverflowError beyond the years 1 to 9999.
        """
        if self.unit in SECONDS:
            return date + timedelta(seconds=SECONDS[self.unit] * self.count * steps)
        months = date.year * 12 + date.month - 1 + MONTHS[self.unit] * self.count * steps
        year, month = divmod(months, 12)
        if not 1 <= year <= 9999:
            raise OverflowError("beyond the years 1 to 9999")
        last = calendar.monthrange(year, month + 1)[1]
        is_end = date.day == calendar.monthrange(date.year, date.month)[1]
        day = last if is_end and date.day >= 28 else min(date.day, last)
        return date.replace(year=year, month=month + 1, day=day)

    def number(self, date: datetime) -> int:
        """Of the value among all since 1970; only differences of a series' own times count."""
        if self.unit in SECONDS:
            return (date - EPOCH) // timedelta(seconds=SECONDS[self.unit] * self.count)
        return (date.year * 12 + date.month - 1) // (MONTHS[self.unit] * self.count)
