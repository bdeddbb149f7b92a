"""A data set of examples in three splits, and what the export's metadata says of it."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from training.data.copies import SPLITS

Labeled = TypeVar("Labeled")


@dataclass(frozen=True, kw_only=True)
class SplitData(Generic[Labeled]):
    """Examples in three splits. `test` is used to measure the floor, and only for that."""

    train: Sequence[Labeled]
    validation: Sequence[Labeled]
    test: Sequence[Labeled]
    splits: str  # how they came about
    origin: Mapping[str, str]  # name, source, licence

    @abstractmethod
    def content(self, one: Labeled) -> bytes:
        """What the fingerprint holds of an example."""

    def about(self) -> dict[str, Any]:
        """Name, counts and fingerprint, for the export's metadata."""
        digest, counts = hashlib.sha256(), {}
        for name in SPLITS:
            examples = getattr(self, name)
            counts[name] = len(examples)
            for one in examples:
                digest.update(self.content(one))
        return {**self.origin, **counts, "splits": self.splits, "fingerprint": digest.hexdigest()}


def owners(name: str) -> dict[str, str]:
    """The origin of a user's own data."""
    return {"name": name, "source": "the owner's", "licence": "the owner's"}
