"""The columns of a table: a cell as it was sent -> its value, and the value -> what the graph takes of it.

    parse(cell, is_text) -> value     a number, a category, a date; BadRequest names the column
    check(value)                      whether the model can take it: missing, never seen in training
    encode(value) -> [floats]         scaled numbers, one-hot categories or their index, parts of dates

The same code reads the training data and the requests. What is fitted (means, medians, categories) comes from
the training rows alone and travels in preprocess_config.json. Numbers are scaled in float64 here and not in
the graph, whose float32 has no room for years in seconds.
"""

import difflib
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

from ..protocol.errors import BadRequest

FURTHEST = 1e6  # deviations from the mean: beyond them float32 sums lose all other columns


@dataclass(frozen=True)
class Column:
    """What all columns have. A missing cell is an `error`, or it is imputed: the `baseline`, the training
    rows' median or most frequent category, with a feature that says so.
    """

    name: str
    description: str = ""
    unit: str = ""
    missing: str = "error"
    baseline: Any = None

    type: ClassVar[str]

    def parse(self, cell: Any, is_text: bool) -> Any:
        """The value of a cell that isn't missing; `is_text` says that all cells are text, as in CSV.

        Raises BadRequest for another type, and what is out of bounds.
        """
        raise NotImplementedError

    def check(self, value: Any) -> None:
        """Raise BadRequest for a value, None for a missing one, that the model can't take."""
        if value is None and self.missing == "error":
            raise BadRequest(f"{self.name} is missing; send {self.words()}")

    def encode(self, value: Any) -> list[float]:
        """What the graph takes: `width` numbers."""
        raise NotImplementedError

    def sent(self, value: Any) -> Any:
        """A value as JSON has it."""
        return value

    def words(self) -> str:
        """What a cell must be, in words."""
        raise NotImplementedError

    def value_schema(self) -> dict[str, Any]:
        """JSON schema of a cell."""
        raise NotImplementedError

    @property
    def imputes(self) -> bool:
        """Whether a cell may be missing."""
        return self.missing == "impute"

    @property
    def typical(self) -> Any:
        """The baseline as `parse` would give it."""
        return self.baseline

    @property
    def width(self) -> int:
        """How many numbers the graph takes."""
        return len(self.encode(self.typical))

    def schema(self) -> dict[str, Any]:
        """JSON schema of a cell, which may be null where a missing one is imputed."""
        schema = self.value_schema()
        about = ", ".join(part for part in (self.description, self.unit and f"in {self.unit}") if part)
        if self.imputes:
            schema["type"] = [schema["type"], "null"]
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        return {**schema, **({"description": about} if about else {})}

    def as_config(self) -> dict[str, Any]:
        """An element of "columns" in preprocess_config.json."""
        kept = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        return {"type": self.type, **kept}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Column":
        """Of such an element."""
        kept: dict[str, Any] = {
            key: tuple(one) if isinstance(one, list) else one for key, one in config.items() if key != "type"
        }
        return cls(**kept)


@dataclass(frozen=True)
class NumberColumn(Column):
    """Numbers, brought to mean 0 and deviation 1; with `quantiles` of the training rows first to their
    rank among these, from -1 to 1.
    """

    minimum: float | None = None
    maximum: float | None = None
    mean: float = 0.0
    deviation: float = math.inf  # until it is fitted
    quantiles: tuple[float, ...] = ()

    type: ClassVar[str] = "number"

    def parse(self, cell: Any, is_text: bool) -> float:
        """A finite number within the bounds."""
        number = self._number(cell, is_text)
        if not math.isfinite(number):
            remedy = "send null for a missing value" if self.imputes else f"send {self.words()}"
            raise BadRequest(f"{self.name} is {number}; {remedy}")
        low, high = self.minimum, self.maximum
        if (low is not None and number < low) or (high is not None and number > high):
            raise BadRequest(f"{self.name} is {number:g}; it must be {self.words()}")
        return number

    def check(self, value: float | None) -> None:
        """Not so far from the training rows that all other columns are lost beside it."""
        super().check(value)
        if value is not None and abs(self._scaled(value)) > FURTHEST:
            raise BadRequest(
                f"{self.name} is {value:g}, more than {FURTHEST:,.0f} times as far from the mean "
                f"{self.mean:g} as the training rows are"
            )

    def encode(self, value: float | None) -> list[float]:
        """The scaled number; where missing ones are imputed also 1 for such a one."""
        scaled = self._scaled(self.baseline if value is None else value)
        return [scaled, float(value is None)] if self.imputes else [scaled]

    def words(self) -> str:
        """A number, and its bounds."""
        low, high = self.minimum, self.maximum
        unit = f" {self.unit}" if self.unit else ""
        if low is not None and high is not None:
            return f"{low:g} to {high:g}{unit}"
        if low is None and high is None:
            return f"a number{unit and ' in'}{unit}"
        return f"{low:g} or more{unit}" if low is not None else f"{high:g} or less{unit}"

    def value_schema(self) -> dict[str, Any]:
        """A number."""
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        kept = {name: bound for name, bound in bounds.items() if bound is not None}
        return {"type": "number", "format": "double", **kept}

    def _number(self, cell: Any, is_text: bool) -> float:
        if isinstance(cell, str) and is_text and "_" not in cell:  # which Python takes in numbers
            try:
                return float(cell)
            except ValueError:
                pass
        elif isinstance(cell, int | float) and not isinstance(cell, bool):
            try:
                return float(cell)
            except OverflowError:
                raise BadRequest(f"{self.name} is a number of more than 300 digits") from None
        raise BadRequest(f"{self.name} is {shown(cell)}; it must be {self.words()}")

    def _scaled(self, number: float) -> float:
        if not self.quantiles:
            return (number - self.mean) / self.deviation
        last = len(self.quantiles) - 1
        at = min(max(bisect_right(self.quantiles, number) - 1, 0), last - 1)
        low, high = self.quantiles[at], self.quantiles[at + 1]
        share = min(max((number - low) / (high - low), 0.0), 1.0) if high > low else float(number >= high)
        return 2 * (at + share) / last - 1


@dataclass(frozen=True)
class CategoryColumn(Column):
    """Names out of `values`: a feature each, or the index of one, for an embedding of `dimension` numbers.

    An `unknown` one is an error, or taken as the `other` that the rare ones of training were, too. Before it
    is fitted a column has no values and takes all.
    """

    values: tuple[str, ...] = ()
    unknown: str = "error"
    dimension: int = 0  # of its embedding; 0 for one-hot

    type: ClassVar[str] = "category"

    def parse(self, cell: Any, is_text: bool) -> str:
        """A name; whole numbers and truths stand for their names."""
        if isinstance(cell, bool):
            return str(cell).lower()
        if isinstance(cell, float) and cell.is_integer():
            return str(int(cell))
        if isinstance(cell, str | int) or (isinstance(cell, float) and math.isfinite(cell)):
            return str(cell).strip()
        raise BadRequest(f"{self.name} is {shown(cell)}; it must be {self.words()}")

    def check(self, value: str | None) -> None:
        """Known names, or any where others are taken."""
        super().check(value)
        if value is None or value in self._indices or self.unknown == "other" or not self.values:
            return
        close = difflib.get_close_matches(value, self.values, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it must be {self.words()}"
        raise BadRequest(f"{self.name} is {value[:60]!r}, which the training rows don't have; {hint}")

    def encode(self, value: str | None) -> list[float]:
        """A 1 at the index of the name, or that index."""
        index = self._index(value)
        if self.dimension:
            return [float(index)]
        features = [0.0] * self.size
        features[index] = 1.0
        return features

    @property
    def size(self) -> int:
        """How many are told apart: the values, the other ones, the missing ones."""
        return len(self.values) + (self.unknown == "other") + self.imputes

    def words(self) -> str:
        """The names, where there are few."""
        if not self.values:
            return "a text"
        shown = ", ".join(self.values[:8])
        return f"one of {shown}" + (f" and {len(self.values) - 8} more" if len(self.values) > 8 else "")

    def value_schema(self) -> dict[str, Any]:
        """The names; any text where others are taken."""
        return {"type": "string", **({} if self.unknown == "other" else {"enum": list(self.values)})}

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {value: index for index, value in enumerate(self.values)}

    def _index(self, value: str | None) -> int:
        if value is None:
            return self.size - 1
        return self._indices.get(value, len(self.values))


def shown(cell: Any) -> str:
    """A cell in a message."""
    if cell is None or isinstance(cell, bool):
        return str(cell).lower().replace("none", "null")
    return repr(cell)[:60] if isinstance(cell, str | int | float) else f"a {type(cell).__name__}"
