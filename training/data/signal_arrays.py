"""Signals in arrays, .npz and .npy, and in the text files of aeon and sktime, .ts.

In .npz, `signals` (or X, x, data) and `labels` (or y, label, target), with _train, _validation and _test
behind the names where splits are given; `lengths` of signals that are filled up, or NaN in all channels
behind their ends. Channels come last, with `channels_first` before the steps.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from marina.core.errors import CallError
from marina.core.zip_files import check_unpacked_size
from training.data.picture_files import SPLITS, split_of
from training.data.signal_tables import Columns, RawSignal
from training.data.text_files import read_text

SIGNALS = ("signals", "x", "data")
LABELS = ("labels", "y", "label", "target")
LENGTHS = ("lengths", "length")
# a header may claim more numbers than there is memory for
UNREADABLE = (OSError, ValueError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile)
Read = tuple[tuple[str, ...], list[RawSignal]]


def read_npz(path: Path, columns: Columns, split: str) -> Read:
    """The channels and the signals of a file of named arrays. Raises CallError for one that has none."""
    try:
        check_unpacked_size(path, str(path))
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise CallError(
            f"{path} can't be read as .npz ({error}); save plain arrays with numpy.savez"
        ) from error
    found: list[RawSignal] = []
    names: tuple[str, ...] = ()
    for suffix in sorted({_suffix(name) for name in arrays}):
        values = _named(arrays, SIGNALS, suffix)
        if values is None:
            continue
        labels = _named(arrays, LABELS, suffix)
        if labels is None or labels.ndim != 1 or len(labels) != len(values):
            raise CallError(
                f"{path}: {len(values)} signals need an array of as many labels: {LABELS[0]}{suffix}"
            )
        signals = _laid_out(path, values, columns)
        names = _names(path, signals.shape[2], columns)
        lengths = _lengths(path, signals, _named(arrays, LENGTHS, suffix))
        word = SPLITS.get(suffix.removeprefix("_"), split)
        for row, (signal, length, label) in enumerate(zip(signals, lengths, labels.tolist(), strict=True)):
            found.append(_signal(f"{path.name}{suffix} {row}", signal[:length], label, word))
    if not found:
        raise CallError(
            f"{path} has no signals [N, steps, channels]; it has {', '.join(arrays) or 'nothing'}"
        )
    return names, found


def read_npy(path: Path, columns: Columns, place: str) -> tuple[tuple[str, ...], RawSignal]:
    """The channels and the signal of a file that holds one: [T, C] or [T]."""
    try:
        values = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        return (), RawSignal(place, np.zeros((0, 0), np.float32), fault=f"can't be read: {error}")
    if values.dtype.kind not in "iufb" or values.ndim not in (1, 2):
        fault = f"{values.dtype} of shape {list(values.shape)}, not numbers [steps, channels]"
        return (), RawSignal(place, np.zeros((0, 0), np.float32), fault=fault)
    signal = _laid_out(path, values[None], columns)[0]
    return _names(path, signal.shape[1], columns), _signal(place, signal, "", "")


def read_ts(path: Path, columns: Columns, split: str) -> Read:
    """The channels and the signals of a .ts file: channels are parted by colons, the label is the last part.

    Raises CallError for a file that isn't one, and for steps with times of their own.
    """
    head, mark, body = read_text(path).partition("@data")
    if not mark:
        raise CallError(f"{path} is no .ts file: it has no line @data")
    if "@timestamps true" in head.lower():
        raise CallError(f"{path} has times for each step; write a table with them instead")
    found: list[RawSignal] = []
    names: tuple[str, ...] = ()
    for number, line in enumerate(filter(None, map(str.strip, body.splitlines())), 1):
        *parts, label = line.split(":")
        rows = [_numbers(part) for part in parts]
        place = f"{path.name} {number}"
        if not rows or len({len(row) for row in rows}) > 1 or (names and len(rows) != len(names)):
            fault = f"channels of {', '.join(str(len(row)) for row in rows) or 'no'} steps"
            found.append(RawSignal(place, np.zeros((0, 0), np.float32), label, split, fault=fault))
            continue
        names = names or _names(path, len(rows), columns)
        found.append(_signal(place, np.array(rows).T, label, split))
    if not found:
        raise CallError(f"{path} has no signals behind @data")
    return names, found


def _numbers(part: str) -> list[float]:
    """Of a channel; NaN for what is none."""
    numbers = []
    for text in part.split(","):
        try:
            numbers.append(float(text))
        except ValueError:
            numbers.append(np.nan)
    return numbers


def _signal(place: str, values: np.ndarray, label: object, split: str) -> RawSignal:
    """With the fault of values that are not finite."""
    with np.errstate(over="ignore"):
        signal = np.ascontiguousarray(values, np.float32)
    fault = ""
    if not np.isfinite(signal).all():
        step, channel = np.argwhere(~np.isfinite(signal))[0].tolist()
        fault = f"channel {channel} is {signal[step, channel]} at step {step}"
    word = int(label) if isinstance(label, float) and label.is_integer() else label
    return RawSignal(place, signal, str(word).strip(), split, fault=fault)


def _laid_out(path: Path, values: np.ndarray, columns: Columns) -> np.ndarray:
    """[N, T, C] of what the file has. Raises CallError."""
    if values.dtype.kind not in "iufb" or values.ndim not in (2, 3):
        raise CallError(
            f"{path}: signals are numbers [N, steps, channels] or [N, steps], not {values.dtype} of shape "
            f"{list(values.shape)}"
        )
    if values.ndim == 2:
        return values[:, :, None]
    return values.transpose(0, 2, 1) if columns.channels_first else values


def _names(path: Path, count: int, columns: Columns) -> tuple[str, ...]:
    """Those of the settings, or numbered ones. Raises CallError for another count."""
    if columns.channels and len(columns.channels) != count:
        hint = (
            "" if columns.channels_first else "; if channels come before the steps, say channels_first: true"
        )
        raise CallError(f"{path} has {count} channels, and channels names {len(columns.channels)}{hint}")
    return columns.channels or tuple(f"channel_{place}" for place in range(count))


def _lengths(path: Path, signals: np.ndarray, given: np.ndarray | None) -> Sequence[int]:
    """Steps of each signal: as given, else up to the last step with a value."""
    if given is not None:
        steps = given.astype(np.int64)
        if steps.shape != (len(signals),) or (steps < 0).any() or (steps > signals.shape[1]).any():
            raise CallError(f"{path}: lengths must be {len(signals)} numbers from 0 to {signals.shape[1]}")
        return steps.tolist()  # type: ignore[no-any-return]
    if signals.dtype.kind != "f":
        return [signals.shape[1]] * len(signals)
    is_there = ~np.isnan(signals).all(2)
    ends = np.where(is_there.any(1), signals.shape[1] - is_there[:, ::-1].argmax(1), 0)
    return ends.tolist()  # type: ignore[no-any-return]


def _suffix(name: str) -> str:
    """_train, _test, … behind an array's name; empty for none."""
    _, mark, last = name.rpartition("_")
    return f"_{last}" if mark and split_of(last) else ""


def _named(arrays: Mapping[str, np.ndarray], names: Sequence[str], suffix: str) -> np.ndarray | None:
    """The array that has one of these names, in any case."""
    lower = {name.lower(): array for name, array in arrays.items()}
    return next((lower[name + suffix.lower()] for name in names if name + suffix.lower() in lower), None)
