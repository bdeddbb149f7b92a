"""What the tool must know of a kind, with defaults for a kind of no special abilities.

A kind is one subclass of `Kind` in a module of its own. What its answers look like is known by its predictor
(`handlers.kinds`); here is what commands do with them: sum up, compare, draw, measure.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from handlers.kinds import predictor_of
from handlers.runtime.golden import difference
from handlers.runtime.predictor import Predictor
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.recorded_data import data_of, is_trained_on

Rows = list[tuple[bytes, str]]  # bodies of requests with their content types
Answer = Callable[[Rows, Mapping[str, str]], list[Any]]  # (rows, headers of every row) -> answers
Progress = Callable[[Iterable[Any]], Iterable[Any]]  # shows how far it is

SHORT = 60  # characters of a summary


@dataclass(frozen=True)
class MeasurementOptions:
    """What `marina evaluate` may say: other data than the model was trained on, a policy's episodes."""

    data: str | None = None
    episodes: int = 100
    sampled: bool = False  # a policy's draws instead of its deterministic actions


@dataclass(frozen=True)
class Measured:
    """Metrics by name, and what a measurement keeps to compare two of its runs."""

    metrics: dict[str, float]
    details: Any = field(default=None, repr=False)


class Measurement(Protocol):
    """One measurement of a model, which runs in process and through the endpoint alike."""

    is_recorded: bool  # whether the metrics that training recorded are of the same data

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Send all requests to `answer` and measure what comes back."""

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """What the two runs have in common, for the report.

        Raises WorkError if they must be equal and are not.
        """


class Kind:
    """One kind of model, as the tool sees it."""

    name: str
    import_spec: ClassVar[Mapping[str, Any]] = {}  # what else the spec of an import says
    export_defaults: Mapping[str, Any] = {}  # of a spec's section `export`, where they differ
    is_playable: ClassVar[bool] = False  # whether it acts in an environment
    # a Measurement that is made of (spec, data, whether the model learned from it)
    measurement_class: ClassVar[type[Any] | None] = None

    predictor_class: type[Predictor] | None = None  # of a kind of the project's own

    def predictor(self) -> Predictor:
        """A new predictor, not started."""
        return self.predictor_class() if self.predictor_class else predictor_of(self.name)

    @property
    def import_recipe(self) -> str | None:
        """The recipe of `marina import`, imported_KIND; None if there is none."""
        from training import recipes

        name = f"imported_{self.name}"
        return name if name in recipes.names() else None

    def summarize(self, content: Any) -> str:
        """An expectation or an answer in a few characters."""
        return shortened(json.dumps(content, separators=(",", ":")))

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether two answers lead to the same decision: by default, if they are equal but for rounding."""
        return not difference(answer, other)

    def draw(self, body: bytes, answer: Any) -> Any:
        """A PIL image of what was sent with its answer. Raises CallError if the kind has no picture."""
        raise CallError("only answers about pictures can be drawn; leave --draw out")

    def measurement(self, spec: Spec, options: MeasurementOptions) -> Measurement:
        """What measures a model of this kind: by default a `measurement_class`.

        Raises CallError if nothing does, or for data that doesn't fit.
        """
        if self.measurement_class is None:
            raise CallError(f"a {self.name} has no measurement, so {spec.name} can't be evaluated")
        data = data_of(spec, options.data)
        measurement: Measurement = self.measurement_class(spec, data, is_trained_on(spec, options.data))
        return measurement

    def check_import(self, source: str, overrides: Mapping[str, Any]) -> None:
        """Raise CallError for what an import of this kind lacks."""
        if self.import_recipe is None:
            raise CallError(f"a {self.name} can't be imported; train it with a recipe")


def shortened(text: str) -> str:
    """`text` as long as a summary may be."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
