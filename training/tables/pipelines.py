"""Fitted pipelines of scikit-learn: read from their files, their columns, and their graph in ONNX.

A .skops file is read by skops, which constructs the types alone that it knows to be harmless and those that
are named as trusted. A pickle runs whatever code is in it, so it is read only where the caller trusts it.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handlers.inputs.columns import CategoryColumn, Column, NumberColumn
from marina.core.errors import CallError
from training.imports.files import first_line
from training.tables.pipeline_graphs import SCALE, GraphInput

PICKLES = (".pkl", ".pickle", ".joblib")
NEEDED = "pipelines of scikit-learn need skops and skl2onnx: pip install 'marina[sklearn]'"
OPSETS = {"": 18, "ai.onnx.ml": 3}
OTHER = ("~other~", "~another~")  # a category that no pipeline has learned
TAKES_OTHERS = ("ignore", "infrequent_if_exist", "use_encoded_value", "warn")


@dataclass(frozen=True)
class PipelineColumn:
    """A column that a pipeline takes: its categories as it learned them, None for numbers, whether it takes
    others, too, and what stands for "nothing special".
    """

    name: str
    categories: np.ndarray | None = None
    takes_others: bool = False
    typical: float = 0.0

    @property
    def table_of_categories(self) -> np.ndarray | None:
        """The categories by the index that is sent, the last one for all others where these are taken."""
        if self.categories is None:
            return None
        dtype = {"O": object, "U": object, "f": np.float32}.get(self.categories.dtype.kind, np.int64)
        values = self.categories.astype(dtype)
        return np.append(values, self.other).astype(dtype) if self.takes_others else values

    @property
    def other(self) -> Any:
        """A category that it has not learned."""
        assert self.categories is not None
        if self.categories.dtype.kind in "OU":
            return next(name for name in OTHER if name not in self.categories)
        return self.categories.max() + 1

    def column(self, about: Mapping[str, Any], may_lack: bool) -> Column:
        """As requests have it."""
        missing = "impute" if may_lack else "error"
        if self.categories is None:
            return NumberColumn(
                self.name, mean=0.0, deviation=SCALE, missing=missing, baseline=self.typical, **about
            )
        values = tuple(word_of(value) for value in self.categories.tolist())
        unknown = "other" if self.takes_others else "error"
        about = {key: value for key, value in about.items() if key in ("description", "unit")}
        return CategoryColumn(
            self.name, values=values, unknown=unknown, dimension=1, baseline=values[0], **about
        )


def read_pipeline(path: Path, trusted: Sequence[str], trust_pickle: bool) -> Any:
    """The fitted estimator in a file.

    Raises CallError without the packages, for a pickle that isn't trusted, for types that aren't, with their
    names, and for what is no fitted estimator.
    """
    is_pickle = path.suffix.lower() in PICKLES
    model = _unpickled(path, trust_pickle) if is_pickle else _from_skops(path, trusted)
    if not hasattr(model, "predict") or not hasattr(model, "n_features_in_"):
        raise CallError(f"{path} holds a {type(model).__name__}, and no fitted estimator of scikit-learn")
    return model


def _from_skops(path: Path, trusted: Sequence[str]) -> Any:
    try:
        from skops import io
    except ImportError as error:
        raise CallError(f"{path}: {NEEDED}") from error
    try:
        unknown = sorted(set(io.get_untrusted_types(file=path)) - set(trusted))
        if unknown:
            every = [*trusted, *unknown]
            raise CallError(
                f"{path} holds types that skops does not know to be harmless: {', '.join(unknown)}. Where "
                f"you know the file, trust them: --set training.trusted_types='[{', '.join(every)}]'"
            )
        return io.load(path, trusted=list(trusted))
    except CallError:
        raise
    except Exception as error:  # of a zip, of JSON, of a type that can't be constructed
        raise CallError(f"{path} can't be read by skops: {first_line(error)}") from error


def _unpickled(path: Path, is_trusted: bool) -> Any:
    if not is_trusted:
        raise CallError(
            f"{path} is a pickle, and reading it could run any code; save the pipeline with "
            "skops.io.dump(pipeline, 'pipeline.skops'), or trust this file with --trust-pickle"
        )
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # whatever its code raises
        raise CallError(f"{path} can't be read: {first_line(error)}") from error


def word_of(value: Any) -> str:
    """A category as requests have it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def columns_of(model: Any, path: Path) -> list[PipelineColumn]:
    """The columns that the pipeline takes, without those that it drops.

    Raises CallError for one that is a number here and a category there, and for missing categories.
    """
    names = [str(name) for name in getattr(model, "feature_names_in_", [])]
    names = names or [f"x{place}" for place in range(int(model.n_features_in_))]
    found: dict[str, PipelineColumn] = {}
    for transformer, places in _parts(model, len(names)):
        categories = _categories_of(transformer, len(places))
        means = _means_of(transformer, len(places))
        for place, learned, mean in zip(places, categories, means, strict=True):
            takes_others = learned is not None and learned[1]
            values = learned[0] if learned else None
            column = PipelineColumn(names[place], values, takes_others, mean)
            before = found.setdefault(column.name, column)
            if (before.categories is None) != (values is None):
                raise CallError(f"{path}: the column {column.name!r} is a number here and a category there")
            if values is not None and any(_is_missing(value) for value in values.tolist()):
                raise CallError(
                    f"{path}: {column.name!r} has learned missing cells as a category; fill them before"
                )
    return [found[name] for name in names if name in found]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and bool(np.isnan(value)))


def _parts(model: Any, count: int) -> list[tuple[Any, list[int]]]:
    """What each column goes through first, and which columns."""
    first = _column_transformer(model)
    if first is None:
        return [(model, list(range(count)))]
    places = first._transformer_to_input_indices
    parts = [(one, list(places[name])) for name, one, _ in first.transformers_ if name in places]
    return [(one, which) for one, which in parts if not (isinstance(one, str) and one == "drop")]


def _column_transformer(model: Any) -> Any:
    """What gives each column its own steps first, if anything does."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    first = model.steps[0][1] if isinstance(model, Pipeline) else model
    return first if isinstance(first, ColumnTransformer) else None


def _steps(transformer: Any) -> list[Any]:
    from sklearn.pipeline import Pipeline

    return [step for _, step in transformer.steps] if isinstance(transformer, Pipeline) else [transformer]


def _categories_of(transformer: Any, count: int) -> list[tuple[np.ndarray, bool] | None]:
    """The categories of each column and whether others are taken, where an encoder comes first."""
    for step in _steps(transformer):
        learned = getattr(step, "categories_", None)
        if isinstance(learned, list) and len(learned) == count:
            takes = str(getattr(step, "handle_unknown", "error")) in TAKES_OTHERS
            return [(np.asarray(values), takes) for values in learned]
        if "Imputer" not in type(step).__name__:
            break
    return [None] * count


def _means_of(transformer: Any, count: int) -> list[float]:
    """What stands for each number in explanations: the mean of a scaler, the value of an imputer."""
    for step in _steps(transformer):
        for name in ("mean_", "center_", "statistics_"):
            values = getattr(step, name, None)
            if values is not None and np.shape(values) == (count,):
                try:
                    return [float(value) if np.isfinite(value) else 0.0 for value in values]
                except TypeError:  # of categories
                    pass
    return [0.0] * count


def graph_of(model: Any, columns: Sequence[PipelineColumn], path: Path) -> tuple[Any, list[GraphInput], str]:
    """The pipeline in ONNX, its inputs, and the name of the output with values or probabilities.

    Raises CallError where skl2onnx has no form of a step.
    """
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    except ImportError as error:
        raise CallError(f"{path}: {NEEDED}") from error
    types = {"O": StringTensorType, "U": StringTensorType, "i": Int64TensorType, "u": Int64TensorType}
    types["b"] = Int64TensorType
    if hasattr(model, "feature_names_in_") and _column_transformer(model) is not None:
        groups = [(column.name, [column]) for column in columns]
    else:
        groups = [("X", list(columns))]
    inputs, initial = [], []
    for name, group in groups:
        kinds = {"f" if one.categories is None else one.categories.dtype.kind for one in group}
        if len({types.get(kind, FloatTensorType) for kind in kinds}) > 1:
            raise CallError(
                f"{path} takes numbers and texts in one array; fit it on a table with column names"
            )
        initial.append((name, types.get(kinds.pop(), FloatTensorType)([None, len(group)])))
        tables = tuple(one.table_of_categories for one in group)
        inputs.append(GraphInput(name, tuple(one.name for one in group), tables))
    is_class = hasattr(model, "predict_proba")
    try:
        with warnings.catch_warnings(), _whole_numbers():
            warnings.simplefilter("ignore")
            options = {"zipmap": False} if is_class else None
            made = to_onnx(model, initial_types=initial, target_opset=OPSETS, options=options)
    except Exception as error:  # whatever a step's converter raises
        raise CallError(f"{path} has no form in ONNX: {first_line(error)}") from error
    return made, inputs, [one.name for one in made.graph.output][-1 if is_class else 0]


@contextmanager
def _whole_numbers() -> Iterator[None]:
    """skl2onnx 1.20 gives truths for the leaves of histogram trees, which protobuf takes for no numbers."""
    from skl2onnx.common import tree_ensemble

    original = tree_ensemble.add_node

    def add_node(*arguments: Any, **named: Any) -> Any:
        name = "nodes_missing_value_tracks_true"
        return original(*arguments, **{**named, name: int(named.get(name, 0))})

    tree_ensemble.add_node = add_node
    try:
        yield
    finally:
        tree_ensemble.add_node = original


def outputs_of_pipeline(
    model: Any, columns: Sequence[PipelineColumn], cells: Sequence[Sequence[Any]]
) -> np.ndarray:
    """What scikit-learn gives for rows of cells, None for a missing number: values [N] or probabilities
    [N, classes], float64.
    """
    arrays = []
    for place, column in enumerate(columns):
        values = [row[place] for row in cells]
        if column.categories is None:
            arrays.append(np.array([np.nan if one is None else one for one in values], np.float64))
            continue
        words = {word_of(value): value for value in column.categories.tolist()}
        dtype = object if column.categories.dtype.kind in "OU" else column.categories.dtype
        arrays.append(np.array([words.get(one, column.other) for one in values], dtype))
    if hasattr(model, "feature_names_in_"):
        import pandas

        taken = {column.name: array for column, array in zip(columns, arrays, strict=True)}
        blank = np.zeros(len(cells))
        names = [str(name) for name in model.feature_names_in_]
        rows: Any = pandas.DataFrame({name: taken.get(name, blank) for name in names})
    else:
        rows = np.stack(arrays, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows)
    return np.asarray(found, np.float64)
