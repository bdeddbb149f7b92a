"""Signals of a fixed rate, one or several channels, as many steps as one has: bodies -> float32 [T, C].

preprocess_config.json:

    {"type": "signal", "channels": [{"name": "x", "mean": 0.3, "unit": "g", "minimum": -8.0}, ...],
     "minimum_steps": 7, "maximum_steps": 29, "graph_steps": 29, "series": "id", "step": "t"}

`graph_steps` stands there where the graph takes signals of exactly that many steps, filled up with zeros;
without it, it takes any number. `series` and `step` are columns that a CSV may have beside the channels.
"""

import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..protocol.errors import BadRequest, TooLarge
from ..protocol.options import object_schema
from .signal_steps import check_steps
from .tables import TextRow, csv_rows, decoded_text
from .tensors import Size, TensorField

SIGNAL, ALSO = "signal", "data"  # keys of a signal in JSON
STEPS = "steps"
MOST_ROWS = 1_000_000  # of a CSV
MOST_LISTED = 300  # characters of the channels' names in an error


@dataclass(frozen=True)
class Channel:
    """A channel: its name, its mean in training, which stands for "nothing special" in explanations, and what
    its values may be.
    """

    name: str
    mean: float = 0.0
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None

    def words(self) -> str:
        """What a value may be, for errors."""
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            allowed = f"{low:g} to {high:g}"
        else:
            allowed = f"{low:g} or more" if low is not None else f"{high:g} or less"
        return f"{allowed} {self.unit}".rstrip()

    def schema(self) -> dict[str, Any]:
        """JSON schema of one value."""
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        unit = {"description": f"in {self.unit}"} if self.unit else {}
        known = {name: value for name, value in bounds.items() if value is not None}
        return {"type": "number", "format": "float", **known, **unit}


class CsvSignal(list[TextRow]):
    """The rows of one signal."""


@dataclass(frozen=True)
class SignalInput:
    """How signals are read; both bounds of their steps are included."""

    channels: tuple[Channel, ...]
    minimum_steps: int
    maximum_steps: int
    graph_steps: int | None = None
    series: str | None = None
    step: str | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SignalInput":
        """Of preprocess_config.json."""
        known = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        return cls(**{**known, "channels": tuple(Channel(**one) for one in config["channels"])})

    def as_config(self) -> dict[str, Any]:
        """The content of preprocess_config.json."""
        kept = {name: value for name, value in asdict(self).items() if value is not None}
        channels = [
            {name: value for name, value in asdict(one).items() if value not in (None, "")}
            for one in self.channels
        ]
        return {"type": "signal", **kept, "channels": channels}

    @cached_property
    def names(self) -> list[str]:
        """Of the channels."""
        return [channel.name for channel in self.channels]

    @cached_property
    def means(self) -> np.ndarray:
        """Of the channels in training: float32 [C]."""
        return np.array([channel.mean for channel in self.channels], np.float32)

    def signals_of(self, payload: Any, most: int) -> list[Any] | None:
        """The signals of a body that holds several: CSV with the column of series, a list of objects, a list
        of lists of steps; None for one signal.

        Raises BadRequest for CSV that is none, TooLarge for more than `most`.
        """
        if isinstance(payload, bytes | str):
            found: list[Any] | None = self._groups(payload)
        else:
            found = payload if isinstance(payload, list) and _is_several(payload) else None
        if found is not None and len(found) > most:
            raise TooLarge(f"{len(found):,} signals in one request; send at most {most:,}")
        return found

    def read(self, payload: Any) -> np.ndarray:
        """A signal float32 [T, C]. Raises BadRequest, TooLarge for too many steps."""
        if isinstance(payload, BadRequest):
            raise payload
        if isinstance(payload, bytes | str):
            payload = CsvSignal(self._csv(payload))
        if isinstance(payload, CsvSignal):
            signal = self._by_channel(self._columns(payload))
        elif isinstance(payload, dict) and not self._is_keyed(payload):
            signal = self._by_channel(payload)
        else:
            signal = self._by_step(payload[next(iter(payload))] if isinstance(payload, dict) else payload)
        self._check_bounds(signal)
        return signal

    def schemas(self, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """JSON schemas of a signal: under a key, by channel, as it is."""
        bounds = {"minItems": self.minimum_steps, "maxItems": self.maximum_steps}
        step: dict[str, Any] = {
            "type": "array",
            "items": {"type": "number", "format": "float"},
            "minItems": len(self.channels),
            "maxItems": len(self.channels),
            "description": f"the channels {self._listed()}",
        }
        if len(self.channels) == 1:
            step = {**self.channels[0].schema(), "title": self.channels[0].name}
        signal = {"type": "array", "items": step, **bounds}
        columns = {one.name: {"type": "array", "items": one.schema(), **bounds} for one in self.channels}
        return [
            object_schema({SIGNAL: signal, **options}, [SIGNAL]),
            object_schema({**columns, **options}, self.names),
            signal,
        ]

    def _is_keyed(self, payload: dict[Any, Any]) -> bool:
        (*keys,) = payload
        return len(keys) == 1 and keys[0] in (SIGNAL, ALSO) and keys[0] not in self.names

    @property
    def _sizes(self) -> dict[str, Size]:
        return {STEPS: Size(self.minimum_steps, self.maximum_steps)}

    def _by_step(self, sent: Any) -> np.ndarray:
        """Of steps with a value for each channel, or of the values of a single one."""
        count = len(self.channels)
        if not isinstance(sent, list | np.ndarray):
            raise BadRequest(f'send {self._words()}, as it is or under "{SIGNAL}"')
        if not len(np.shape(sent) if isinstance(sent, np.ndarray) else sent):
            raise BadRequest(f"the signal has no steps; send {self._words()}")
        is_flat = sent.ndim == 1 if isinstance(sent, np.ndarray) else not isinstance(sent[0], list)
        if is_flat and count > 1:
            raise BadRequest(f"the signal must have {count} values in each step: {self._listed()}")
        if not is_flat:
            self._check_width(sent)
        shape: tuple[int | str, ...] = (STEPS,) if is_flat else (STEPS, count)
        array = TensorField(SIGNAL, "float32", shape).read(sent, self._sizes, {})
        return array.reshape(-1, count)

    def _check_width(self, sent: list[Any] | np.ndarray) -> None:
        """Raise BadRequest for a step with another number of values than there are channels."""
        count = len(self.channels)
        if isinstance(sent, np.ndarray):
            wrong = [(0, sent.shape[1])] if sent.ndim == 2 and sent.shape[1] != count else []
        else:
            lengths = [len(step) if isinstance(step, list) else -1 for step in sent]
            wrong = [(place, length) for place, length in enumerate(lengths) if length not in (count, -1)]
        if wrong:
            place, length = wrong[0]
            raise BadRequest(
                f"step {place} has {length} value{'s' * (length != 1)}; send {count} in each step: "
                f"{self._listed()}"
            )

    def _by_channel(self, columns: Mapping[Any, Any]) -> np.ndarray:
        """Of a list for each channel."""
        if unknown := [str(name) for name in columns if name not in self.names]:
            close = difflib.get_close_matches(unknown[0], self.names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the channels are {self._listed()}"
            raise BadRequest(f"there is no channel {unknown[0][:60]!r}; {hint}")
        if lacking := [name for name in self.names if name not in columns]:
            raise BadRequest(f"the channel {lacking[0]!r} is left out; send a list of numbers")
        known: dict[str, int] = {}
        field = (TensorField(name, "float32", (STEPS,)) for name in self.names)
        return np.stack([one.read(columns[one.name], self._sizes, known) for one in field], 1)

    def _check_bounds(self, signal: np.ndarray) -> None:
        for place, channel in enumerate(self.channels):
            values, outside = signal[:, place], np.zeros(len(signal), bool)
            if channel.minimum is not None:
                outside |= values < channel.minimum
            if channel.maximum is not None:
                outside |= values > channel.maximum
            if outside.any():
                step = int(outside.argmax())
                found = f"{channel.name} is {values[step]:g} at step {step}"
                raise BadRequest(f"{found}; it must be {channel.words()}")

    def _csv(self, payload: bytes | str) -> list[TextRow]:
        text = decoded_text(payload) if isinstance(payload, bytes) else payload
        rows = []
        for row in csv_rows(io.StringIO(text, newline=""), MOST_ROWS):
            if isinstance(row, BadRequest):
                raise row
            rows.append(row)
        return rows

    def _groups(self, payload: bytes | str) -> list[Any] | None:
        """The signals of CSV that says which each row is of, in the order of their first rows."""
        rows = self._csv(payload)
        if self.series is None or self.series not in rows[0]:
            return None
        groups: dict[str, CsvSignal] = {}
        for row in rows:
            groups.setdefault(row[self.series].strip(), CsvSignal()).append(row)
        return list(groups.values())

    def _columns(self, rows: Sequence[TextRow]) -> dict[str, list[float]]:
        """Name -> numbers of a CSV's rows, whose steps must follow each other."""
        names = [name for name in rows[0] if name not in (self.series, self.step) or name in self.names]
        columns = {
            name: [_number(row[name], name, place) for place, row in enumerate(rows)] for name in names
        }
        steps = [row[self.step] for row in rows] if self.step and self.step in rows[0] else []
        if fault := check_steps(steps):
            raise BadRequest(f"{self.step}: {fault}")
        return columns

    def _words(self) -> str:
        if len(self.channels) == 1:
            return "a list of numbers, one per step"
        return f"a list of steps, each a list of {len(self.channels)} numbers: {self._listed()}"

    def _listed(self) -> str:
        text = ", ".join(self.names)
        return text if len(text) <= MOST_LISTED else text[:MOST_LISTED] + "…"


def padded(signals: Sequence[np.ndarray], steps: int | None = None) -> np.ndarray:
    """Signals of several lengths as float32 [B, T, C], filled up with zeros to the longest, or to `steps`."""
    longest = steps or max(map(len, signals))
    filled = np.zeros((len(signals), longest, signals[0].shape[1]), np.float32)
    for row, signal in zip(filled, signals, strict=True):
        row[: len(signal)] = signal
    return filled


def _is_several(payload: list[Any]) -> bool:
    first = next((one for one in payload if isinstance(one, dict | list)), None)
    if isinstance(first, list):
        return any(isinstance(part, list) for part in first)
    return isinstance(first, dict)


def _number(cell: str, name: str, place: int) -> float:
    """Of a cell of CSV. Raises BadRequest."""
    try:
        return float("" if "_" in cell else cell)
    except ValueError:
        raise BadRequest(f"{name} is {cell[:40]!r} in row {place + 1}; send a number") from None
