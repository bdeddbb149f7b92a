"""Generators: the same text is the same decision."""

import json
from typing import Any, ClassVar

from handlers.runtime.export import Export
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.kind import SHORT, Answer, Kind, Measured, MeasurementOptions, Progress
from marina.kinds.recorded_data import data_of, is_trained_on

TOGETHER = 64  # texts that are sent at once


class GeneratorKind(Kind):
    """A text -> a text that is made token by token."""

    name = "generator"
    import_recipe: ClassVar[str | None] = "imported_generator"

    def summarize(self, content: Any) -> str:
        """The text."""
        if not isinstance(content, dict) or "text" not in content:
            return super().summarize(content)
        text = json.dumps(content["text"], ensure_ascii=False)
        return text if len(text) <= SHORT else text[: SHORT - 1] + "…"

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether it is the same text."""
        return bool(answer["text"] == other["text"])

    def draw(self, body: bytes, answer: Any) -> Any:
        """A text has no picture."""
        raise CallError("only answers about pictures can be drawn; leave --draw out")

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "PairMeasurement":
        """What the recipe measured, on the test split or on other pairs."""
        return PairMeasurement(spec, data_of(spec, options.data), is_trained_on(spec, options.data))


class PairMeasurement:
    """Sends the source of every pair and compares the texts that come back."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.data.text_pairs import Languages, load_pairs, read_pairs
        from training.findings import Findings

        settings = recipes.recipe_of(spec).settings(spec)
        if not hasattr(settings, "target_tokens"):
            raise CallError(
                f"a generator of the recipe {spec.training.recipe} has no pairs to be measured on"
            )
        self.is_recorded, self.form = is_recorded, settings.target_tokens
        languages = Languages(*settings.languages) if settings.languages else None
        reading = (data, languages, settings.keep_stress)
        if is_recorded:
            loaded = load_pairs(*reading, spec.training.seed, Findings(quiet=True), settings.limits)
            pairs = loaded.test
        else:
            rows, _ = read_pairs(*reading, Findings(), settings.limits)
            splits = {row.split for row in rows}
            split = next(name for name in ("test", "validation", "all", "train") if name in splits)
            pairs = [row for row in rows if row.split == split]
        limits = Export.open(spec.export_dir).metadata["training"]
        predictor = spec.predictor()
        predictor.configure(Export.open(spec.export_dir))
        self.pairs = [one for one in pairs if self._is_measured(one, predictor, limits)]
        if not self.pairs:
            raise CallError(f"{data} has no pairs to measure with")

    def _is_measured(self, pair: Any, predictor: Any, limits: Any) -> bool:
        """Whether training would have kept a pair: both sides are within the model's limits."""
        from training.generation.pairs import cut

        encoded = predictor.tokenizer.encode(pair.source, predictor.text_limits.max_tokens)
        fits = len(cut(pair.targets[0], self.form)) < int(limits["max_new_tokens"])
        return bool(len(encoded.ids)) and not encoded.truncated and fits

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Metrics of the answers."""
        from training.generation.assessment import pair_metrics

        found: list[str] = []
        for start in progress(range(0, len(self.pairs), TOGETHER)):
            part = self.pairs[start : start + TOGETHER]
            bodies = [json.dumps({"text": one.source}, ensure_ascii=False).encode() for one in part]
            replies = answer([(body, "application/json") for body in bodies], {})
            found += [str(reply["text"]) for reply in replies]
        targets = [one.targets for one in self.pairs]
        return Measured({**pair_metrics(found, targets, self.form), "pairs": len(found)})

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """Nothing: their metrics stand side by side."""
        return {}


KIND = GeneratorKind()
