"""Taggers: the same tags are the same decision."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from handlers.runtime.export import Export
from marina.core import paths
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.kind import Kind, Measured, shortened
from marina.kinds.measurement import RequestMeasurement


class TagMeasurement(RequestMeasurement):
    """Sends the words of every sentence and compares the tags that come back."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.data.tagged_texts import load_tagged, read_sentences
        from training.findings import Findings

        settings = recipes.recipe_of(spec).settings(spec)
        super().__init__(spec, data, is_recorded)
        self.most = settings.max_tokens
        if is_recorded:
            loaded = load_tagged(data, settings.column, spec.training.seed, Findings(), settings.limits)
            self.sentences: Sequence[Any] = loaded.test
        else:
            found = read_sentences(paths.expanded(data), settings.column, Findings(), settings.limits)
            split = next(name for name in ("test", "validation", "", "train") if name in found)
            self.sentences = found[split]
        known = set(Export.open(spec.export_dir).labels)
        if unknown := sorted({tag for one in self.sentences for tag in one.tags} - known):
            raise CallError(f"{data} has the tag(s) {', '.join(unknown[:5])}, which the model doesn't know")
        if not self.sentences:
            raise CallError(f"{data} has no sentences to measure with")

    def requests(self) -> list[Any]:
        """The words of each sentence."""
        return [{"tokens": one.words} for one in self.sentences]

    def score(self, answers: list[Any]) -> Measured:
        """What the recipe measures."""
        from training.text.tag_assessment import tag_metrics

        found = [tags_of(reply) for reply in answers]
        truth = [one.tags[: self.most] for one in self.sentences]
        return Measured({**tag_metrics(found, truth), "sentences": len(found)})


def tags_of(answer: Mapping[str, Any]) -> list[str]:
    """The tags of an answer."""
    return [one["tag"] for one in answer["tokens"]]


class TaggerKind(Kind):
    """A text -> a tag per word, and spans."""

    name = "tagger"
    measurement_class = TagMeasurement

    def summarize(self, content: Any) -> str:
        """The spans, or the words with their tags."""
        if not isinstance(content, dict):
            return super().summarize(content)
        if content.get("spans"):
            text = ", ".join(f"{one['text']} {one['label']}" for one in content["spans"])
        elif "tokens" in content:
            text = " ".join(f"{one['token']}/{one['tag']}" for one in content["tokens"])
        else:
            text = " ".join(content.get("tags", ())) or json.dumps(content)
        return shortened(text)

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether every word has the same tag."""
        return tags_of(answer) == tags_of(other)


KIND = TaggerKind()
