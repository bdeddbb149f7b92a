"""Tokens of answers -> text, by the file target.json:

    {"type": "words", "joiner": " ", "vocabulary": ["<pad>", "<unk>", "<s>", "</s>", ...]}

The special tokens in front are no text.
"""

import json
from collections.abc import Sequence
from typing import Protocol

from ..inputs.tokenization import SPECIAL as UNWRITTEN
from ..protocol.errors import BrokenArchive

FILE = "target.json"
WORDS = "words"
SPECIAL = (*UNWRITTEN, "<s>", "</s>")  # by number
BEGIN, END = 2, 3


class Vocabulary(Protocol):
    """What makes text of tokens."""

    size: int

    def text(self, tokens: Sequence[int]) -> str:
        """The text of these tokens."""

    def token(self, number: int) -> str:
        """One token, as a table shows it."""


class ListVocabulary:
    """Words, phonemes or characters in a list, with `joiner` between them."""

    def __init__(self, words: Sequence[str], joiner: str) -> None:
        if tuple(words[: len(SPECIAL)]) != SPECIAL:
            raise ValueError(f"a vocabulary of answers begins with {', '.join(SPECIAL)}")
        self.words, self.joiner, self.size = list(words), joiner, len(words)

    def text(self, tokens: Sequence[int]) -> str:
        """Without the special ones."""
        return self.joiner.join(self.words[one] for one in tokens if one >= len(SPECIAL))

    def token(self, number: int) -> str:
        """One of them, special or not."""
        return self.words[number]


def list_file(words: Sequence[str], joiner: str) -> bytes:
    """The content of a file for these words, the special ones among them."""
    return json.dumps(
        {"type": WORDS, "joiner": joiner, "vocabulary": list(words)}, ensure_ascii=False
    ).encode()


def load_vocabulary(content: bytes) -> Vocabulary:
    """The vocabulary of a file. Raises BrokenArchive for one that can't be read."""
    try:
        config = json.loads(content)
        return ListVocabulary(config["vocabulary"], config["joiner"])
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenArchive(f"{FILE} is no vocabulary of {WORDS}: {error!r}") from error
