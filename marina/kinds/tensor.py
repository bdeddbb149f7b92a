"""Models of named tensors: equal answers are the same decision, and a data file measures them."""

from typing import Any

import numpy as np

from handlers.runtime.export import Export
from marina.core.spec import Spec
from marina.kinds.kind import Kind, Measured, shortened
from marina.kinds.measurement import RequestMeasurement, largest_difference
from marina.kinds.recorded_data import is_import

LISTED = 4  # values of an output that fit into a table


class TensorMetrics(RequestMeasurement):
    """The metrics of each output on a file of named arrays; both runs must answer alike."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
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
        arrays = load_arrays(data, wanted)
        super().__init__(spec, data, is_recorded)
        if is_recorded and not is_import(spec):
            from training.recipes.tensor import held_out

            rows = held_out(len(arrays[self.inputs[0]]), spec.training.seed)
            arrays = {name: array[rows] for name, array in arrays.items()}
        self.arrays = arrays

    def requests(self) -> list[Any]:
        """The inputs of each row."""
        rows = range(len(self.arrays[self.inputs[0]]))
        return [{name: self.arrays[name][row].tolist() for name in self.inputs} for row in rows]

    def score(self, answers: list[Any]) -> Measured:
        """What the recipe measures of each output."""
        from training.tensors.evaluation import by_output, metrics_of

        found = {name: np.array([reply[name] for reply in answers]) for name in self.losses}
        metrics = {
            name: metrics_of(found[name], self.arrays[self.targets[name]], loss)
            for name, loss in self.losses.items()
        }
        return Measured(by_output(metrics), found)

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """The largest difference. Raises WorkError where it is more than rounding."""
        differences = [largest_difference(served.details[name], own) for name, own in local.details.items()]
        return {"rows": len(next(iter(local.details.values()))), "largest_difference": max(differences)}


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


class TensorKind(Kind):
    """Named tensors -> named tensors."""

    name = "tensor"
    measurement_class = TensorMetrics

    def summarize(self, content: Any) -> str:
        """Each output: a scalar, or its first values."""
        if isinstance(content, dict):
            return shortened(", ".join(f"{name} {_short(value)}" for name, value in content.items()))
        return super().summarize(content)


KIND = TensorKind()
