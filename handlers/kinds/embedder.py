"""Serves embedders: tokens -> a unit vector, with the nearest labels and the nearest entries of an index.

    {"text": "...", "labels": ["travel", "sports"]}
        -> {"embedding": [...], "labels": [{"label", "similarity"}],
            "neighbors": [{"id", "text", "similarity"}], "truncated": false}

How texts are read is in `kinds.texts`. postprocess_config.json says {"type": "embedding", "dimension",
"top_k", "labels": [...], "has_index"}; an index lies in index.npy and index.json (`inputs.vector_index`). The
graph gives unit vectors float32 [B, dimension]. Similarities are cosines.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..inputs.texts import check_text
from ..inputs.vector_index import ENTRIES, VECTORS, VectorIndex, highest
from ..protocol.errors import BadRequest, TooLarge
from ..protocol.options import Flag, Number, Text, Texts
from ..protocol.requests import MAX_INSTANCES, Call, Instance, Options, Prepared, Request
from ..runtime.export import Export
from ..runtime.golden import difference
from .occlusion import occlusions
from .texts import TextPredictor, explained_tokens, length_groups, padded, tokens_schema

MOST_NEAREST = 100
MOST_LABELS, LABEL_CHARACTERS = 100, 1000  # of one text
MOST_LABELS_TOGETHER = 1000  # different ones of a request: each costs as much as a text
REMEMBERED = 2000  # labels whose vectors are kept
DIGITS = 7  # decimals of a component: float32 has no more
SAME = 0.999  # cosine of two forms' vectors that are the same answer


class EmbedderPredictor(TextPredictor):
    """Answers {"embedding", "truncated"}, "labels" where there are some, "neighbors" where there is an
    index.
    """

    reduced_precision_instances: ClassVar[int | None] = 100

    def configure(self, export: Export) -> None:
        """Read the labels and the index of an export."""
        super().configure(export)
        config = export.postprocess
        self.dimension, self.top_k = int(config["dimension"]), int(config["top_k"])
        self.own_labels = tuple(config.get("labels", ()))
        self.index = None
        if config.get("has_index"):
            files = export.content(VECTORS), export.content(ENTRIES)
            self.index = VectorIndex.from_files(*files, self.dimension)
        self.label_vectors: OrderedDict[str, np.ndarray] = OrderedDict()
        self.labels_computed_by: Any = None
        nearest = f"so many labels and neighbors at most; default {self.top_k}"
        self.options = {
            "top_k": Number(int, 1, MOST_NEAREST, nearest),
            "labels": Texts(MOST_LABELS, LABEL_CHARACTERS, "which of these labels is nearest (zero-shot)"),
            "embedding": Flag("false leaves the vector out of the answer"),
        }
        about = "another text: explains the similarity of both; default: the nearest neighbor or label"
        self.explain_options = {"other": Text(self.text_limits.max_characters, about)}

    def preprocess(self, item: str, instance: Instance) -> Prepared:
        """Its tokens. Raises BadRequest for a text without any, and for such a label."""
        prepared = super().preprocess(item, instance)
        for label in instance.options.get("labels", ()):
            if label not in self.label_vectors:
                self._tokens_of(label, f"the label {label[:40]!r}")
        return prepared

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Unit vectors [B, dimension] -> an answer per text."""
        vectors = np.ascontiguousarray(outputs, np.float32)
        counts = [int(one.options.get("top_k", self.top_k)) for one in prepared]
        labels = [one.options.get("labels", self.own_labels) for one in prepared]
        self._remember(dict.fromkeys(label for each in labels for label in each))
        neighbors = self.index.nearest(vectors, counts) if self.index else [None] * len(prepared)
        answers = []
        for row, one in enumerate(prepared):
            answer: dict[str, Any] = {}
            if one.options.get("embedding", True):
                answer["embedding"] = np.round(vectors[row].astype(np.float64), DIGITS).tolist()
            if labels[row]:
                answer["labels"] = self._nearest_labels(vectors[row], labels[row], counts[row])
            if neighbors[row] is not None:
                answer["neighbors"] = neighbors[row]
            answers.append({**answer, "truncated": one.truncated})
        return answers

    def explanation(self, item: str, prepared: Prepared) -> Any:
        """How much a similarity falls without each token: to another text, to the nearest neighbor or label;
        without either to the text's own whole vector.
        """
        encoded = self.encoded(item)
        (vector,) = self.model(encoded.ids[None])
        to, other = self._compared(vector, prepared)

        def similarity(tokens: np.ndarray) -> np.ndarray:
            found: np.ndarray = self.model(tokens).astype(np.float64) @ other.astype(np.float64)
            return found

        falls = occlusions(similarity, encoded.ids, int(self.metadata["max_batch"]))
        return {
            "similarity": round(float(vector @ other), DIGITS),
            "to": to,
            "method": "occlusion",
            "truncated": encoded.truncated,
            "tokens": explained_tokens(item, encoded, falls),
        }

    @classmethod
    def mismatch(cls, expect: Mapping[str, Any], answer: Any) -> str:
        """Where `answer` is not what a sample expects: {"dimension"}, or the first {"label"} or {"neighbor"}
        (its id), or the {"embedding"}.
        """
        if not isinstance(answer, dict):
            return f"no JSON object: {str(answer)[:80]}"
        for key, wanted in expect.items():
            found = {
                "dimension": len(answer.get("embedding", ())),
                "label": next((one["label"] for one in answer.get("labels", ())), None),
                "neighbor": next((one["id"] for one in answer.get("neighbors", ())), None),
                "embedding": answer.get("embedding"),
            }
            if key not in found:
                return f"a sample of this kind expects {', '.join(found)}, not {key}"
            if wrong := difference(wanted, found[key], key):
                return wrong
        return ""

    def same_answer(self, one: Any, other: Any, certain: float) -> float:
        """1 if the vectors point the same way."""
        return float(np.dot(one["embedding"], other["embedding"]) >= SAME)

    def answer_schema(self) -> dict[str, Any]:
        """The vector, the labels and neighbors with their similarities, and whether the text was cut."""
        similarity = {"type": "number", "minimum": -1.001, "maximum": 1.001, "description": "cosine"}
        text = {"type": "string"}
        properties: dict[str, Any] = {
            "embedding": {
                "type": "array",
                "items": {"type": "number"},
                "minItems": self.dimension,
                "maxItems": self.dimension,
                "description": "of length 1",
            },
            "labels": _list_of({"label": text, "similarity": similarity}, "where there are labels"),
        }
        if self.index:
            row = {"id": text, "text": text, "similarity": similarity}
            properties["neighbors"] = _list_of(row, f"of {len(self.index.ids):,} entries")
        properties["truncated"] = self.truncated_schema()
        required = ["neighbors", "truncated"] if self.index else ["truncated"]
        return {"type": "object", "properties": properties, "required": required}

    def explanation_schema(self) -> dict[str, Any]:
        """The similarity that is explained, and each token with its place and what it counts."""
        properties = {
            "similarity": {"type": "number"},
            "to": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("text", "label", "id")},
                "description": "the other text, the nearest label or entry; empty for the text itself",
            },
            "method": {"type": "string", "enum": ["occlusion"]},
            "truncated": {"type": "boolean"},
            "tokens": tokens_schema("what the similarity loses without it"),
        }
        return {"type": "object", "properties": properties, "required": list(properties)}

    def limits(self) -> dict[str, int]:
        """Of texts, and different labels of a request."""
        return {**super().limits(), "max_labels": MOST_LABELS, "max_labels_together": MOST_LABELS_TOGETHER}

    def _request(
        self, row: Mapping[str, Any], call: Call, options: Options, most: int = MAX_INSTANCES
    ) -> Request:
        """The request of a row. Raises TooLarge for more labels of all texts together than one may bring."""
        request = super()._request(row, call, options, most)
        sets = {one.options["labels"] for one in request.instances if "labels" in one.options}
        together = len({label for each in sets for label in each})
        if together > MOST_LABELS_TOGETHER:
            raise TooLarge(
                f"{together:,} different labels in one request; send at most {MOST_LABELS_TOGETHER:,}"
            )
        return request

    def _tokens_of(self, text: str, what: str) -> np.ndarray:
        try:
            return self.encoded(check_text(text, self.text_limits)).ids
        except BadRequest as refusal:
            raise BadRequest(f"{what}: {refusal}") from None

    def _remember(self, labels: Mapping[str, Any]) -> None:
        """Compute the vectors of labels that are not known yet; the oldest ones beyond REMEMBERED go."""
        if self.labels_computed_by is not self.model:  # a runtime that was tried before
            self.label_vectors.clear()
            self.labels_computed_by = self.model
        unknown = [label for label in labels if label not in self.label_vectors]
        for label in labels:
            if label in self.label_vectors:
                self.label_vectors.move_to_end(label)
        tokens = [self._tokens_of(label, f"the label {label[:40]!r}") for label in unknown]
        most = int(self.metadata["max_batch"])
        for group in length_groups([len(one) for one in tokens]):
            for start in range(0, len(group), most):
                part = group[start : start + most]
                for place, vector in zip(part, self.model(padded([tokens[k] for k in part])), strict=True):
                    self.label_vectors[unknown[place]] = vector
        while len(self.label_vectors) > max(REMEMBERED, len(labels)):
            self.label_vectors.popitem(last=False)

    def _nearest_labels(self, vector: np.ndarray, labels: Sequence[str], count: int) -> list[dict[str, Any]]:
        similarities = np.stack([self.label_vectors[label] for label in labels]) @ vector
        return [
            {"label": labels[place], "similarity": similarity}
            for place, similarity in highest(similarities, count)
        ]

    def _compared(self, vector: np.ndarray, prepared: Prepared) -> tuple[dict[str, str], np.ndarray]:
        """What the text is compared with, and its vector."""
        if other := prepared.options.get("other"):
            return {"text": other}, self.model(self._tokens_of(other, "other")[None])[0]
        if self.index:
            place = highest(self.index.vectors @ vector, 1)[0][0]
            return {"id": self.index.ids[place], "text": self.index.texts[place]}, self.index.vectors[place]
        labels = prepared.options.get("labels", self.own_labels)
        if labels:
            self._remember(dict.fromkeys(labels))
            (nearest,) = self._nearest_labels(vector, labels, 1)
            return {"label": nearest["label"]}, self.label_vectors[nearest["label"]]
        return {}, vector


def _list_of(properties: dict[str, Any], about: str) -> dict[str, Any]:
    row = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "array", "items": row, "description": f"{about}; the nearest first"}


PREDICTOR = EmbedderPredictor
