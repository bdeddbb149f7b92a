"""Texts -> tokens for models that continue their prompt, so that tokens can become the same text again.

bytes         the bytes of UTF-8, behind the special tokens of `vocabulary`; no file says more
pretrained    the JSON of Hugging Face's library `tokenizers`, as the model was trained with it
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..inputs.tokenization import Encoded, of_library
from .vocabulary import SPECIAL

BYTES, PRETRAINED = "bytes", "pretrained_causal"
READ_PER_TOKEN = 64  # characters; no token of a text is longer, but for white space


class ByteTokenizer:
    """The bytes of a text, and the text of bytes."""

    size = len(SPECIAL) + 256

    def encode(self, text: str, most: int) -> Encoded:
        """The first `most` bytes."""
        content = text[: most + 1].encode()
        ids = np.frombuffer(content[:most], np.uint8).astype(np.int64) + len(SPECIAL)
        spans = [(place, place + 1) for place, one in enumerate(text[: most + 1]) for _ in one.encode()]
        return Encoded(ids, np.array(spans[:most], np.int64).reshape(-1, 2), len(content) > most)

    def text(self, tokens: Sequence[int]) -> str:
        """Of UTF-8; what is none is written as U+FFFD."""
        return bytes(one - len(SPECIAL) for one in tokens if one >= len(SPECIAL)).decode("utf-8", "replace")

    def token(self, number: int) -> str:
        """A byte as a character, or a special token."""
        return SPECIAL[number] if number < len(SPECIAL) else chr(number - len(SPECIAL))

    def vocabulary(self) -> list[str]:
        """All tokens by number."""
        return [self.token(number) for number in range(self.size)]


class PretrainedTokenizer:
    """A tokenizer of the library `tokenizers` as it is, white space and all."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.size = tokenizer, int(tokenizer.get_vocab_size())
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode(self, text: str, most: int) -> Encoded:
        """The first `most` tokens of a text, of no more characters than `most` tokens ever have."""
        read = text[: READ_PER_TOKEN * (most + 1)]
        found = self.tokenizer.encode(read, add_special_tokens=False)
        is_cut = len(found.ids) > most or len(read) < len(text)
        spans = np.array(found.offsets[:most], np.int64).reshape(-1, 2)
        return Encoded(np.array(found.ids[:most], np.int64), spans, is_cut)

    def text(self, tokens: Sequence[int]) -> str:
        """As its decoder writes them; its special tokens are left out."""
        return str(self.tokenizer.decode(list(tokens)))

    def token(self, number: int) -> str:
        """As it is in the vocabulary."""
        return self.tokenizer.id_to_token(number) or ""

    def vocabulary(self) -> list[str]:
        """All tokens by number."""
        return [self.token(number) for number in range(self.size)]


def load_prompt_tokenizer(content: bytes, kind: str) -> ByteTokenizer | PretrainedTokenizer:
    """The tokenizer of this kind. Raises BrokenArchive where it can't be read."""
    if kind == BYTES:
        return ByteTokenizer()
    return of_library(content, PretrainedTokenizer)
