"""Tokens of answers -> text.

    words         {"type": "words", "joiner": " ", "vocabulary": ["<pad>", "<unk>", "<s>", "</s>", ...]}
    others        the JSON of Hugging Face's library `tokenizers`

Numbers below SPECIAL are no text where the vocabulary is a list.
"""

import json
from collections.abc import Sequence
from typing import Any, Protocol

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


class FileVocabulary:
    """That of a tokenizer of the library `tokenizers`."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.size = tokenizer, int(tokenizer.get_vocab_size())

    def text(self, tokens: Sequence[int]) -> str:
        """As its decoder writes them; its special tokens are left out."""
        return str(self.tokenizer.decode(list(tokens)))

    def token(self, number: int) -> str:
        """As it is in the vocabulary."""
        return self.tokenizer.id_to_token(number) or ""


def list_file(words: Sequence[str], joiner: str) -> bytes:
    """The content of a file for these words, the special ones among them."""
    return json.dumps(
        {"type": WORDS, "joiner": joiner, "vocabulary": list(words)}, ensure_ascii=False
    ).encode()


def load_vocabulary(content: bytes, kind: str) -> Vocabulary:
    """The vocabulary of a file. Raises BrokenArchive for one that can't be read."""
    if kind == WORDS:
        try:
            config = json.loads(content)
            return ListVocabulary(config["vocabulary"], config["joiner"])
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenArchive(f"{FILE} is no vocabulary of {kind}: {error!r}") from error
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BrokenArchive(
            f"this model writes texts by {kind}, which needs the package tokenizers: "
            "pip install 'marina[text]', or tokenizers alone where only archives are served"
        ) from error
    try:
        return FileVocabulary(Tokenizer.from_buffer(content))
    except Exception as error:  # the library raises Exception itself
        raise BrokenArchive(f"the vocabulary can't be read by the package tokenizers: {error}") from error
