"""Serves text classifiers: tokens -> logits -> the classes, or the labels, and which words they rest on.

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
from ..protocol.options import Number, keyed_schema
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from .labels import LabelPredictor
from .occlusion import occlusions

KEYS = ("text", "data")
ALSO = ("content", "input", "sentence")  # as clients of other servers name it
LEAST_GROUP = 32  # tokens; shorter texts are computed with those of this length


class TextClassifierPredictor(LabelPredictor):
    """Answers `ClassAnswers` or `LabelAnswers`, with "truncated": whether the text has more tokens than
    count.
    """

    takes_text: ClassVar[bool] = True
    file_types: ClassVar[tuple[str, ...]] = ("text/plain",)

    def configure(self, export: Export) -> None:
        """Read the files of an export."""
        super().configure(export)
        config = export.preprocess
        self.text_limits = TextLimits(int(config["max_characters"]), int(config["max_tokens"]))
        self.tokenizer = load_tokenizer(export.content(FILE), str(config["tokenizer"]))
        self.explain_options = {
            "class_index": Number(
                int, 0, len(self.labels) - 1, "the class to explain; by default the first of the answer"
            )
        }

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

    def decode(self, instance: Instance) -> str:
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

    def preprocess(self, item: str, instance: Instance) -> Prepared:
        """Its tokens. Raises BadRequest for a text without any."""
        encoded = self._encoded(item)
        return Prepared((encoded.ids,), instance.options, truncated=encoded.truncated)

    def groups(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """Texts of nearly the same length are computed together: none is filled up to more than twice its
        own, or to LEAST_GROUP.
        """
        groups: dict[int, list[int]] = {}
        for position, one in enumerate(prepared):
            length = max(LEAST_GROUP, len(one.arrays[0]))
            groups.setdefault((length - 1).bit_length(), []).append(position)
        return list(groups.values())

    def collate(self, prepared: Sequence[Prepared]) -> tuple[np.ndarray, ...]:
        """Tokens int64 [B, longest]."""
        return (padded([one.arrays[0] for one in prepared]),)

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Logits [B, classes] -> an answer per text."""
        answers = self.answers.of(outputs, prepared)
        return [{**answer, "truncated": one.truncated} for answer, one in zip(answers, prepared, strict=True)]

    def explanation(self, item: str, prepared: Prepared) -> Any:
        """How much the log-odds of a class fall without each token."""
        encoded = self._encoded(item)
        logits = self.model(encoded.ids[None])
        (answer,) = self.answers.of(logits, [prepared])
        index = prepared.options.get("class_index", answer["predictions"][0]["class_index"])

        def log_odds(tokens: np.ndarray) -> np.ndarray:
            return self.answers.log_odds(self.model(tokens), index)

        falls = occlusions(log_odds, encoded.ids, int(self.metadata["max_batch"]))
        probability = float(self.answers.probabilities(logits)[0, index])
        tokens = [
            {
                "text": item[start:end],
                "start": start,
                "end": end,
                "importance": round(fall, 6),
            }
            for (start, end), fall in zip(encoded.spans.tolist(), falls, strict=True)
        ]
        return {
            **self.answers.named(index, probability),
            "method": "occlusion",
            "truncated": encoded.truncated,
            "tokens": tokens,
        }

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

    def answer_schema(self) -> dict[str, Any]:
        """The classes, and whether the text was cut."""
        schema = super().answer_schema()
        about = f"whether the text has more than {self.text_limits.max_tokens:,} tokens, which don't count"
        truncated = {"type": "boolean", "description": about}
        return {
            **schema,
            "properties": {**schema["properties"], "truncated": truncated},
            "required": [*schema["required"], "truncated"],
        }

    def explanation_schema(self) -> dict[str, Any]:
        """The class that is explained, and each token with its place and what it counts."""
        place = {"type": "integer", "minimum": 0}
        token = {
            "text": {"type": "string"},
            "start": {**place, "description": "its first character (Unicode code point) in the text"},
            "end": {**place, "description": "the character behind it"},
            "importance": {
                "type": "number",
                "description": "what the class's log-odds lose without it; below 0 it speaks against it",
            },
        }
        row = {"type": "object", "properties": token, "required": list(token)}
        properties = {
            **self.answers.named_schema(),
            "method": {"type": "string", "enum": ["occlusion"]},
            "truncated": {"type": "boolean"},
            "tokens": {"type": "array", "items": row},
        }
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _encoded(self, text: str) -> Encoded:
        encoded = self.tokenizer.encode(text, self.text_limits.max_tokens)
        if not len(encoded.ids):
            raise BadRequest("the text has nothing that could be read as a word; send some letters")
        return encoded


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens of several texts as int64 [B, longest], filled up with PAD."""
    filled = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for row, tokens in zip(filled, rows, strict=True):
        row[: len(tokens)] = tokens
    return filled


def _json_name(value: Any) -> str:
    """What a payload is, as a sender knows it."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


PREDICTOR = TextClassifierPredictor
