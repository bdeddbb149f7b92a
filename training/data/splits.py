"""Splits of labeled rows: as the data has them, or drawn by a seed, class by class, what belongs together in
one of them.
"""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from marina.core.errors import CallError
from training.data.copies import SPLITS, grouped, take
from training.data.labeled_files import TEST_SHARE, VALIDATION_SHARE
from training.findings import Findings

ALL = "all"  # the split of rows that come without one


class Row(Protocol):
    """What is split: where it stands, the split that the data says, and what it is taken evenly by."""

    @property
    def place(self) -> str:
        """No other row has it."""

    @property
    def split(self) -> str:
        """train, validation, test or ALL."""

    @property
    def stratum(self) -> Hashable:
        """Its class."""


R = TypeVar("R", bound=Row)


def split_rows(
    rows: Sequence[R], groups: Mapping[str, int], seed: int, place: Path | str, things: str
) -> tuple[dict[str, list[R]], str]:
    """Split -> rows, and in words where they come from; `groups` are numbers of what belongs together, by
    the rows' places. Raises CallError where some `things` name a split and others don't.
    """
    splits: dict[str, list[R]] = {name: [] for name in SPLITS}
    given = {row.split for row in rows}
    if given <= {ALL}:
        rest, splits["test"] = _parted(rows, groups, TEST_SHARE, seed)
        share = VALIDATION_SHARE / (1 - TEST_SHARE)
        splits["train"], splits["validation"] = _parted(rest, groups, share, seed + 1)
        return splits, f"drawn with seed {seed}, {TEST_SHARE:.0%} each, copies together"
    if ALL in given:
        raise CallError(f"{place}: some {things} name a split, others don't; name it for all, or for none")
    for row in rows:
        splits[row.split].append(row)
    if not splits["test"]:
        splits["test"], splits["validation"] = splits["validation"], []
    if splits["validation"]:
        return splits, "as the source has them"
    splits["train"], splits["validation"] = _parted(splits["train"], groups, VALIDATION_SHARE, seed)
    return splits, f"validation drawn from train with seed {seed}, {VALIDATION_SHARE:.0%}, copies together"


def rows_to_measure(rows: Sequence[R]) -> list[R]:
    """Those that a model is measured on which learned from other data: the split test, else validation, else
    what names none, else train.
    """
    given = {row.split for row in rows}
    split = next((name for name in ("test", "validation", ALL, "train") if name in given), ALL)
    return [row for row in rows if row.split == split]


def report_copies(
    splits: Mapping[str, Sequence[R]],
    groups: Mapping[str, int],
    label_of: Callable[[R], object],
    things: str,
    findings: Findings,
    are_near: bool = False,
) -> None:
    """Findings on `things` that are equal, or nearly, by the numbers of their groups: at all, in two splits,
    under other labels.
    """
    placed = [(split, row) for split in SPLITS for row in splits[split]]
    repeated, contradicting = [], []
    leaked: dict[str, list[str]] = {split: [] for split in SPLITS}
    for group in grouped(placed, lambda one: groups[one[1].place]):
        (first_split, first), *others = group
        for split, row in others:
            pair = f"{row.place} {'~' if are_near else '='} {first.place}"
            repeated.append(pair)
            if split != first_split:
                leaked[split].append(pair)
            if label_of(row) != label_of(first):
                contradicting.append(pair)
    copies, proves = ("copies or near copies", "little") if are_near else ("copies", "nothing")
    findings.add(things, f"are {copies} of another one", repeated, len(placed))
    for split in SPLITS[1:]:
        happened = f"have {copies} in an earlier split: what is measured on them proves {proves}"
        findings.add(f"{things} of {split}", happened, leaked[split], len(splits[split]))
    findings.add(things, f"have {copies} with another label", contradicting, len(placed))


def _parted(rows: Sequence[R], groups: Mapping[str, int], share: float, seed: int) -> tuple[list[R], list[R]]:
    """(the rest, about `share` of the rows of each class); groups stay whole, rows in their order."""
    together = grouped(rows, lambda row: groups[row.place])
    random.Random(seed).shuffle(together)
    taken: set[str] = set()
    for of_class in grouped(together, lambda group: group[0].stratum):
        count = max(1, round(share * sum(map(len, of_class))))
        taken |= {row.place for row in take(of_class, count)[0]}
    return [row for row in rows if row.place not in taken], [row for row in rows if row.place in taken]
