"""Words of a sentence as numbers of what they look like: the word itself, its beginning, its end, its shape.

tokenizer.json of a tagger says {"type": "features", "buckets"}. A word has FEATURES numbers, each of 2 to
buckets + 1 by CRC-32 (hashed features; Weinberger et al. 2009), so that there is no vocabulary and a word
that was never seen has its ending. Training and serving both go through `WordFeatures`.
"""

import json
import re
import zlib
from collections.abc import Sequence
from itertools import islice

import numpy as np

from ..protocol.errors import BrokenArchive
from .tokenization import TOKEN, UNKNOWN, Encoded, normalized

KIND = "features"
PREFIXES, SUFFIXES = (1, 2, 3), (1, 2, 3, 4)  # characters
FEATURES = 2 + len(PREFIXES) + len(SUFFIXES)
LONGEST_SHAPE = 12
RUNS = re.compile(r"(.)\1+")


class WordFeatures:
    """Words and marks of a text, or those that are given."""

    def __init__(self, buckets: int) -> None:
        if buckets < 1:
            raise ValueError(f"{buckets} buckets")
        self.buckets, self.size = buckets, buckets + 2

    @classmethod
    def from_file(cls, content: bytes) -> "WordFeatures":
        """Of an export. Raises BrokenArchive."""
        try:
            return cls(int(json.loads(content)["buckets"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenArchive(f"tokenizer.json has no buckets of features: {error!r}") from error

    def as_file(self) -> bytes:
        """The content of tokenizer.json."""
        return json.dumps({"type": KIND, "buckets": self.buckets}).encode()

    def encode(self, text: str, most: int) -> Encoded:
        """The features int64 [n, FEATURES] of the first `most` words of a text."""
        spans = [found.span() for found in islice(TOKEN.finditer(text), most + 1)]
        words = [text[slice(*span)] for span in spans[:most]]
        return Encoded(self.of(words), np.array(spans[:most], np.int64).reshape(-1, 2), len(spans) > most)

    def of(self, words: Sequence[str]) -> np.ndarray:
        """The features of these words: int64 [n, FEATURES]."""
        rows = [[self._number(*one) for one in enumerate(parts_of(word))] for word in words]
        return np.array(rows, np.int64).reshape(-1, FEATURES)

    def _number(self, place: int, part: str) -> int:
        found = zlib.crc32(f"{place}:{part}".encode("utf-8", "replace"))
        return UNKNOWN + 1 + found % self.buckets


def parts_of(word: str) -> list[str]:
    """The word in lower case, its shape, its beginnings and its ends."""
    plain = normalized(word[:100], True)
    starts = [plain[:size] for size in PREFIXES]
    ends = [plain[-size:] for size in SUFFIXES]
    return [plain, shape_of(word), *starts, *ends]


def shape_of(word: str) -> str:
    """Upper and lower case, digits and marks, repeated ones once: "Xx" for "Berlin", "d.d" for "3.14"."""
    letters = "".join(
        "X" if sign.isupper() else "x" if sign.isalpha() else "d" if sign.isdigit() else sign
        for sign in word[:100]
    )
    return RUNS.sub(r"\1", letters)[:LONGEST_SHAPE]
