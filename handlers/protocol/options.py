"""Options of a request: sent as header, form field or JSON key, checked against their bounds, described as
JSON schema.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate
from typing import Any, Protocol

from .errors import BadRequest

SIMILARITY = 0.85  # of a misspelt name; between top_k and top_p, which other servers know, it is 0.75


class Option(Protocol):
    """One option: how it is read and how it is described."""

    def read(self, name: str, value: Any) -> Any:
        """The value (from JSON, or text from a header or form), checked. Raises BadRequest with what is
        taken.
        """

    def schema(self) -> dict[str, Any]:
        """JSON schema of the option, its description included."""


@dataclass(frozen=True)
class Number:
    """A number from `least` to `most`, both included."""

    kind: type[int] | type[float]
    least: float
    most: float
    about: str

    def read(self, name: str, value: Any) -> int | float:
        """The number in `value`."""
        text = _text(value)
        wanted = (
            f"{'a whole number' if self.kind is int else 'a number'} from {self.least:g} to {self.most:g}"
        )
        if isinstance(text, bool) or not isinstance(text, int | float | str):
            raise BadRequest(f"{name} must be {wanted}")
        try:
            number = self.kind(text) if isinstance(text, str) else text
        except (ValueError, OverflowError):
            raise BadRequest(f"{name} must be {wanted}, not {str(text)[:40]!r}") from None
        if (self.kind is int and not isinstance(number, int)) or not self.least <= number <= self.most:
            raise BadRequest(f"{name} must be {wanted}, not {str(text)[:40]!r}")
        return number

    def schema(self) -> dict[str, Any]:
        """{"type": "integer" or "number", "minimum", "maximum"}."""
        kind = "integer" if self.kind is int else "number"
        return {
            "type": kind,
            "minimum": self.kind(self.least),
            "maximum": self.kind(self.most),
            "description": self.about,
        }


@dataclass(frozen=True)
class Choice:
    """One word of several."""

    words: tuple[str, ...]
    about: str

    def read(self, name: str, value: Any) -> str:
        """The word in `value`, whatever its case."""
        text = _text(value)
        if not isinstance(text, str) or text.lower() not in self.words:
            raise BadRequest(f"{name} must be {' or '.join(self.words)}, not {str(text)[:40]!r}")
        return text.lower()

    def schema(self) -> dict[str, Any]:
        """{"enum": [...]}."""
        return {"type": "string", "enum": list(self.words), "description": self.about}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    about: str

    def read(self, name: str, value: Any) -> bool:
        """The truth in `value`: a JSON boolean, or the words true and false."""
        text = _text(value)
        if isinstance(text, bool):
            return text
        if not isinstance(text, str) or text.lower() not in ("true", "false"):
            raise BadRequest(f"{name} must be true or false, not {str(text)[:40]!r}")
        return text.lower() == "true"

    def schema(self) -> dict[str, Any]:
        """{"type": "boolean"}."""
        return {"type": "boolean", "description": self.about}


@dataclass(frozen=True)
class Text:
    """A text of at most `longest` characters."""

    longest: int
    about: str

    def read(self, name: str, value: Any) -> str:
        """The text."""
        text = _text(value)
        if not isinstance(text, str):
            raise BadRequest(f"{name} must be a text, not {type(text).__name__}")
        if len(text) > self.longest:
            raise BadRequest(f"{name} must have at most {self.longest:,} characters, not {len(text):,}")
        return text

    def schema(self) -> dict[str, Any]:
        """{"type": "string", "maxLength"}."""
        return {"type": "string", "maxLength": self.longest, "description": self.about}


@dataclass(frozen=True)
class Texts:
    """At most `most` different texts of `longest` characters."""

    most: int
    longest: int
    about: str

    def read(self, name: str, value: Any) -> tuple[str, ...]:
        """The texts of a list; as text it is JSON, or one text alone."""
        texts = _text(value)
        if isinstance(texts, str):
            try:
                texts = json.loads(texts) if texts.lstrip().startswith("[") else [texts]
            except (ValueError, RecursionError):
                raise BadRequest(f"{name} must be a JSON list of texts, not {texts[:40]!r}") from None
        if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
            raise BadRequest(f"{name} must be a list of texts")
        if not 1 <= len(texts) <= self.most:
            raise BadRequest(f"{name} must have 1 to {self.most:,} texts, not {len(texts):,}")
        if len(longest := max(texts, key=len)) > self.longest:
            raise BadRequest(
                f"{name} must have at most {self.longest:,} characters each, not {len(longest):,}"
            )
        if len(set(texts)) < len(texts):
            twice = next(one for place, one in enumerate(texts) if one in texts[:place])
            raise BadRequest(f"{name} has {twice[:40]!r} twice; send each once")
        return tuple(texts)

    def schema(self) -> dict[str, Any]:
        """{"type": "array"} of strings."""
        return {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": self.longest},
            "minItems": 1,
            "maxItems": self.most,
            "uniqueItems": True,
            "description": self.about,
        }


@dataclass(frozen=True)
class Mask:
    """`size` truths: which of so many things are allowed, at least one; of several `branches`, one after
    the other, one in each.
    """

    size: int
    about: str
    branches: tuple[int, ...] = ()

    def read(self, name: str, value: Any) -> tuple[bool, ...]:
        """The truths in `value`: a JSON list of true, false, 1 and 0; as text also with commas alone, like
        1,0,1.
        """
        wanted = f"a list of {self.size} values true or false (1 or 0)"
        truths = _text(value)
        if isinstance(truths, str):
            try:
                truths = json.loads(truths if truths.lstrip().startswith("[") else f"[{truths}]")
            except (ValueError, RecursionError):
                raise BadRequest(f"{name} must be {wanted}, not {truths[:40]!r}") from None
        if not isinstance(truths, list) or len(truths) != self.size:
            found = f"a list of {len(truths)}" if isinstance(truths, list) else type(truths).__name__
            raise BadRequest(f"{name} must be {wanted}, not {found}")
        if not all(isinstance(one, bool | int) and one in (0, 1) for one in truths):
            raise BadRequest(f"{name} must be {wanted}, nothing else")
        if not any(truths):
            raise BadRequest(f"{name} allows nothing; leave at least one value true")
        ends = list(accumulate(self.branches))
        for branch, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if not any(truths[start:end]):
                raise BadRequest(
                    f"{name} allows nothing in branch {branch}; leave at least one of its {end - start} "
                    "values true"
                )
        return tuple(map(bool, truths))

    def schema(self) -> dict[str, Any]:
        """{"type": "array"} of `size` booleans or 0 and 1."""
        return {
            "type": "array",
            "items": {"enum": [True, False, 1, 0]},
            "minItems": self.size,
            "maxItems": self.size,
            "description": self.about,
        }


def _text(value: Any) -> Any:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value


def nearest(name: str, options: Iterable[str]) -> str:
    """The option that `name` was meant to be: one letter of many is wrong, or case and separators are; empty
    for a name that is none of ours.
    """
    squeezed = {_squeezed(option): option for option in options}
    found = get_close_matches(_squeezed(name), squeezed, n=1, cutoff=SIMILARITY)
    return squeezed[found[0]] if found else ""


def _squeezed(name: str) -> str:
    """The letters and digits of at most the first hundred characters."""
    return "".join(filter(str.isalnum, name[:100].lower()))


def object_schema(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """JSON schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def keyed_schema(keys: tuple[str, ...], value: dict[str, Any], options: dict[str, Option]) -> dict[str, Any]:
    """JSON schema of an object with `value` under exactly one of `keys`, and any of the options."""
    return {
        "type": "object",
        "properties": {
            **dict.fromkeys(keys, value),
            **{name: option.schema() for name, option in options.items()},
        },
        "oneOf": [{"required": [key]} for key in keys],
        "additionalProperties": False,
    }
