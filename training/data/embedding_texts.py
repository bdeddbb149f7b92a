"""Texts to embed, in three splits, each with the group of texts that belong together: pairs, groups of the
user's own, texts of one label, or near copies.

What belongs together is learned from (`training.recipes.embedder`) and must be found again
(`training.text.retrieval`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handlers.inputs.texts import fault_of
from marina.core import paths
from marina.core.errors import CallError
from training.data.copies import SPLITS as SPLIT_NAMES
from training.data.near_texts import near_groups
from training.data.split_data import SplitData, owners
from training.data.splits import rows_to_measure, split_rows
from training.data.text_rows import TextRow, read_rows
from training.data.texts import Reading, groups_by_place, sound_rows
from training.findings import Findings

Relevance = Literal["auto", "pairs", "groups", "labels", "near_copies"]


@dataclass(frozen=True)
class Entry:
    """One text, the group of those that belong to it (empty where none does), its id, and where it stands."""

    text: str
    group: str
    name: str
    place: str


@dataclass(frozen=True, kw_only=True)
class EmbeddingData(SplitData[Entry]):
    """Texts in three splits, and what makes a group of them."""

    relevance: str

    def content(self, one: Entry) -> bytes:
        """Its group and characters."""
        return f"{one.group}\0{one.text}\0".encode()

    def about(self) -> dict[str, Any]:
        """Also what makes a group."""
        return {**super().about(), "relevance": self.relevance}


def load_entries(
    data: str, seed: int, findings: Findings, reading: Reading, relevance: Relevance
) -> EmbeddingData:
    """The texts of a file or folder, see `text_rows`; labels may be missing.

    Pairs, groups and near copies never cross a split that is drawn by `seed`, 15 % each. What serving would
    refuse is left out, and goes to the `findings`. Raises CallError for what is no such data, and for a split
    without texts.
    """
    place = paths.expanded(data)
    with findings.reported():
        rows, kind = _grouped(_sound(data, reading, findings), relevance, data)
        groups = near_groups([row.text for row in rows])
        if kind == "near_copies":
            rows = [row._replace(group=f"copy {groups.first(number)}") for number, row in enumerate(rows)]
        elif kind != "labels":
            groups.join_equal([row.group for row in rows])
        splits, words = split_rows(rows, groups_by_place(rows, groups), seed, place, "texts")
    if empty := [split for split in SPLIT_NAMES if not splits[split]]:
        raise CallError(f"{place}: no text is left for {empty[0]}; add some")
    return EmbeddingData(
        relevance=kind,
        **{split: _entries(splits[split]) for split in SPLIT_NAMES},
        splits=words,
        origin=owners(place.name),
    )


def held_out_entries(
    data: str, seed: int, findings: Findings, reading: Reading, relevance: Relevance, is_foreign: bool
) -> list[Entry]:
    """The texts to measure on: the test split of what was learned from; of data that `is_foreign` the split
    of that name, else all of it.
    """
    if not is_foreign:
        return list(load_entries(data, seed, findings, reading, relevance).test)
    with findings.reported():
        rows, kind = _grouped(_sound(data, reading, findings), relevance, data)
    rows = rows_to_measure(rows)
    if kind == "near_copies":
        groups = near_groups([row.text for row in rows])
        rows = [row._replace(group=f"copy {groups.first(number)}") for number, row in enumerate(rows)]
    return _entries(rows)


def all_entries(data: str, findings: Findings, reading: Reading) -> list[Entry]:
    """Every text of a file or folder, whatever its split: the entries of an index."""
    with findings.reported():
        return _entries(_sound(data, reading, findings))


def relevant_counts(entries: Sequence[Entry]) -> list[int]:
    """How many others belong to each."""
    counts = Counter(one.group for one in entries if one.group)
    return [counts[one.group] - 1 if one.group else 0 for one in entries]


def _sound(data: str, reading: Reading, findings: Findings) -> list[TextRow]:
    place = paths.expanded(data)
    found = read_rows(place, reading.encoding, reading.separator, findings, needs_label=False)
    rows = sound_rows(found.rows, True, reading.limits, findings)
    if not rows:
        raise CallError(f"{place} has no texts")
    broken = [row.place for row in rows if row.positive and fault_of(row.positive, reading.limits)]
    findings.add("second texts", "left out: they would be refused as requests", broken, len(rows))
    lost = set(broken)
    return [row._replace(positive="") if row.place in lost else row for row in rows]


def _grouped(rows: list[TextRow], relevance: Relevance, data: str) -> tuple[list[TextRow], str]:
    """The rows with the group that each belongs to, pairs as two rows; and what makes a group."""
    has: Mapping[str, bool] = {
        "pairs": any(row.positive for row in rows),
        "groups": any(row.group for row in rows),
        "labels": any(row.labels for row in rows),
        "near_copies": True,
    }
    kind = next(name for name in has if has[name]) if relevance == "auto" else relevance
    if not has[kind]:
        column = {"pairs": "positive", "groups": "group", "labels": "label"}[kind]
        raise CallError(f"relevance: {kind}: {data} has no column {column!r}")
    if kind == "pairs":
        return [part for row in rows for part in _pair(row)], kind
    if kind == "labels":
        return [row._replace(group=", ".join(row.labels)) for row in rows], kind
    return rows, kind


def _pair(row: TextRow) -> list[TextRow]:
    if not row.positive:
        return [row._replace(group="")]
    group = f"pair {row.place}"
    second = row._replace(text=row.positive, group=group, positive="", place=f"{row.place}, second", name="")
    return [row._replace(group=group), second]


def _entries(rows: Sequence[TextRow]) -> list[Entry]:
    return [Entry(row.text, row.group, row.name or row.place, row.place) for row in rows]
