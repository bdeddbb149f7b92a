"""What the kinds for rows of a table share: rows by name, in order or as CSV, and what a column contributes.

{"age": 63, "sex": "f", "since": "2019-04-01"}    the answer
[{...}, {...}], or CSV with a header              {"rows": [answer or {"error": {...}}, ...]}
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..inputs.tables import Table, rows_of
from ..protocol.errors import BadRequest
from ..protocol.options import object_schema
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from ..runtime.predictor import Predictor


class ColumnPredictor(Predictor):
    """Reads what has named columns, as CSV too."""

    file_types: ClassVar[tuple[str, ...]] = ("text/csv",)
    # an index of an embedding, as a float, has no room in fewer bits
    reduced_precision_instances: ClassVar[int | None] = None


class TablePredictor(ColumnPredictor):
    """Reads and encodes rows; a subclass says what the graph's output means."""

    def configure(self, export: Export) -> None:
        """Read the columns of an export."""
        super().configure(export)
        self.table = Table.from_config(export.preprocess)

    def input_names(self) -> list[str]:
        """The tensors of a request in the Open Inference Protocol: the columns."""
        return self.table.names

    def rows_of(self, payload: Any, most: int) -> list[Any] | None:
        """CSV, and lists of rows."""
        return rows_of(payload, most)

    def decode(self, instance: Instance) -> list[Any]:
        """The row's values in the columns' order, None where one is missing and imputed."""
        try:
            return self.table.read(instance.payload)
        except BadRequest as refusal:
            where = f"row {instance.position}: " if instance.position else ""
            raise BadRequest(f"{where}{refusal}") from None

    def preprocess(self, item: list[Any], instance: Instance) -> Prepared:
        """Its features."""
        return Prepared((self.table.encode(item),), instance.options)

    def explanation(self, item: list[Any], prepared: Prepared) -> dict[str, Any]:
        """How much of the answer goes away when a column's cell is replaced by its baseline, column by column
        (occlusion; Zeiler and Fergus 2014, section 2.1, of pictures).
        """
        (features,) = prepared.arrays
        baseline = self.table.encode([column.typical for column in self.table.columns])
        batch = np.repeat(features[None], len(self.table.columns) + 2, 0)
        batch[1] = baseline
        for place, part in enumerate(self.table.slices.values(), 2):
            batch[place, part] = baseline[part]
        found, about = self.explained(self._outputs(batch))
        contributions = found[0] - found[2:]
        return {
            **about,
            "value": float(found[0]),
            "baseline_value": float(found[1]),
            "method": "occlusion",
            "contributions": dict(zip(self.table.names, contributions.tolist(), strict=True)),
            "baseline": self.table.sent([column.typical for column in self.table.columns]),
        }

    def explained(self, outputs: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """The number [B] that an explanation is about, the first row's own, and what else it says of it."""
        raise NotImplementedError

    def request_schema(self) -> dict[str, Any]:
        """An object with every column, or a list in their order."""
        cells = {column.name: column.schema() for column in self.table.columns}
        by_name = object_schema(cells, list(cells))
        in_order = {
            "type": "array",
            "prefixItems": list(cells.values()),
            "minItems": len(cells),
            "maxItems": len(cells),
        }
        return {"anyOf": [by_name, in_order]}

    def explanation_schema(self) -> dict[str, Any]:
        """The explained number, and what each column contributes to it."""
        number = {"type": "number"}
        about = "how much less the value would be with this column's baseline in the place of its cell"
        properties = {
            **self.explained_schema(),
            "value": number,
            "baseline_value": {**number, "description": "of a row of all baselines"},
            "method": {"type": "string", "enum": ["occlusion"]},
            "contributions": {
                "type": "object",
                "properties": {name: {**number, "description": about} for name in self.table.names},
            },
            "baseline": {
                "type": "object",
                "description": "the training rows' medians and most frequent categories",
            },
        }
        return {"type": "object", "properties": properties, "required": list(properties)}

    def explained_schema(self) -> dict[str, Any]:
        """The properties that `explained` adds."""
        return {}

    def _outputs(self, features: np.ndarray) -> np.ndarray:
        """The graph's output for [N, F], as many rows at a time as it takes."""
        most = int(self.metadata["max_batch"])
        parts: Sequence[np.ndarray] = [
            self.model(features[start : start + most]) for start in range(0, len(features), most)
        ]
        return np.concatenate(parts)
