"""Byte-equal copies of pictures: kept in one split where the split is made here, and reported.

A copy in the test of what was learned proves nothing; a copy under another label contradicts itself. Not
covered: copies that were resized, recompressed or changed.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from training.data import Example, ImageData
from training.data.inspection import Inspected, digest_of
from training.findings import Findings, inside

T = TypeVar("T")
SPLITS = ("train", "validation", "test")
Placed = tuple[str, int, Example]  # split, row there, example


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Items of one key together, in the order of their first ones."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def take(groups: Sequence[Sequence[T]], count: int) -> tuple[list[T], list[T]]:
    """(`count` items of the first groups that fit, one group at least; the rest). Groups stay whole."""
    taken: list[T] = []
    rest: list[list[T]] = []
    for group in groups:
        if len(taken) + len(group) <= count:
            taken += group
        else:
            rest.append(list(group))
    if count and not taken and len(rest) > 1:
        smallest = min(rest, key=len)
        rest.remove(smallest)
        taken += smallest
    return taken, [item for group in rest for item in group]


def report_copies(
    data: ImageData,
    inspected: Mapping[Any, Inspected],
    folder: Path,
    findings: Findings,
    things: str = "pictures",
) -> None:
    """Findings on `things` that occur more than once in `data`: at all, in two splits, under two labels."""
    copies = _Copies(data, inspected, folder)
    groups = [group for group in grouped(copies.all, copies.digest) if len(group) > 1]
    repeated, contradicting = [], []
    for group in groups:
        repeated += [copies.pair(group[0], one) for one in group[1:]]
        if len({_label(example) for _, _, example in group}) > 1:
            contradicting.append(copies.pair(*group[:2]))
    total = len(copies.all)
    findings.add(things, "are byte-equal copies of another one", repeated, total)
    for split in SPLITS[1:]:
        learned = SPLITS[: SPLITS.index(split)]
        leaked = []
        for group in groups:
            earlier = [one for one in group if one[0] in learned]
            leaked += [copies.pair(one, earlier[0]) for one in group if earlier and one[0] == split]
        happened = f"are in {' or '.join(learned)} too: what is measured on them proves nothing"
        findings.add(f"{things} of {split}", happened, leaked, len(getattr(data, split)))
    findings.add(things, "have copies with another label", contradicting, total)


@dataclass(frozen=True)
class _Copies:
    data: ImageData
    inspected: Mapping[Any, Inspected]
    folder: Path

    @cached_property
    def all(self) -> list[Placed]:
        """(split, row, example) of every example."""
        splits = [(split, getattr(self.data, split)) for split in SPLITS]
        return [(split, row, one) for split, examples in splits for row, one in enumerate(examples)]

    def digest(self, placed: Placed) -> bytes:
        """What copies share."""
        image = placed[2].image
        if not isinstance(image, np.ndarray):
            return self.inspected[image].digest
        return digest_of(repr(image.shape).encode() + placed[2].content())

    def pair(self, one: Placed, other: Placed) -> str:
        """Two of them, as an example of a finding."""
        return f"{self._name(one)} = {self._name(other)}"

    def _name(self, placed: Placed) -> str:
        split, row, example = placed
        return inside(example.file, self.folder) if example.file else f"{split} {row}"


def _label(example: Example) -> Hashable:
    return example.label, example.boxes.tobytes(), example.labels.tobytes()
