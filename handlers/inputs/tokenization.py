"""Texts -> tokens: the numbers that a graph takes, and where in the text each of them lies.

Two forms, both in the file tokenizer.json of an export:

    words        {"type": "words", "lowercase", "vocabulary": ["<pad>", "<unk>", ...]}
    characters   the same with "sizes": [1, 3], the least and most characters of a token
    others       the JSON of Hugging Face's library `tokenizers` (BPE, WordPiece, Unigram)

Training and serving both go through `load_tokenizer`. Number 0 is padding and stands for no token of any
text, 1 is what the vocabulary doesn't have.
"""

import json
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, repeat
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from ..protocol.errors import BrokenArchive

FILE = "tokenizer.json"
PAD, UNKNOWN = 0, 1
SPECIAL = ("<pad>", "<unk>")  # by number
WORDS, CHARACTERS = "words", "characters"
MARKS = r"!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u2027\u2030-\u205e\u3001-\u303f\uff01-\uff0f\uff1a-\uff20"
IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces: each is a token
WORD = rf"[^\s{MARKS}{IDEOGRAPHS}]+"
TOKEN = re.compile(rf"{WORD}(?:['’]{WORD})*|\S")
SPACED = re.compile(r"\S+")
SPACES = re.compile(r"\s+")
CHARACTER = re.compile(r"\s+|\S")  # white space of any length is one
# characters that are read of a text: no word is as long, except of a script without spaces or of no language
LEAST_READ, READ_PER_TOKEN = 1000, 64

Made = TypeVar("Made")
Span = tuple[int, int]  # in a text: first character, and the one behind the last


class Encoded(NamedTuple):
    """The tokens of a text: int64 [n], the first and last character of each in the text (int64 [n, 2], the
    last one excluded), and whether the text has more of them.
    """

    ids: np.ndarray
    spans: np.ndarray
    truncated: bool


class Tokenizer(Protocol):
    """What makes tokens of texts."""

    size: int  # of the vocabulary

    def encode(self, text: str, most: int) -> Encoded:
        """The first `most` tokens of a text. Its time depends on `most`, not on the text's length."""

    def vocabulary(self) -> list[str]:
        """The tokens by number."""


class WordTokenizer:
    """Words and marks, each by its number in a list; `lowercase` ones where the list has them so.

    Characters that only look different (Unicode's NFKC) are the same.
    """

    def __init__(self, words: list[str], lowercase: bool) -> None:
        if tuple(words[:2]) != SPECIAL:
            raise ValueError(f"a vocabulary begins with {' and '.join(SPECIAL)}")
        self.words, self.lowercase = words, lowercase
        self.numbers = {word: number for number, word in enumerate(words[2:], 2)}
        self.size = len(words)

    def encode(self, text: str, most: int) -> Encoded:
        """The first `most` tokens of a text."""
        found = list(islice(self.spans(text), most + 1))
        kept = found[:most]
        words = (word_at(text, span, self.lowercase) for span in kept)
        return _encoded([self.numbers.get(word, UNKNOWN) for word in words], kept, len(found) > most)

    def spans(self, text: str) -> Iterator[Span]:
        """Where the tokens of a text are, one after the other."""
        return (found.span() for found in TOKEN.finditer(text))

    def vocabulary(self) -> list[str]:
        """The words by number."""
        return self.words


class CharacterTokenizer(WordTokenizer):
    """Runs of `least` to `most` characters (n-grams), from each character on, over the bounds of words."""

    def __init__(self, words: list[str], lowercase: bool, least: int, most: int) -> None:
        super().__init__(words, lowercase)
        if not 1 <= least <= most:
            raise ValueError(f"no run has {least} to {most} characters")
        self.sizes = (least, most)

    def spans(self, text: str) -> Iterator[Span]:
        """Where the runs are, by their beginning and then by their length."""
        return character_runs(text, *self.sizes)


class FileTokenizer:
    """A tokenizer of the library `tokenizers`, word by word: a text's beginning has the same tokens as in the
    whole text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # "<pad>" in a text is text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.size = int(tokenizer.get_vocab_size())

    def encode(self, text: str, most: int) -> Encoded:
        """The first `most` tokens of a text, of no more characters than `most` tokens ever have."""
        words, starts, is_cut = first_words(text, most + 1, LEAST_READ + READ_PER_TOKEN * most)
        if not words:
            return _encoded((), (), False)
        found = self.tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False)
        shifts = np.array([starts[word] for word in found.word_ids[:most]], np.int64)
        numbers = [number or UNKNOWN for number in found.ids[:most]]  # Unigram finds "<pad>" in its pieces
        encoded = _encoded(numbers, found.offsets[:most], is_cut or len(found.ids) > most)
        return encoded._replace(spans=encoded.spans + shifts[:, None])

    def vocabulary(self) -> list[str]:
        """The tokens by number."""
        return [self.tokenizer.id_to_token(number) or "" for number in range(self.size)]


def first_words(text: str, most: int, characters: int) -> tuple[list[str], list[int], bool]:
    """What stands between white space in a text, and where: at most so many words of so many characters
    together, and whether there is more.
    """
    words: list[str] = []
    starts: list[int] = []
    for found in SPACED.finditer(text):
        if len(words) == most or characters <= 0:
            return words, starts, True
        words.append(found[0][:characters])
        starts.append(found.start())
        characters -= len(found[0])
    return words, starts, characters < 0


def character_runs(text: str, least: int, most: int) -> Iterator[Span]:
    """Where all runs of `least` to `most` characters of a text are; white space of any length counts as one
    character, and at the ends of the text as none.
    """
    ahead: deque[Span] = deque()
    found = CHARACTER.finditer(text.rstrip(), len(text) - len(text.lstrip()))
    for one in chain((one.span() for one in found), repeat(None, most)):
        if one:
            ahead.append(one)
        if not one or len(ahead) == most:
            if not ahead:
                return
            for size in range(least, len(ahead) + 1):
                yield ahead[0][0], ahead[size - 1][1]
            ahead.popleft()


def word_at(text: str, span: Span, lowercase: bool) -> str:
    """A token as a vocabulary has it."""
    return normalized(SPACES.sub(" ", text[span[0] : span[1]]), lowercase)


def normalized(word: str, lowercase: bool) -> str:
    """A word as a vocabulary has it."""
    word = unicodedata.normalize("NFKC", word)
    return word.lower() if lowercase else word


def load_tokenizer(content: bytes, kind: str) -> Tokenizer:
    """The tokenizer of a file; `kind` is words, characters, or whatever else the library has.

    Raises BrokenArchive for a file that can't be read, and where the library is not installed.
    """
    if kind in (WORDS, CHARACTERS):
        try:
            config = json.loads(content)
            words = config["vocabulary"], bool(config["lowercase"])
            return WordTokenizer(*words) if kind == WORDS else CharacterTokenizer(*words, *config["sizes"])
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenArchive(f"{FILE} is no vocabulary of {kind}: {error!r}") from error
    return of_library(content, FileTokenizer)


def of_library(content: bytes, make: Callable[[Any], Made]) -> Made:
    """What `make` gives for the tokenizer that the library reads from a file.

    Raises BrokenArchive for a file that can't be read, and where the library is not installed.
    """
    try:
        from tokenizers import Tokenizer as LibraryTokenizer
    except ImportError as error:
        raise BrokenArchive(
            "this model needs the package tokenizers: pip install 'marina[text]', or tokenizers alone where "
            "only archives are served"
        ) from error
    try:
        return make(LibraryTokenizer.from_buffer(content))
    except Exception as error:  # the library raises Exception itself
        raise BrokenArchive(f"{FILE} can't be read by the package tokenizers: {error}") from error


def _encoded(numbers: Iterable[int], spans: Iterable[tuple[int, int]], truncated: bool) -> Encoded:
    return Encoded(np.fromiter(numbers, np.int64), np.array([*spans], np.int64).reshape(-1, 2), truncated)
