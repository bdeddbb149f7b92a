"""Serves taggers: words -> the tag of each, and the spans that tags of the BIO scheme mark.

    "Ada Lovelace wrote it."  or  {"tokens": ["Ada", "Lovelace", "wrote", "it", "."]}
        -> {"tokens": [{"token", "start", "end", "tag", "probability"}],
            "spans": [{"label", "text", "start", "end", "probability"}], "truncated": false}

How texts are read is in `kinds.texts`, what the graph takes of a word in `inputs.word_features`: int64 [B,
length, features], filled up with 0; it gives logits [B, length, tags]. Places are characters of the text, or
of the tokens joined by one space.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..inputs.texts import check_text
from ..inputs.tokenization import FILE, PAD, UNKNOWN
from ..inputs.word_features import WordFeatures
from ..protocol.errors import BadRequest
from ..protocol.options import Number, object_schema
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from .classes import softmax
from .occlusion import PARTS
from .tag_spans import is_bio, spans_of
from .texts import TextPredictor, tokens_schema

TOKENS = "tokens"


class Words(NamedTuple):
    """A text, where its words are, their features int64 [n, features], and whether there are more."""

    text: str
    spans: list[tuple[int, int]]
    features: np.ndarray
    truncated: bool


class TaggerPredictor(TextPredictor):
    """Answers {"tokens", "truncated"}, and "spans" where the tags are of the BIO scheme."""

    ragged: ClassVar[bool] = True
    reduced_precision_instances: ClassVar[int | None] = 100

    def configure(self, export: Export) -> None:
        """Read the tags of an export."""
        super().configure(export)
        self.has_spans = is_bio(self.labels)
        most = self.text_limits.max_tokens - 1
        about = (
            "the word whose tag is explained, counted from 0; default: the first of the first span, or of all"
        )
        self.explain_options = {"token": Number(int, 0, most, about)}

    def read_tokenizer(self, export: Export) -> WordFeatures:
        """What makes numbers of words."""
        return WordFeatures.from_file(export.content(FILE))

    def decode(self, instance: Instance) -> Words:
        """The words of a text, or those that were sent. Raises a RequestError for what is neither."""
        payload = instance.payload
        if isinstance(payload, dict) and TOKENS in payload:
            if len(payload) > 1:
                raise BadRequest("send either 'tokens' or 'text', not both")
            return self._given(payload[TOKENS])
        text = super().decode(instance)
        encoded = self.encoded(text)
        return Words(text, [(a, b) for a, b in encoded.spans.tolist()], encoded.ids, encoded.truncated)

    def preprocess(self, item: Words, instance: Instance) -> Prepared:
        """Its features."""
        return Prepared((item.features,), instance.options, truncated=item.truncated, basis=item)

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Logits [B, length, tags] -> the tags of each text."""
        answers = []
        for row, one in zip(outputs, prepared, strict=True):
            words = one.basis or Words("", [], one.arrays[0], one.truncated)  # as in a trial of the export
            probabilities = softmax(row[: int((words.features[:, 0] != PAD).sum())])
            best = probabilities.argmax(1)
            answers.append(self._answer(words, best, probabilities[np.arange(len(best)), best]))
        return answers

    def explanation(self, item: Words, prepared: Prepared) -> Any:
        """How much the log-odds of a word's tag fall if another word were an unknown one."""
        logits = self.model(item.features[None])[0]
        tags = [self.labels[k] for k in logits.argmax(1)]
        spans = spans_of(tags) if self.has_spans else []
        place = int(prepared.options.get("token", spans[0][1] if spans else 0))
        if place >= len(tags):
            raise BadRequest(f"token: the text has {len(tags)} words, counted from 0")
        tag = int(logits[place].argmax())

        def odds(rows: np.ndarray) -> np.ndarray:
            scores = rows[:, place].astype(np.float64)
            others = np.delete(scores, tag, 1)
            highest = others.max(1)
            found: np.ndarray = scores[:, tag] - highest - np.log(np.exp(others - highest[:, None]).sum(1))
            return found

        whole, falls = float(odds(logits[None])[0]), np.zeros(len(tags))
        parts = np.array_split(np.arange(len(tags)), min(len(tags), PARTS))
        most = int(self.metadata["max_batch"])
        for start in range(0, len(parts), most):
            group = parts[start : start + most]
            rows = np.repeat(item.features[None], len(group), 0)
            for row, part in zip(rows, group, strict=True):
                row[part] = UNKNOWN
            for part, left in zip(group, odds(self.model(rows)), strict=True):
                falls[part] = (whole - left) / len(part)
        start, end = item.spans[place]
        return {
            **{"token": item.text[start:end], "tag": tags[place], "method": "occlusion"},
            "truncated": item.truncated,
            "tokens": [
                {"text": item.text[a:b], "start": a, "end": b, "importance": round(float(fall), 6)}
                for (a, b), fall in zip(item.spans, falls, strict=True)
            ],
        }

    @classmethod
    def mismatch(cls, expect: Mapping[str, Any], answer: Any) -> str:
        """Where `answer` is not what a sample expects: exactly its {"tags"}."""
        if not isinstance(answer, dict) or TOKENS not in answer:
            return f"no tagged tokens: {str(answer)[:80]}"
        if set(expect) != {"tags"}:
            return f"a sample of this kind expects tags, not {', '.join(expect)}"
        found = [one["tag"] for one in answer[TOKENS]]
        return "" if found == list(expect["tags"]) else f"tags {found} instead of {expect['tags']}"

    def same_answer(self, one: Any, other: Any, certain: float) -> float:
        """The share of words with the same tag."""
        pairs = zip(one[TOKENS], other[TOKENS], strict=True)
        return float(np.mean([left["tag"] == right["tag"] for left, right in pairs]))

    def request_schema(self) -> dict[str, Any]:
        """A text, or an object with it or with its tokens."""
        word = {"type": "string", "minLength": 1}
        tokens = {"type": "array", "items": word, "minItems": 1, "description": "words, as training had them"}
        given = object_schema({TOKENS: tokens}, [TOKENS])
        return {"anyOf": [*super().request_schema()["anyOf"], given]}

    def answer_schema(self) -> dict[str, Any]:
        """Each word with its tag, the spans, and whether the text was cut."""
        place = {"type": "integer", "minimum": 0}
        number = {"type": "number", "minimum": 0, "maximum": 1}
        tag = {"type": "string", "enum": list(self.labels)}
        row = {"token": {"type": "string"}, "start": place, "end": place, "tag": tag, "probability": number}
        tokens = {"type": "object", "properties": row, "required": list(row)}
        properties: dict[str, Any] = {TOKENS: {"type": "array", "items": tokens}}
        if self.has_spans:
            names = {tag[2:] for tag in self.labels if tag[1:2] == "-"}
            label = {"type": "string", "enum": sorted(names)}
            span = {"label": label, "text": {"type": "string"}, "start": place, "end": place}
            span["probability"] = {**number, "description": "the least of its words"}
            # one JSON text in the Open Inference Protocol: columns would be named like those of tokens
            item = {"allOf": [{"type": "object", "properties": span, "required": list(span)}]}
            properties["spans"] = {"type": "array", "items": item}
        properties["truncated"] = self.truncated_schema()
        return {"type": "object", "properties": properties, "required": list(properties)}

    def explanation_schema(self) -> dict[str, Any]:
        """The word whose tag is explained, and what each other word counts."""
        properties = {
            "token": {"type": "string"},
            "tag": {"type": "string", "enum": list(self.labels)},
            "method": {"type": "string", "enum": ["occlusion"]},
            "truncated": {"type": "boolean"},
            "tokens": tokens_schema("what the tag's log-odds lose with an unknown word in its place"),
        }
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _given(self, tokens: Any) -> Words:
        if not isinstance(tokens, list) or not tokens or not all(isinstance(one, str) for one in tokens):
            raise BadRequest("'tokens' must be a list of words, at least one")
        if empty := [place for place, one in enumerate(tokens) if not one.strip()]:
            raise BadRequest(f"tokens[{empty[0]}] is empty; send words alone")
        text = check_text(" ".join(tokens), self.text_limits)
        spans, start = [], 0
        kept = tokens[: self.text_limits.max_tokens]
        for word in kept:
            spans.append((start, start + len(word)))
            start += len(word) + 1
        features: Any = self.tokenizer
        return Words(text, spans, features.of(kept), len(tokens) > len(kept))

    def _answer(self, words: Words, best: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
        places = words.spans or [(0, 0)] * len(best)
        tags = [self.labels[k] for k in best]
        rows = [
            {"token": words.text[a:b], "start": a, "end": b, "tag": tag, "probability": float(probability)}
            for (a, b), tag, probability in zip(places, tags, probabilities, strict=True)
        ]
        answer: dict[str, Any] = {TOKENS: rows}
        if self.has_spans:
            answer["spans"] = [self._span(words, places, probabilities, *span) for span in spans_of(tags)]
        return {**answer, "truncated": words.truncated}

    def _span(
        self,
        words: Words,
        places: Sequence[tuple[int, int]],
        probabilities: np.ndarray,
        label: str,
        first: int,
        behind: int,
    ) -> dict[str, Any]:
        start, end = places[first][0], places[behind - 1][1]
        least = float(probabilities[first:behind].min())
        return {
            "label": label,
            "text": words.text[start:end],
            "start": start,
            "end": end,
            "probability": least,
        }


PREDICTOR = TaggerPredictor
