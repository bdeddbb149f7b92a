"""Embedders of texts: nearly the same direction is the same answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from marina.core.errors import CallError, WorkError
from marina.core.spec import Spec
from marina.kinds.kind import SHORT, Kind, Measured, MeasurementOptions
from marina.kinds.measurement import RequestMeasurement
from marina.kinds.recorded_data import data_of, is_import, is_trained_on

SAME = 0.98  # cosine of two versions' vectors of a text that are the same decision
EQUAL = 0.999  # cosine of the endpoint's and this process's vectors


class EmbedderKind(Kind):
    """A text -> a unit vector, with the nearest labels and entries."""

    name = "embedder"

    def summarize(self, content: Any) -> str:
        """The nearest entry or label, else how many numbers the vector has."""
        if not isinstance(content, dict):
            return super().summarize(content)
        for key, name in (("neighbors", "id"), ("labels", "label")):
            if content.get(key):
                nearest = content[key][0]
                text = f"{nearest[name]} {nearest['similarity']:.3f}"
                return text if len(text) <= SHORT else "…" + text[1 - SHORT :]
        if "embedding" in content:
            return f"{len(content['embedding'])} numbers"
        return f"{content['dimension']} numbers" if "dimension" in content else super().summarize(content)

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether the vectors of two versions have a cosine of SAME at least; without vectors, whether the
        nearest label and entry are the same.
        """
        one, two = answer.get("embedding"), other.get("embedding")
        if one and two:
            return len(one) == len(two) and float(np.dot(one, two)) >= SAME
        keys = [key for key in ("labels", "neighbors") if key in answer or key in other]
        return bool(keys) and all(_first(answer, key) == _first(other, key) for key in keys)

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "RetrievalMeasurement":
        """How well texts that belong together are found, on the test split or in other data."""
        return RetrievalMeasurement(spec, options.data)


class RetrievalMeasurement(RequestMeasurement):
    """Sends every text and searches each among the others by the vectors that come back."""

    def __init__(self, spec: Spec, data: str | None) -> None:
        from training import recipes
        from training.data.embedding_texts import held_out_entries, relevant_counts
        from training.findings import Findings

        imported = is_import(spec)
        place = None if imported else data_of(spec, data)
        settings = recipes.recipe_of(spec).settings(spec)
        place = place or data or settings.data or data_of(spec, data)
        self.is_recorded = (imported and place == settings.data) or (
            not imported and is_trained_on(spec, data)
        )
        is_foreign = imported or not self.is_recorded
        arguments = (place, spec.training.seed, Findings(), settings.reading, settings.relevance, is_foreign)
        self.entries = held_out_entries(*arguments)
        if not any(relevant_counts(self.entries)):
            raise CallError(f"{place}: no text belongs to another, so there is nothing to find")

    def requests(self) -> list[Any]:
        """The texts."""
        return [{"text": one.text} for one in self.entries]

    def score(self, answers: list[Any]) -> Measured:
        """Metrics of the vectors."""
        from training.text.retrieval import retrieve

        vectors = np.array([reply["embedding"] for reply in answers])
        metrics = retrieve(vectors, self.entries).metrics
        return Measured({**metrics, "texts": len(answers)}, vectors)

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """The least cosine. Raises WorkError where vectors point another way."""
        least = float((np.array(served.details) * np.array(local.details)).sum(1).min())
        if least < EQUAL:
            raise WorkError(f"a vector of the endpoint has a cosine of {least:.4g} with that of this process")
        return {"texts": len(self.entries), "least_cosine": least}


def _first(answer: Mapping[str, Any], key: str) -> Any:
    entries = answer.get(key)
    return {name: value for name, value in entries[0].items() if name != "similarity"} if entries else None


KIND = EmbedderKind()
