"""The ONNX graph of a pipeline of scikit-learn, between a table's features and what a kind's graph gives.

Before it: features float32 [B, F], as `Table` encodes rows -> the pipeline's own columns: numbers, NaN where
one is missing, and categories as they were learned, by their index. Behind it: values [B], or the logarithms
of probabilities [B, classes], whose softmax they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handlers.inputs.columns import CategoryColumn, Column
from handlers.inputs.tables import Table

SCALE = float(2**40)  # numbers are sent divided by it: exactly, and no number is too far from a mean
FEATURES, OUTPUT = "features", "output"
LEAST = 1e-37  # of a probability, whose logarithm is finite in float32


@dataclass(frozen=True)
class GraphInput:
    """An input of the pipeline's graph [B, columns], the categories of each by index, None of numbers, and
    the dtype (of TensorProto) of numbers that are no float32.
    """

    name: str
    columns: tuple[str, ...]
    categories: tuple[np.ndarray | None, ...]
    dtype: int | None = None


class _Nodes:
    """Nodes and constants that are put around a graph."""

    def __init__(self, onnx: Any) -> None:
        self.onnx, self.nodes, self.constants = onnx, list[Any](), list[Any]()

    def constant(self, values: np.ndarray) -> str:
        """The name of a constant."""
        name = f"table_constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def cast(self, value: str, dtype: int, named: str = "") -> str:
        """The name of a value in another dtype."""
        return self.add("Cast", value, named=named, to=dtype)

    def add(self, kind: str, *inputs: str, named: str = "", **attributes: Any) -> str:
        """The name of what a new node gives."""
        name = named or f"table_value_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name


def around(model: Any, table: Table, inputs: Sequence[GraphInput], output: str, is_class: bool) -> Any:
    """The whole graph, FEATURES -> OUTPUT."""
    import onnx

    before, behind = _Nodes(onnx), _Nodes(onnx)
    behind.constants = before.constants
    columns = {column.name: column for column in table.columns}
    for one in inputs:
        parts = [
            _column(before, columns[name], table.slices[name].start, categories)
            for name, categories in zip(one.columns, one.categories, strict=True)
        ]
        if one.dtype is None:
            before.add("Concat", *parts, named=one.name, axis=1)
        else:
            before.cast(before.add("Concat", *parts, axis=1), one.dtype, one.name)
    numbers = behind.cast(output, onnx.TensorProto.FLOAT, f"{OUTPUT}_numbers")
    if is_class:
        least = before.constant(np.array(LEAST, np.float32))
        behind.add("Log", behind.add("Max", numbers, least, named=f"{OUTPUT}_clipped"), named=OUTPUT)
        shape: list[Any] = ["batch", None]
    else:
        behind.add("Reshape", numbers, before.constant(np.array([-1])), named=OUTPUT)
        shape = ["batch"]
    number = onnx.TensorProto.FLOAT
    width = sum(part.stop - part.start for part in table.slices.values())
    graph = onnx.helper.make_graph(
        [*before.nodes, *model.graph.node, *behind.nodes],
        "pipeline",
        [onnx.helper.make_tensor_value_info(FEATURES, number, ["batch", width])],
        [onnx.helper.make_tensor_value_info(OUTPUT, number, shape)],
        [*model.graph.initializer, *before.constants],
    )
    made = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(made)
    return made


def _column(nodes: _Nodes, column: Column, start: int, categories: np.ndarray | None) -> str:
    """A column [B, 1] as the pipeline takes it."""
    place = nodes.constant(np.array([start]))
    sent = nodes.add("Gather", FEATURES, place, axis=1)
    if categories is not None:
        assert isinstance(column, CategoryColumn)
        index = nodes.cast(sent, nodes.onnx.TensorProto.INT64)
        return nodes.add("Gather", nodes.constant(categories), index, axis=0)
    number = nodes.add("Mul", sent, nodes.constant(np.array(SCALE, np.float32)))
    if not column.imputes:
        return number
    flag = nodes.add("Gather", FEATURES, nodes.constant(np.array([start + 1])), axis=1)
    is_missing = nodes.add("Greater", flag, nodes.constant(np.array(0.5, np.float32)))
    return nodes.add("Where", is_missing, nodes.constant(np.array(np.nan, np.float32)), number)
