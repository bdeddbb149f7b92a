"""Labeled signals in three splits: checked as serving checks them, copies and groups kept together."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from handlers.inputs.signals import SignalInput
from handlers.protocol.errors import RequestError
from marina.core.errors import CallError
from training.data.class_order import class_order
from training.data.copies import SPLITS as SPLIT_NAMES
from training.data.near_texts import Groups
from training.data.picture_files import SPLITS
from training.data.signal_files import RawSignals
from training.data.signal_tables import RawSignal
from training.data.split_data import SplitData
from training.data.splits import ALL, report_copies, rows_to_measure, split_rows
from training.findings import Findings

LEAST = 5  # signals of a class


@dataclass(frozen=True)
class Signal:
    """Steps float32 [T, C], the index of the class, and where it stands."""

    values: np.ndarray
    label: int
    place: str


@dataclass(frozen=True, kw_only=True)
class SignalData(SplitData[Signal]):
    """Signals in three splits, and the names of their classes."""

    classes: tuple[str, ...]

    def content(self, one: Signal) -> bytes:
        """Its class, shape and values."""
        return f"{one.label}\0{one.values.shape}\0".encode() + one.values.tobytes()


class _Row(NamedTuple):
    """A signal that can be learned from, its split, where it stands, and its class."""

    raw: RawSignal
    split: str
    place: str
    stratum: str


def steps_of(raw: RawSignals) -> tuple[int, int]:
    """The fewest and the most steps of the signals that could be read. Raises CallError for none."""
    lengths = [len(one.values) for one in raw.signals if not one.fault and len(one.values)]
    if not lengths:
        faults = [f"; {one.place}: {one.fault}" for one in raw.signals if one.fault]
        raise CallError(f"none of {len(raw.signals):,} signals can be read{faults[0] if faults else ''}")
    return min(lengths), max(lengths)


def split_signals(raw: RawSignals, signals: SignalInput, seed: int, findings: Findings) -> SignalData:
    """The signals that serving would take, in splits.

    What it would refuse is left out and goes to the `findings`, as do copies. Splits that the data lacks are
    drawn by `seed`, 15 % each, class by class. Raises CallError for fewer than two classes, for one of too
    few signals, and for a split without signals.
    """
    place = raw.origin["name"]
    rows = _sound(raw, signals, findings)
    _check_labels(place, rows)
    groups = Groups(len(rows))
    groups.join_equal([hashlib.sha256(_content(row)).hexdigest() for row in rows])
    copies = {row.place: groups.first(number) for number, row in enumerate(rows)}
    groups.join_equal([row.raw.group for row in rows])
    together = {row.place: groups.first(number) for number, row in enumerate(rows)}
    splits, words = split_rows(rows, together, seed, place, "signals")
    report_copies(splits, copies, lambda row: row.raw.label, "signals", findings)
    classes = class_order(row.raw.label for row in splits["train"])
    _check_splits(place, splits, classes)
    labeled = {name: _signals(splits[name], classes) for name in SPLIT_NAMES}
    return SignalData(**labeled, splits=words, origin=raw.origin, classes=classes)


def foreign_signals(
    raw: RawSignals, signals: SignalInput, classes: Sequence[str], findings: Findings
) -> list[Signal]:
    """Signals to measure a model of these `classes` on, of data that it didn't learn from: the split test,
    else all of it. Raises CallError for a label that it lacks, and for no signals.
    """
    place = raw.origin["name"]
    rows = _sound(raw, signals, findings)
    rows = rows_to_measure(rows)
    if unknown := sorted({row.raw.label for row in rows} - set(classes)):
        raise CallError(
            f"{place} has the label(s) {', '.join(unknown[:5])}; the model knows {', '.join(classes[:5])}"
        )
    if not rows:
        raise CallError(f"{place} has no signals to measure with")
    return _signals(rows, classes)


def _sound(raw: RawSignals, signals: SignalInput, findings: Findings) -> list[_Row]:
    """The signals without a fault."""
    faults: dict[str, list[str]] = defaultdict(list)
    kept = []
    for one in raw.signals:
        fault, detail = _fault_of(one, signals)
        if fault:
            faults[fault].append(f"{one.place}: {detail}" if detail else one.place)
        else:
            kept.append(_Row(one, SPLITS[one.split.lower()] if one.split else ALL, one.place, one.label))
    for fault, places in faults.items():
        findings.add("signals", f"left out: {fault}", places, len(raw.signals))
    return kept


def _fault_of(one: RawSignal, signals: SignalInput) -> tuple[str, str]:
    """The kind of what is wrong with a signal, and what; empty for one that serving takes."""
    if one.fault:
        return "can't be read", one.fault
    if not one.label:
        return "no label", ""
    if one.split and one.split.lower() not in SPLITS:
        return "an unknown split", one.split
    try:
        signals.read(one.values)
    except RequestError as refusal:
        return "serving would refuse it", str(refusal)
    return "", ""


def _content(row: _Row) -> bytes:
    return f"{row.raw.values.shape}".encode() + row.raw.values.tobytes()


def _signals(rows: Sequence[_Row], classes: Sequence[str]) -> list[Signal]:
    index = {name: number for number, name in enumerate(classes)}
    return [Signal(row.raw.values, index[row.raw.label], row.place) for row in rows]


def _check_labels(place: str, rows: Sequence[_Row]) -> None:
    """Raise CallError for too few labels, and for one with too few signals."""
    counts = Counter(row.raw.label for row in rows)
    if len(counts) < 2:
        raise CallError(f"{place} has the labels {', '.join(counts) or 'none'}; two at least are needed")
    name, count = min(counts.items(), key=lambda item: item[1])
    if count < LEAST:
        raise CallError(f"{place}: the label {name!r} has {count} signal(s); {LEAST} at least are needed")


def _check_splits(place: str, splits: Mapping[str, Sequence[_Row]], classes: Sequence[str]) -> None:
    """Raise CallError for splits that can't be measured on."""
    for split in SPLIT_NAMES:
        if not splits[split]:
            raise CallError(f"{place}: no signal is left for {split}; add some")
        if unknown := sorted({row.raw.label for row in splits[split]} - set(classes)):
            raise CallError(
                f"{place}: {split} has the label(s) {', '.join(unknown[:5])} that train has no signal of; "
                "add some or take them out"
            )
