"""Models of named tensors: equal answers are the same decision, and a data file measures them."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from handlers.runtime.export import Export
from marina.core.errors import CallError, WorkError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Kind, Measured, MeasurementOptions, Progress
from marina.kinds.recorded_data import data_of, is_import, is_trained_on

TOGETHER = 64  # rows that are sent at once
SAME = 1e-3  # that answers of two runs may differ by, relative to values above 1

LISTED = 4  # values of an output that fit into a table


class TensorKind(Kind):
    """Named tensors -> named tensors."""

    name = "tensor"
    import_recipe: ClassVar[str | None] = "imported_tensor"

    def summarize(self, content: Any) -> str:
        """Each output: a scalar, or its first values."""
        if not isinstance(content, dict):
            return super().summarize(content)
        text = ", ".join(f"{name} {_short(value)}" for name, value in content.items())
        return text if len(text) <= 60 else text[:59] + "…"

    def draw(self, body: bytes, answer: Any) -> Any:
        """Tensors have no picture."""
        raise CallError("only answers about pictures can be drawn; leave --draw out")

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "TensorMetrics":
        """What the recipe measured, on the rows that it held out, or on all of another file."""
        return TensorMetrics(spec, data_of(spec, options.data), is_trained_on(spec, options.data))

    def check_import(self, source: str, overrides: Mapping[str, Any]) -> None:
        """The recipe says what it lacks."""


class TensorMetrics:
    """The metrics of each output on a file of named arrays; both runs must answer alike."""

    def __init__(self, spec: Spec, path: str, is_recorded: bool) -> None:
        from training import recipes
        from training.data.arrays import load_arrays

        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec)
        self.inputs = [field["name"] for field in export.preprocess["inputs"]]
        heads = {
            name: settings.outputs.get(name) for name in (f["name"] for f in export.postprocess["outputs"])
        }
        self.losses = {name: getattr(head, "loss", "") for name, head in heads.items()}
        self.targets = {name: getattr(head, "target", None) or name for name, head in heads.items()}
        wanted = {name: f"the input {name}" for name in self.inputs}
        wanted |= {array: f"the truth of the output {name}" for name, array in self.targets.items()}
        arrays = load_arrays(path, wanted)
        self.is_recorded = is_recorded
        if is_recorded and not is_import(spec):
            from training.recipes.tensor import held_out

            rows = held_out(len(arrays[self.inputs[0]]), spec.training.seed)
            arrays = {name: array[rows] for name, array in arrays.items()}
        self.arrays = arrays

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Send every row as a request of its own."""
        from training.tensors.evaluation import by_output, metrics_of

        count = len(self.arrays[self.inputs[0]])
        replies: list[Any] = []
        for start in progress(range(0, count, TOGETHER)):
            bodies = [
                json.dumps({name: self.arrays[name][row].tolist() for name in self.inputs}).encode()
                for row in range(start, min(count, start + TOGETHER))
            ]
            replies += answer([(body, "application/json") for body in bodies], {})
        found = {name: np.array([reply[name] for reply in replies]) for name in self.losses}
        metrics = {
            name: metrics_of(found[name], self.arrays[self.targets[name]], loss)
            for name, loss in self.losses.items()
        }
        return Measured(by_output(metrics), found)

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """The largest difference. Raises WorkError where it is more than rounding."""
        worst = 0.0
        for name, values in local.details.items():
            scale = max(1.0, float(np.abs(values).max(initial=0)))
            worst = max(worst, float(np.abs(served.details[name] - values).max(initial=0)) / scale)
        if worst > SAME:
            raise WorkError(f"the endpoint's answers are off by {worst:.3g} from those of this process")
        return {"rows": len(next(iter(local.details.values()))), "largest_difference": worst}


def _short(value: Any) -> str:
    """A nested list by its first values."""
    flat = value
    depth = 0
    while isinstance(flat, list) and flat and isinstance(flat[0], list):
        flat, depth = flat[0], depth + 1
    if not isinstance(flat, list):
        return f"{flat:.4g}" if isinstance(flat, float) else str(flat)
    shown = " ".join(f"{one:.3g}" if isinstance(one, float) else str(one) for one in flat[:LISTED])
    more = " …" if len(flat) > LISTED or depth else ""
    return f"[{shown}{more}]"


KIND = TensorKind()
