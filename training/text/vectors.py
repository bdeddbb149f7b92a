"""Pretrained vectors of words: text files as GloVe (Pennington et al. 2014) and fastText write them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from marina.core import paths
from marina.core.errors import CallError
from training.data.text_files import UNREADABLE, opened
from training.findings import Findings

SPREAD = 0.1  # deviation of the vectors of words that the file doesn't have


def vectors_of(name: str, words: Sequence[str], seed: int, findings: Findings) -> np.ndarray:
    """The vectors of `words` float32 [words, width], those that the file `name` lacks drawn; the first word
    is padding, all zeros.

    Each line is a word and its numbers; a first line of two numbers (count and width) is skipped. What is
    missing goes to the findings. Raises CallError for a file that is none, or has none of the words.
    """
    path = paths.expanded(name)
    if not path.is_file():
        raise CallError(f"vectors {name!r}: no such file")
    places = {word: row for row, word in enumerate(words)}
    found: dict[int, np.ndarray] = {}
    width = 0
    try:
        with io.TextIOWrapper(opened(path), "utf-8") as file:
            for number, line in enumerate(file, 1):
                word, _, rest = line.rstrip("\r\n ").partition(" ")
                if number == 1 and len(rest.split()) < 2:
                    continue  # fastText's count and width
                width = width or len(rest.split())
                if (row := places.get(word)) is not None:
                    found[row] = _numbers(path, number, rest, width)
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise CallError(f"vectors {path} can't be read: {error}") from error
    if not found:
        raise CallError(
            f"vectors {path} has none of the {len(words):,} words of the training texts; it must have a word "
            "and its numbers on each line"
        )
    missing = [word for row, word in enumerate(words[2:], 2) if row not in found]
    findings.add(
        "words", f"have no vector in {path.name} and begin with a drawn one", missing, len(words) - 2
    )
    table = np.random.default_rng(seed).normal(0, SPREAD, (len(words), width)).astype(np.float32)
    table[0] = 0
    for row, vector in found.items():
        table[row] = vector
    return table


def _numbers(path: Path, number: int, rest: str, width: int) -> np.ndarray:
    try:
        vector = np.array(rest.split(), np.float32)
    except ValueError as error:
        raise CallError(f"vectors {path}, line {number}: {error}") from error
    if len(vector) != width or not np.isfinite(vector).all():
        raise CallError(
            f"vectors {path}, line {number}: {len(vector)} finite numbers wanted, {width} in each line"
        )
    return vector
