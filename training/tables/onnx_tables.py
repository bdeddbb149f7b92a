"""Models for rows that come as an ONNX graph: one matrix of numbers, or an input per column, as skl2onnx
writes them with `FloatTensorType([None, 1])`. Their answers are one value, or probabilities of classes.

What the graph can't say is in the spec: the names of a matrix's columns, the categories of a text, sometimes
the classes. Not covered: whole numbers that are no categories, several outputs of a regressor.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from marina.core.errors import CallError
from training.imports.files import first_line
from training.tables.pipeline_graphs import GraphInput
from training.tables.pipelines import PipelineColumn, word_of
from training.tensors.onnx_graphs import read_onnx

PREFIX = "imported_"  # of the graph's own names, so that none is one of those put around it
FLOAT, DOUBLE, INT64, STRING = 1, 11, 7, 8  # of TensorProto
LABELS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")


class TableInput(NamedTuple):
    """An input of the graph: its dtype (of TensorProto), and which columns it holds."""

    name: str
    dtype: int
    columns: list[str]


class OnnxTable:
    """A graph for rows: its columns, its classes (None of a regressor), and what it answers."""

    def __init__(self, path: Path, about: Mapping[str, Any], is_class: bool, classes: Sequence[str]) -> None:
        import onnxruntime
        from onnx import compose

        self.path = path
        made, zipped = _without_zipmap(read_onnx(path), path)
        self.graph = compose.add_prefix(made, PREFIX)
        self.inputs = _inputs_of(self.graph, list(about), path)
        self.columns = [
            _column(name, one.dtype, about.get(name), path) for one in self.inputs for name in one.columns
        ]
        self.output = _output_of(self.graph, is_class, path)
        self.classes: list[str] | None = None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            content = self.graph.SerializeToString()
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever it raises for a graph that it can't compute
            raise CallError(f"{path}: ONNX Runtime can't compute it: {first_line(error)}") from error
        usual: list[Any] = [
            column.typical if column.categories is None else word_of(column.categories[0])
            for column in self.columns
        ]
        found = self.answers([usual, usual])
        if is_class:
            self.classes = list(classes) or zipped or _classes_of(self.graph) or []
            _check_probabilities(found, self.classes, path)
        elif found.shape != (2,):
            raise CallError(f"{path} gives {found.shape[1:]} per row; a regressor gives one number")

    def graph_inputs(self) -> list[GraphInput]:
        """What is put before the graph."""
        by_name = {column.name: column for column in self.columns}
        return [
            GraphInput(
                one.name,
                tuple(one.columns),
                tuple(by_name[name].table_of_categories for name in one.columns),
                DOUBLE if one.dtype == DOUBLE else None,
            )
            for one in self.inputs
        ]

    def answers(self, cells: Sequence[Sequence[Any]]) -> np.ndarray:
        """What the graph gives for rows of cells, None for a missing number: values [N] or probabilities
        [N, classes], float64.
        """
        places = {column.name: place for place, column in enumerate(self.columns)}
        fed = {}
        for one in self.inputs:
            arrays = []
            for name in one.columns:
                column, values = self.columns[places[name]], [row[places[name]] for row in cells]
                if column.categories is None:
                    dtype: Any = np.float64 if one.dtype == DOUBLE else np.float32
                    arrays.append(np.array([np.nan if value is None else value for value in values], dtype))
                else:
                    known = {word_of(value): value for value in column.categories.tolist()}
                    arrays.append(np.array([known[value] for value in values], column.categories.dtype))
            fed[one.name] = np.stack(arrays, 1)
        try:
            (found,) = self.session.run([self.output], fed)
        except Exception as error:  # of an operation that doesn't take such cells
            raise CallError(f"{self.path}: ONNX Runtime can't compute it: {first_line(error)}") from error
        answers = np.asarray(found, np.float64)
        return (
            answers
            if self.classes is not None or answers.ndim < 2 or answers.shape[1] != 1
            else answers[:, 0]
        )


def _without_zipmap(model: Any, path: Path) -> tuple[Any, list[str]]:
    """The model with probabilities as a tensor where ZipMap made dictionaries of them; its classes."""
    from onnx import TensorProto, helper

    found = [node for node in model.graph.node if node.op_type == "ZipMap"]
    if not found:
        return model, []
    (node, *others) = found
    if others:
        raise CallError(f"{path} answers several targets at once; import one for each")
    classes = _labels_of(node)
    model.graph.node.remove(node)
    kept = [one for one in model.graph.output if one.name != node.output[0]]
    probabilities = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [None, len(classes)])
    del model.graph.output[:]
    model.graph.output.extend([*kept, probabilities])
    return model, classes


def _labels_of(node: Any) -> list[str]:
    for attribute in node.attribute:
        if attribute.name in LABELS and (attribute.strings or attribute.ints):
            words = [one.decode() for one in attribute.strings]
            return words or [str(one) for one in attribute.ints]
    return []


def _classes_of(model: Any) -> list[str]:
    """The classes that a classifier's node names."""
    return next((labels for node in model.graph.node if (labels := _labels_of(node))), [])


def _inputs_of(model: Any, declared: Sequence[str], path: Path) -> list[TableInput]:
    """The graph's inputs. Raises CallError for others than [N, columns] of numbers or texts."""
    constants = {one.name for one in model.graph.initializer}
    values = [one for one in model.graph.input if one.name not in constants]
    made = []
    for value in values:
        tensor = value.type.tensor_type
        dims = [one.dim_value if one.HasField("dim_value") else None for one in tensor.shape.dim]
        if len(dims) != 2 or dims[0] is not None or tensor.elem_type not in (FLOAT, DOUBLE, INT64, STRING):
            raise CallError(
                f"{path}: the input {value.name.removeprefix(PREFIX)!r} is no table: [N, columns] of "
                "float, double, int64 or string with any N; other graphs are imported with --kind tensor"
            )
        name = value.name.removeprefix(PREFIX)
        width = dims[1] or (len(declared) if len(values) == 1 else 1)
        names = [name] if width == 1 else [f"{name}_{place}" for place in range(width)]
        if len(values) == 1 and declared:
            names = list(declared)
        if len(names) != width:
            raise CallError(
                f"{path} takes {width} columns, and columns names {len(names)}; name them in their order"
            )
        made.append(TableInput(value.name, tensor.elem_type, names))
    return made


def _column(name: str, dtype: int, about: Any, path: Path) -> PipelineColumn:
    values = tuple(about.values) if about else ()
    if dtype in (FLOAT, DOUBLE):
        if values:
            raise CallError(
                f"columns: {path} takes numbers as {name!r}, which have no values; leave them out"
            )
        low, high = (about.minimum, about.maximum) if about else (None, None)
        ends = [one for one in (low, high) if one is not None]
        return PipelineColumn(name, typical=float(np.mean(ends)) if ends else 0.0)
    if not values:
        what = "texts" if dtype == STRING else "whole numbers"
        raise CallError(
            f"{path} takes {what} as {name!r}; say which there are: columns: {{{name}: {{values: [...]}}}}"
        )
    try:
        made = (
            np.array(values, object) if dtype == STRING else np.array([int(one) for one in values], np.int64)
        )
    except ValueError as error:
        raise CallError(f"columns: {name!r} takes whole numbers: {error}") from error
    return PipelineColumn(name, made)


def _output_of(model: Any, is_class: bool, path: Path) -> str:
    """The name of the output with values or probabilities."""
    floats = [one.name for one in model.graph.output if one.type.tensor_type.elem_type in (FLOAT, DOUBLE)]
    if not floats:
        hint = "the labels alone; convert it so that it gives probabilities, too" if is_class else "no number"
        raise CallError(f"{path} gives {hint}")
    if not is_class and len(model.graph.output) > 1:
        raise CallError(
            f"{path} has {len(model.graph.output)} outputs; import with --kind tabular_classifier, or tensor"
        )
    return str(floats[-1])


def _check_probabilities(found: np.ndarray, classes: Sequence[str], path: Path) -> None:
    if found.ndim != 2 or found.shape[1] < 2:
        raise CallError(f"{path} gives {found.shape[1:]} per row; a classifier gives a probability per class")
    if len(classes) != found.shape[1]:
        known = f"names {len(classes)} classes" if classes else "doesn't name its classes"
        raise CallError(
            f"{path} gives {found.shape[1]} probabilities and {known}; name them in their order: "
            "--set training.classes='[...]'"
        )
    if not (np.abs(found.sum(1) - 1) < 1e-3).all() or (found < 0).any():
        raise CallError(f"{path} gives {found[0].round(4).tolist()}, which are no probabilities")
