"""Texts as requests and files bring them: checked strings, or a refusal that says what is wrong and where."""

import re
from dataclasses import dataclass

from ..protocol.errors import BadRequest, TooLarge

SURROGATE = re.compile("[\ud800-\udfff]")
TEXT_ENCODINGS = "UTF-8, or another encoding named as Content-Type: text/plain; charset=NAME"


@dataclass(frozen=True)
class TextLimits:
    """What of a text is read: a longer one than `max_characters` is refused, and of its tokens the first
    `max_tokens` count.
    """

    max_characters: int = 1_000_000
    max_tokens: int = 256


def fault_of(text: str, limits: TextLimits) -> str:
    """What is wrong with a text, without its values, so that findings can count it; empty if nothing is."""
    if len(text) > limits.max_characters:
        return f"more than {limits.max_characters:,} characters"
    if not text or text.isspace():
        return "empty"
    if "\0" in text:
        return "a null byte in it"
    return "half of a surrogate pair in it" if SURROGATE.search(text) else ""


def check_text(text: str, limits: TextLimits) -> str:
    """`text` itself. Raises TooLarge for too many characters; BadRequest for none, for a null character and
    for half of a surrogate pair, which no encoding has.
    """
    fault = fault_of(text, limits)
    if not fault:
        return text
    if len(text) > limits.max_characters:
        raise TooLarge(
            f"the text has {len(text):,} characters; send at most {limits.max_characters:,}. Of those the "
            f"first {limits.max_tokens:,} tokens count"
        )
    if fault == "empty":
        raise BadRequest("the text is empty; send at least one character that is no white space")
    if "\0" in text:
        raise BadRequest(
            f"the text has a null character at position {text.index(chr(0)):,}; take it out, or, if it is "
            f"UTF-16, send {TEXT_ENCODINGS}"
        )
    found = SURROGATE.search(text)
    assert found is not None
    raise BadRequest(
        f"the text has half of a surrogate pair at position {found.start():,} (\\u{ord(found[0]):04x}); send "
        "both halves, or the character itself"
    )


def decoded(content: bytes, limits: TextLimits) -> str:
    """The characters of UTF-8, a byte-order mark taken off. What names another encoding was decoded before.

    Raises TooLarge for more bytes than any text of the limits has, BadRequest for bytes that aren't UTF-8,
    with the place of the first one.
    """
    most = 4 * limits.max_characters  # UTF-8 has at most four for each
    if len(content) > most:
        raise TooLarge(
            f"the text has {len(content):,} bytes; send at most {limits.max_characters:,} characters"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the text is not UTF-8: the byte {content[error.start]:#04x} at position "
            f"{error.start:,} has no meaning there{_guess(content)}; send {TEXT_ENCODINGS}"
        ) from None


def _guess(content: bytes) -> str:
    """What it may be instead."""
    if content[:200].count(0) > len(content[:200]) // 4:
        return ", it may be UTF-16"
    return ", it may be Windows-1252 or ISO-8859-1" if max(content) >= 0x80 else ""
