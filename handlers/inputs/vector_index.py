"""Vectors with their ids and texts, searched exactly: every one is compared.

index.npy has unit vectors float32 [entries, dimension], index.json {"ids": [...], "texts": [...]}; they are
read without pickle.
"""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..protocol.errors import BrokenArchive

VECTORS, ENTRIES = "index.npy", "index.json"
MOST_ENTRIES = 100_000  # 50 ms a text on one core with 384 numbers each
DECIMALS = 6  # of a similarity: nearer ones are equal, and stand in the order of the index
PART = 16  # texts that are compared at once, so that their similarities stay small


@dataclass(frozen=True)
class VectorIndex:
    """Entries that a text's nearest ones are taken from."""

    vectors: np.ndarray
    ids: list[str]
    texts: list[str]

    @classmethod
    def from_files(cls, vectors: bytes, entries: bytes, dimension: int) -> "VectorIndex":
        """Of an export. Raises BrokenArchive for files that don't belong together."""
        try:
            table = np.load(io.BytesIO(vectors), allow_pickle=False)
            content = json.loads(entries)
            ids, texts = content["ids"], content["texts"]
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise BrokenArchive(f"{VECTORS} or {ENTRIES} can't be read: {error!r}") from error
        if table.dtype != np.float32 or table.shape != (len(ids), dimension) or len(ids) != len(texts):
            raise BrokenArchive(
                f"{VECTORS} has {table.dtype} {list(table.shape)}, {ENTRIES} {len(ids)} ids and {len(texts)} "
                f"texts; wanted are float32 [{len(ids)}, {dimension}] and as many of each"
            )
        return cls(table, ids, texts)

    def as_files(self) -> dict[str, bytes]:
        """The files of an export."""
        buffer = io.BytesIO()
        np.save(buffer, self.vectors, allow_pickle=False)
        content = json.dumps({"ids": self.ids, "texts": self.texts}, ensure_ascii=False)
        return {VECTORS: buffer.getvalue(), ENTRIES: content.encode()}

    def nearest(self, vectors: np.ndarray, counts: list[int]) -> list[list[dict[str, Any]]]:
        """For each of the unit vectors float32 [B, dimension] its `counts` nearest entries, by cosine."""
        found = []
        for start in range(0, len(vectors), PART):
            similarities = vectors[start : start + PART] @ self.vectors.T
            for row, count in zip(similarities, counts[start : start + PART], strict=True):
                found.append([self._entry(*one) for one in highest(row, count)])
        return found

    def _entry(self, place: int, similarity: float) -> dict[str, Any]:
        return {"id": self.ids[place], "text": self.texts[place], "similarity": similarity}


def highest(similarities: np.ndarray, count: int) -> list[tuple[int, float]]:
    """(place, similarity) of the `count` highest of float32 [N], equal ones by place."""
    rounded = np.round(similarities.astype(np.float64), DECIMALS)
    count = min(count, len(rounded))
    least = np.partition(rounded, len(rounded) - count)[len(rounded) - count]
    places = np.flatnonzero(rounded >= least)
    order = places[np.argsort(-rounded[places], kind="stable")][:count]
    return list(zip(order.tolist(), rounded[order].tolist(), strict=True))
