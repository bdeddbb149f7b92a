"""Labeled texts in three splits: checked as serving checks them, copies kept together."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from handlers.inputs.texts import TextLimits, fault_of
from marina.core import paths
from marina.core.errors import CallError
from training.data.class_order import class_order
from training.data.copies import SPLITS as SPLIT_NAMES
from training.data.near_texts import Groups, near_groups
from training.data.picture_files import SPLITS
from training.data.split_data import SplitData, owners
from training.data.splits import ALL, report_copies, rows_to_measure, split_rows
from training.data.text_rows import Rows, TextRow, read_rows
from training.data.translations import PREFIX, about_translations, read_translations
from training.findings import Findings

LEAST = 5  # texts of a class


@dataclass(frozen=True)
class Text:
    """One text with the indices of its labels, and where it stands."""

    text: str
    labels: tuple[int, ...]
    place: str


@dataclass(frozen=True, kw_only=True)
class TextData(SplitData[Text]):
    """Texts in three splits, and the names of their classes."""

    classes: tuple[str, ...]
    has_several: bool  # whether a text may have several labels, or none

    def content(self, one: Text) -> bytes:
        """Its labels and characters."""
        return f"{one.labels}\0{one.text}\0".encode()


@dataclass(frozen=True)
class Reading:
    """How files are read."""

    encoding: str = "utf-8"
    separator: str | None = None  # between the labels of a text
    limits: TextLimits = field(default_factory=TextLimits)


def load_texts(data: str, seed: int, findings: Findings, reading: Reading) -> TextData:
    """The texts of a file or folder, see `text_rows`, or of a package, see `translations`.

    What serving would refuse is left out, as is a text without a label where each has exactly one, and goes
    to the `findings`. Splits that the data lacks are drawn by `seed`, 15 % each, class by class; copies and
    near copies stay together, and are found in splits that are given. Raises CallError for what is no such
    data, for fewer than two classes, and for a split without texts.
    """
    place = paths.expanded(data)
    with findings.reported():
        rows, has_several = _rows(data, reading, findings)
        sound = sound_rows(rows, has_several, reading.limits, findings)
        _check_labels(place, sound, has_several)
        groups = near_groups([row.text for row in sound])
        near = groups_by_place(sound, groups)
        groups.join_equal([row.group for row in sound])
        splits, words = split_rows(sound, groups_by_place(sound, groups), seed, place, "texts")
        report_copies(splits, near, lambda row: set(row.labels), "texts", findings, are_near=True)
        learned = [name for row in splits["train"] for name in row.labels]
        classes = class_order(learned)
        _check_splits(place, splits, classes)
        index = {name: number for number, name in enumerate(classes)}
        labeled = {split: [_text(row, index) for row in splits[split]] for split in SPLIT_NAMES}
    origin = about_translations(data) if data.startswith(PREFIX) else owners(place.name)
    return TextData(**labeled, splits=words, origin=origin, classes=classes, has_several=has_several)


def held_out_texts(
    data: str,
    seed: int,
    findings: Findings,
    reading: Reading,
    classes: Sequence[str],
    has_several: bool,
    is_foreign: bool,
) -> list[Text]:
    """The texts to measure a model of these `classes` on: the test split of what it learned from, or of data
    that `is_foreign` the split of that name, else all of it. Raises CallError for a label that it lacks.
    """
    if not is_foreign:
        return list(load_texts(data, seed, findings, reading).test)
    place = paths.expanded(data)
    with findings.reported():
        rows, _ = _rows(data, reading, findings)
        sound = sound_rows(rows, has_several, reading.limits, findings)
    chosen = rows_to_measure(sound)
    if unknown := sorted({name for row in chosen for name in row.labels} - set(classes)):
        raise CallError(
            f"{place} has the label(s) {', '.join(unknown[:5])}; the model knows {', '.join(classes[:5])}"
        )
    if not chosen:
        raise CallError(f"{place} has no texts to measure with")
    index = {name: number for number, name in enumerate(classes)}
    return [_text(row, index) for row in chosen]


def _rows(data: str, reading: Reading, findings: Findings) -> Rows:
    if data.startswith(PREFIX):
        return Rows(read_translations(data, findings), False)
    return read_rows(paths.expanded(data), reading.encoding, reading.separator, findings)


def _text(row: TextRow, index: Mapping[str, int]) -> Text:
    return Text(row.text, tuple(index[name] for name in row.labels), row.place)


def sound_rows(
    rows: Sequence[TextRow], has_several: bool, limits: TextLimits, findings: Findings
) -> list[TextRow]:
    """The rows that can be learned from."""
    faults: dict[str, list[str]] = defaultdict(list)
    kept = []
    for row in rows:
        fault = fault_of(row.text, limits)
        if not fault and not has_several and len(row.labels) != 1:
            fault = "no label"
        if not fault and row.split and row.split.lower() not in SPLITS:
            fault = "an unknown split"
        if fault:
            faults[fault].append(row.place)
        else:
            kept.append(row._replace(split=SPLITS.get(row.split.lower(), ALL)))
    for fault, places in faults.items():
        findings.add("texts", f"left out: {fault}", places, len(rows))
    return kept


def groups_by_place(rows: Sequence[TextRow], groups: Groups) -> dict[str, int]:
    """Place of a row -> number of its group."""
    return {row.place: groups.first(number) for number, row in enumerate(rows)}


def _check_labels(place: Path, rows: Sequence[TextRow], has_several: bool) -> None:
    """Raise CallError for too few labels, and for one with too few texts."""
    counts = Counter(name for row in rows for name in row.labels)
    if len(counts) < (1 if has_several else 2):
        raise CallError(f"{place} has the labels {', '.join(counts) or 'none'}; two at least are needed")
    name, count = min(counts.items(), key=lambda item: item[1])
    if count < LEAST:
        raise CallError(
            f"{place}: the label {name!r} has {count} text(s); {LEAST} at least are needed, some dozens make "
            "sense"
        )


def _check_splits(place: Path, splits: Mapping[str, Sequence[TextRow]], classes: Sequence[str]) -> None:
    """Raise CallError for splits that can't be measured on."""
    for split in SPLIT_NAMES:
        if not splits[split]:
            raise CallError(f"{place}: no text is left for {split}; add some")
        if unknown := sorted({name for row in splits[split] for name in row.labels} - set(classes)):
            raise CallError(
                f"{place}: {split} has the label(s) {', '.join(unknown[:5])} that train has no text of; add "
                "some or take them out"
            )
