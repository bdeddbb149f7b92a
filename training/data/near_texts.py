"""Texts that are nearly the same, found without comparing each with each.

A text is the set of its runs of SHINGLE words, in lower case and with every digit alike. Of two texts the
share of runs that they have in common (Jaccard) is estimated by MinHash (Broder 1997), candidates are found
by bands of it (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4), and counted exactly.
"""

import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

SHINGLE = 4  # words
BANDS, ROWS = 16, 4  # a pair that has 7 of 10 runs in common is a candidate with probability 0.988
LEAST_COMMON = 0.7
KEPT = 1000  # of a text: those with the smallest hashes
WORD = re.compile(r"\w+")
DIGIT = re.compile(r"\d")


class Groups:
    """Which of `count` rows belong together (disjoint sets); a group is named by its first row."""

    def __init__(self, count: int) -> None:
        self._parents = [*range(count)]

    def first(self, row: int) -> int:
        """The first row of the group that `row` is in."""
        parents = self._parents
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    def join(self, one: int, other: int) -> None:
        """Make one group of those of two rows."""
        first, second = sorted((self.first(one), self.first(other)))
        self._parents[second] = first

    def join_equal(self, keys: Sequence[str]) -> None:
        """Join the rows that have the same key; empty ones are none."""
        firsts: dict[str, int] = {}
        for row, key in enumerate(keys):
            if key:
                self.join(firsts.setdefault(key, row), row)


def near_groups(texts: Sequence[str]) -> Groups:
    """Texts that are equal or near to each other, directly or through others."""
    sets = [_shingles(text) for text in texts]
    groups = Groups(len(texts))
    for one, other in _candidates(sets):
        if groups.first(one) != groups.first(other) and _common(sets[one], sets[other]) >= LEAST_COMMON:
            groups.join(one, other)
    return groups


def _shingles(text: str) -> np.ndarray:
    """The hashes of a text's runs of words, sorted, each once: uint32 [n]."""
    words = WORD.findall(DIGIT.sub("0", text.lower())) or [text]
    runs = {" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))}
    hashes = np.fromiter((zlib.crc32(run.encode("utf-8", "replace")) for run in runs), np.uint32)
    return np.unique(hashes)[:KEPT]


def _candidates(sets: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs of rows that share a band of their hashes: each row with the first one of its band."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 1 << 63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    firsts: dict[tuple[int, bytes], int] = {}
    equal: dict[bytes, int] = {}
    for row, hashes in enumerate(sets):
        same = equal.setdefault(hashes.tobytes(), row)
        if same != row:
            yield same, row
            continue
        # multiply-shift (Dietzfelbinger et al. 1997): the upper half of the product, which may overflow
        products = (hashes.astype(np.uint64)[:, None] * factors) >> np.uint64(32)
        bands = products.min(0).reshape(BANDS, ROWS)
        found = [firsts.setdefault((band, part.tobytes()), row) for band, part in enumerate(bands)]
        for other in dict.fromkeys(found):
            if other != row:
                yield other, row


def _common(one: np.ndarray, other: np.ndarray) -> float:
    """The share of runs that two texts have in common, of all that they have."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
