"""Serves generators: a text -> a text that is made token by token.

    "marina"  or  {"text": "marina", "num_beams": 4}
        -> {"text": "M ER IY N AH", "tokens": 5, "score": -0.41, "finish_reason": "stop"}

As a stream each token's text comes as {"delta": "..."} when it is there, and the whole answer last; without
what may be the beginning of a stop text, which comes a little later. How texts are read is in `kinds.texts`,
how answers are made in `handlers.decoding`. postprocess_config.json has the layout of the state
(`decoding.loop`), "vocabulary", the kind of target.json ("" where answers have the tokens of prompts:
`decoding.prompts`), "max_new_tokens", the most that a request may ask for, and "defaults" of the options.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..decoding.generation import TIME, Generation
from ..decoding.loop import Decoder, Layout
from ..decoding.options import MOST_BEAMS, GenerationOptions, check_limits, request_options
from ..decoding.prompts import BYTES, PRETRAINED, load_prompt_tokenizer
from ..decoding.search import LENGTH, STOP
from ..decoding.vocabulary import FILE, Vocabulary, load_vocabulary
from ..inputs.tokenization import FILE as TOKENIZER
from ..protocol.errors import NotSupported, TooLarge
from ..protocol.events import Item
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from ..runtime.streams import Stream
from .generation_streams import advance_all, opened
from .texts import TextPredictor

PROMPT = "prompt"
DEFAULT_SECONDS = 30.0  # of a batch, where an engine says nothing


class GeneratorPredictor(TextPredictor):
    """Answers {"text", "tokens", "score", "finish_reason"}."""

    further_programs: ClassVar[tuple[str, ...]] = (PROMPT,)
    answers_in_pieces: ClassVar[bool] = True

    def configure(self, export: Export) -> None:
        """Read the files of an export."""
        super().configure(export)
        config = export.postprocess
        self.layout = Layout.from_config(config)
        self.defaults: Mapping[str, Any] = config["defaults"]
        check_limits(self.defaults)
        self.vocabulary: Vocabulary = (
            load_vocabulary(export.content(FILE)) if config["vocabulary"] else self.tokenizer
        )
        self.most_new_tokens = int(config["max_new_tokens"])
        self.most_rows = int(self.metadata["max_batch"])
        self.options = request_options(
            self.most_new_tokens, self.vocabulary.size, min(MOST_BEAMS, self.most_rows)
        )
        self.seconds = DEFAULT_SECONDS / 2
        self.stream_decoder: Decoder | None = None

    def read_tokenizer(self, export: Export) -> Any:
        """What makes tokens of texts, and texts of tokens where answers have the tokens of prompts."""
        kind = str(export.preprocess["tokenizer"])
        if kind in (BYTES, PRETRAINED):
            return load_prompt_tokenizer(export.content(TOKENIZER), kind)
        return super().read_tokenizer(export)

    def load(self, folder: Any, model_config: Mapping[str, Any] | None = None) -> int:
        """As in PredictorStartup; an answer may take half of the time after which an engine ends a worker."""
        checked = super().load(folder, model_config)
        self.seconds = float((model_config or {}).get("responseTimeout") or DEFAULT_SECONDS) / 2
        return checked

    def decoder(self) -> Decoder:
        """A decoder without answers."""
        return Decoder(self.parts[PROMPT], self.model, self.layout, self.most_rows, self.seconds)

    def preprocess(self, item: Any, instance: Instance) -> Prepared:
        """Its tokens, all of them. Raises TooLarge for too many, BadRequest for none."""
        encoded = self.encoded(item)
        if encoded.truncated:
            raise TooLarge(
                f"the text has more than {self.text_limits.max_tokens:,} tokens, which is what this model "
                "reads; send a shorter one"
            )
        options = GenerationOptions.of_request(instance.options, self.defaults)
        return Prepared((encoded.ids,), instance.options, basis=options)

    def groups(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """All together: the decoder takes rows of any length."""
        return [[*range(len(prepared))]]

    def generation(
        self, prepared: Prepared, *, is_shown: bool = False, keeps_attention: bool = False
    ) -> Generation:
        """The answer to one instance, of which nothing is made yet."""
        return Generation(
            prepared.arrays[0],
            prepared.basis,
            self.vocabulary,
            self.layout.end,
            is_continued=self.layout.begin is None,
            is_shown=is_shown,
            keeps_attention=keeps_attention,
        )

    def _forward(self, prepared: list[Prepared]) -> list[Any]:
        with self.telemetry.inference:
            generations = [self.generation(one) for one in prepared]
            self.decoder().run(generations)
        with self.telemetry.postprocess:
            return [one.answer() for one in generations]

    def open_stream(self, row: Any, request_id: str, max_instances: int = 10_000) -> Stream:
        """As in Predictor; answers come piece by piece."""
        return opened(super().open_stream(row, request_id, max_instances))

    def advance(self, streams: Sequence[Stream], most: int) -> list[list[Item]]:
        """One token more for each of the first streams, as many as the graph takes rows; `most` is not
        needed, since a step of many takes little longer than one of one.
        """
        if self.stream_decoder is None:
            self.stream_decoder = self.decoder()
        return advance_all(self, self.stream_decoder, streams)

    def explanation(self, item: Any, prepared: Prepared) -> Any:
        """How much each token of the answer attended to each token of the text. Raises NotSupported where
        the model has no attention over its prompt.
        """
        options = GenerationOptions(
            **{**vars(prepared.basis), "num_beams": 1}  # beams have an attention each
        )
        one = self.generation(
            Prepared(prepared.arrays, prepared.options, basis=options), keeps_attention=True
        )
        self.decoder().run([one])
        if one.failure:
            raise one.failure
        if not one.attention:
            raise NotSupported("this model has no attention over its prompt; call /predictions")
        encoded = self.encoded(item)
        weights = np.stack(one.attention)[: len(one.search.tokens), : len(encoded.ids)]
        return {
            **one.answer(),
            "method": "attention",
            "input": [item[start:end] for start, end in encoded.spans.tolist()],
            "attention": [
                {"token": self.vocabulary.token(token), "weights": np.round(row, 4).tolist()}
                for token, row in zip(one.search.tokens, weights.astype(float), strict=True)
            ],
        }

    @classmethod
    def mismatch(cls, expect: Mapping[str, Any], answer: Any) -> str:
        """Where `answer` is not what a sample expects: exactly its {"text"}."""
        if not isinstance(answer, dict) or "text" not in answer:
            return f"no text: {str(answer)[:80]}"
        if set(expect) != {"text"}:
            return f"a sample of this kind expects a text, not {', '.join(expect)}"
        return "" if answer["text"] == expect["text"] else f"{answer['text']!r} instead of {expect['text']!r}"

    def limits(self) -> dict[str, int]:
        """As of other texts, and the tokens of an answer."""
        return {**super().limits(), "max_new_tokens": self.most_new_tokens}

    def request_schema(self) -> dict[str, Any]:
        """A text, or an object with it and options."""
        schema = super().request_schema()
        about = f"of at most {self.text_limits.max_tokens:,} tokens"
        text = {**schema["anyOf"][1], "description": about}
        keyed = schema["anyOf"][0]
        keys = {name: text for name in keyed["properties"] if name not in self.options}
        return {"anyOf": [{**keyed, "properties": {**keyed["properties"], **keys}}, text]}

    def answer_schema(self) -> dict[str, Any]:
        """The text, how many tokens it has, the sum of their log-probabilities, and why it ended."""
        properties = {
            "text": {"type": "string"},
            "tokens": {"type": "integer", "minimum": 0, "maximum": self.most_new_tokens},
            "score": {"type": "number", "description": "sum of the tokens' log-probabilities"},
            "finish_reason": {
                "type": "string",
                "enum": [STOP, LENGTH, TIME],
                "description": "stop: the model or a stop text ended it; length: max_new_tokens; time: the "
                "server's limit",
            },
        }
        return {"type": "object", "properties": properties, "required": list(properties)}

    def explanation_schema(self) -> dict[str, Any]:
        """The answer, and for each of its tokens the weight of each token of the text."""
        answer = self.answer_schema()["properties"]
        weights = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
        row = {"token": {"type": "string"}, "weights": weights}
        rows = {"type": "array", "items": {"type": "object", "properties": row, "required": list(row)}}
        tokens = {"type": "array", "items": {"type": "string"}}
        method = {"type": "string", "enum": ["attention"]}
        properties = {**answer, "method": method, "input": tokens, "attention": rows}
        return {"type": "object", "properties": properties, "required": list(properties)}


PREDICTOR = GeneratorPredictor
