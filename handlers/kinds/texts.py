"""What kinds that read texts share: checked strings -> tokens, in batches of nearly the same length.

preprocess_config.json says {"input": "text", "tokenizer", "max_tokens", "max_characters"}, tokenizer.json has
the vocabulary. The graph takes tokens int64 [B, length], filled up with 0 to the longest of a batch, which
changes no answer.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..inputs.payloads import only_key
from ..inputs.texts import TextLimits, check_text, decoded
from ..inputs.tokenization import FILE, PAD, Encoded, load_tokenizer
from ..protocol.errors import BadRequest, TooLarge
from ..protocol.options import keyed_schema
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from ..runtime.predictor import Predictor

KEYS = ("text", "data")
ALSO = ("content", "input", "sentence")  # as clients of other servers name it
LEAST_GROUP = 64  # tokens; shorter texts are computed with those of this length


class TextPredictor(Predictor):
    """The base of what takes a text, whatever it answers."""

    takes_text: ClassVar[bool] = True
    file_types: ClassVar[tuple[str, ...]] = ("text/plain",)

    def configure(self, export: Export) -> None:
        """Read the files of an export."""
        super().configure(export)
        config = export.preprocess
        self.text_limits = TextLimits(int(config["max_characters"]), int(config["max_tokens"]))
        self.tokenizer = self.read_tokenizer(export)

    def read_tokenizer(self, export: Export) -> Any:
        """What makes tokens of texts."""
        return load_tokenizer(export.content(FILE), str(export.preprocess["tokenizer"]))

    def rows_of(self, payload: Any, most: int) -> list[Any] | None:
        """The texts of a list, alone or under one of the keys. Raises BadRequest for none, TooLarge."""
        if isinstance(payload, dict) and len(payload) == 1:
            (value,) = payload.values()
            payload = value if isinstance(value, list) and payload.keys() <= {*KEYS} else payload
        if not isinstance(payload, list):
            return None
        if not payload:
            raise BadRequest("the list has no texts; send one at least")
        if len(payload) > most:
            raise TooLarge(f"{len(payload):,} texts in one request; send at most {most:,}")
        return payload

    def decode(self, instance: Instance) -> Any:
        """The text. Raises a RequestError for what is none."""
        payload = only_key(instance.payload, *KEYS, also=ALSO)
        if isinstance(payload, bytes):
            payload = decoded(payload, self.text_limits)
        if not isinstance(payload, str):
            raise BadRequest(
                f'send the text as it is, or {{"text": "…"}}, not {_json_name(payload)}; several as '
                '{"instances": ["…", "…"]}'
            )
        return check_text(payload, self.text_limits)

    def preprocess(self, item: Any, instance: Instance) -> Prepared:
        """Its tokens. Raises BadRequest for a text without any."""
        encoded = self.encoded(item)
        return Prepared((encoded.ids,), instance.options, truncated=encoded.truncated)

    def groups(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """Texts of nearly the same length are computed together: none is filled up to more than twice its
        own, or to LEAST_GROUP.
        """
        return length_groups([len(one.arrays[0]) for one in prepared])

    def collate(self, prepared: Sequence[Prepared]) -> tuple[np.ndarray, ...]:
        """Tokens int64 [B, longest]."""
        return (padded([one.arrays[0] for one in prepared]),)

    def limits(self) -> dict[str, int]:
        """Characters of a text, and tokens that count."""
        return dict(vars(self.text_limits))

    def request_schema(self) -> dict[str, Any]:
        """A text, or an object with it under one of the keys."""
        limits = self.text_limits
        text = {
            "type": "string",
            "minLength": 1,
            "maxLength": limits.max_characters,
            "description": f"of its tokens the first {limits.max_tokens:,} count",
        }
        return {"anyOf": [keyed_schema(KEYS, text, self.options), text]}

    def truncated_schema(self) -> dict[str, Any]:
        """Whether a text was cut."""
        about = f"whether the text has more than {self.text_limits.max_tokens:,} tokens, which don't count"
        return {"type": "boolean", "description": about}

    def encoded(self, text: str) -> Encoded:
        """The tokens of a text. Raises BadRequest for one without any."""
        encoded: Encoded = self.tokenizer.encode(text, self.text_limits.max_tokens)
        if not len(encoded.ids):
            raise BadRequest("the text has nothing that could be read as a word; send some letters")
        return encoded


def explained_tokens(text: str, encoded: Encoded, falls: Sequence[float]) -> list[dict[str, Any]]:
    """Each token with its place in the text, and what the answer loses without it."""
    return [
        {"text": text[start:end], "start": start, "end": end, "importance": round(fall, 6)}
        for (start, end), fall in zip(encoded.spans.tolist(), falls, strict=True)
    ]


def tokens_schema(about: str) -> dict[str, Any]:
    """JSON schema of `explained_tokens`; `about` says what `importance` is."""
    place = {"type": "integer", "minimum": 0}
    token = {
        "text": {"type": "string"},
        "start": {**place, "description": "its first character (Unicode code point) in the text"},
        "end": {**place, "description": "the character behind it"},
        "importance": {"type": "number", "description": about},
    }
    return {"type": "array", "items": {"type": "object", "properties": token, "required": list(token)}}


def length_groups(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of texts of so many tokens that are computed together; see `TextPredictor.groups`."""
    groups: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        groups.setdefault((max(LEAST_GROUP, length) - 1).bit_length(), []).append(position)
    return list(groups.values())


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens of several texts as int64 [B, longest, ...], filled up with PAD."""
    filled = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), PAD, np.int64)
    for row, tokens in zip(filled, rows, strict=True):
        row[: len(tokens)] = tokens
    return filled


def _json_name(value: Any) -> str:
    """What a payload is, as a sender knows it."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
