"""What imports of pipelines share: settings, columns, the graph beside scikit-learn, rows to measure on."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import nn

from handlers.inputs.columns import CategoryColumn
from handlers.inputs.tables import Table
from handlers.runtime.checksums import file_digest
from marina.core.errors import CallError, ParityError
from marina.core.spec import Section
from training.export.trained import HELD_OUT, Sample, Trained
from training.imports.files import existing
from training.runs.run import Run
from training.tables.onnx_tables import OnnxTable
from training.tables.pipeline_graphs import OUTPUT, around
from training.tables.pipelines import (
    PipelineColumn,
    columns_of,
    graph_of,
    outputs_of_pipeline,
    read_pipeline,
)
from training.tables.preparation import rows_to_measure
from training.tables.settings import RESERVED
from training.tensors.onnx_graphs import OnnxModule, count_of, read_packages

SAME = 1e-5  # that an answer may differ by from scikit-learn's, relative to the largest where that is above 1
DRAWN = 256  # rows that the graph and scikit-learn are compared on
EXAMPLE_ROWS, SAMPLES = 4, 64


class AboutColumn(Section):
    """What is known of a column beside what the pipeline says."""

    description: str = Field(default="", description="what it is")
    unit: str = Field(default="", description="of its numbers")
    minimum: float | None = Field(default=None, description="least number that is taken")
    maximum: float | None = Field(default=None, description="largest number that is taken")
    values: tuple[str, ...] = Field(
        default=(), description="the categories of a text or whole number that an .onnx takes"
    )

    @field_validator("values", mode="before")
    @classmethod
    def _words(cls, values: Any) -> Any:
        """Whole numbers in YAML."""
        return [str(value) for value in values] if isinstance(values, list | tuple) else values


class ImportSettings(Section):
    """The settings of these recipes."""

    target_type: ClassVar[str] = "number"
    split_column: ClassVar[str | None] = None

    source: str = Field(
        description="a fitted pipeline: .skops, or a pickle (.pkl, .joblib) that is trusted; or its .onnx"
    )
    trusted_types: tuple[str, ...] = Field(
        default=(), description="types in a .skops that skops doesn't know to be harmless, by their names"
    )
    trust_pickle: bool = Field(
        default=False, description="read a pickle, which runs whatever code is in it, once"
    )
    columns: dict[str, AboutColumn] = Field(
        default={}, description="what is known of the columns beside what the pipeline says, by name"
    )
    data: str | None = Field(
        default=None, description="a table with these columns and the target, to measure on"
    )
    target: str | None = Field(default=None, description="column of the truth in the data")
    missing_values: tuple[str, ...] = Field(
        default=("", "NA", "N/A", "NaN", "nan", "null"), description="what stands for a missing cell"
    )
    licence: str = Field(default="the owner's", description="of the pipeline")

    @field_validator("missing_values", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        """-999 in YAML is a number."""
        return [str(value) for value in values] if isinstance(values, list | tuple) else values


class Single(nn.Module):
    """A graph's one output by itself."""

    def __init__(self, graph: OnnxModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, F] -> [B] or [B, classes]."""
        output: torch.Tensor = self.graph(features)[OUTPUT]
        return output


@dataclass(frozen=True)
class ImportedPipeline:
    """A pipeline that is ready to be served: its columns, its graph, and rows with their truths, if any."""

    model: Any
    table: Table
    columns: Sequence[PipelineColumn]
    module: Single
    rows: list[list[Any]]  # values in the columns' order
    truths: list[Any]

    @property
    def features(self) -> torch.Tensor:
        """Of the rows."""
        return torch.from_numpy(np.stack([self.table.encode(row) for row in self.rows]))

    def requests(self) -> list[bytes]:
        """The first rows as requests."""
        return [json.dumps(self.table.sent(row)).encode() for row in self.rows[:SAMPLES]]


def imported(settings: ImportSettings, run: Run) -> ImportedPipeline:
    """Read the pipeline and compare its graph with scikit-learn, on rows of the data or drawn ones.

    Raises CallError for what can't be read, isn't trusted or has no form in ONNX, and ParityError where the
    graph answers differently.
    """
    read_packages(settings.source)
    path = existing(settings.source, "source")
    model = _read(settings, path)
    if (classes_of(model) is not None) != (settings.target_type == "category"):
        other = "tabular_classifier" if classes_of(model) is not None else "regressor"
        raise CallError(f"{path} holds a {type(model).__name__}; import it with --kind {other}")
    columns = model.columns if isinstance(model, OnnxTable) else columns_of(model, path)
    _check_names(columns, settings, path)
    usual = [column.typical if column.categories is None else word(column) for column in columns]
    lacking = {
        column.name
        for place, column in enumerate(columns)
        if column.categories is None and _answers_without(model, columns, usual, place)
    }
    made = _built(model, columns, settings, path, lacking)
    if different := [name for name in sorted(lacking) if not _lacks_alike(made, name, run.seed)]:
        run.findings.add("columns", "must be sent: without one trees answer otherwise in ONNX", different)
        made = _built(model, columns, settings, path, lacking - set(different))
    rows, truths = rows_of(settings, run, made.table, classes_of(model) or [])
    check_equal(made, [*rows[:DRAWN], *drawn_rows(made.table, run.seed)])
    return replace(made, rows=rows, truths=truths)


def _read(settings: ImportSettings, path: Path) -> Any:
    """The estimator of scikit-learn, or the graph."""
    if path.suffix.lower() == ".onnx":
        is_class = settings.target_type == "category"
        return OnnxTable(path, settings.columns, is_class, getattr(settings, "classes", ()))
    if named := [name for name, column in settings.columns.items() if column.values]:
        raise CallError(f"columns: {named[0]!r} has values, which the pipeline says itself; leave them out")
    return read_pipeline(path, settings.trusted_types, settings.trust_pickle)


def _built(
    model: Any, columns: Sequence[PipelineColumn], settings: ImportSettings, path: Path, lacking: set[str]
) -> ImportedPipeline:
    """The pipeline with its graph; numbers of the columns `lacking` may be missing."""
    made = []
    for column in columns:
        about = settings.columns.get(column.name, AboutColumn()).model_dump(exclude={"values"})
        made.append(column.column(about, column.name in lacking))
    table = Table(tuple(made), frozenset(settings.missing_values))
    if isinstance(model, OnnxTable):
        graph, inputs, output = model.graph, model.graph_inputs(), model.output
    else:
        graph, inputs, output = graph_of(model, columns, path)
    whole = around(graph, table, inputs, output, settings.target_type == "category")
    module = OnnxModule(whole.SerializeToString(), [OUTPUT], str(path), count_of(whole))
    return ImportedPipeline(model, table, columns, Single(module), [], [])


def _lacks_alike(made: ImportedPipeline, name: str, seed: int) -> bool:
    """Whether graph and scikit-learn answer alike where a number is missing."""
    rows, place = drawn_rows(made.table, seed), made.table.names.index(name)
    for row in rows:
        for at, column in enumerate(made.table.columns):
            row[at] = None if at == place else _or_typical(column, row[at])
    apart, limit = differences(made, rows)
    return bool((apart <= limit).all())


def _or_typical(column: Any, value: Any) -> Any:
    return column.typical if value is None else value


def classes_of(model: Any) -> list[str] | None:
    """The classes of a classifier by name; None of a regressor. Raises CallError for several targets."""
    if isinstance(model, OnnxTable):
        return model.classes
    classes = getattr(model, "classes_", None)
    if classes is None:
        return None
    if isinstance(classes, list):
        raise CallError("the pipeline answers several targets at once; import one for each")
    if not hasattr(model, "predict_proba"):
        raise CallError(
            f"{type(model).__name__} has no probabilities; wrap it in scikit-learn's CalibratedClassifierCV"
        )
    return [
        str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)
        for name in classes.tolist()
    ]


def differences(made: ImportedPipeline, rows: Sequence[list[Any]]) -> tuple[np.ndarray, float]:
    """How far the graph is from scikit-learn in each row, and how far it may be."""
    features = torch.from_numpy(np.stack([made.table.encode(row) for row in rows]))
    found = made.module(features).double()
    answers = (found.softmax(1) if found.ndim == 2 else found).numpy()
    expected = _expected(made.model, made.columns, rows).reshape(answers.shape)
    apart = np.abs(answers - expected).reshape(len(rows), -1).max(1)
    return apart, SAME * max(1.0, float(np.abs(expected).max(initial=0)))


def check_equal(made: ImportedPipeline, rows: Sequence[list[Any]]) -> None:
    """Raise ParityError where the graph answers a row otherwise than scikit-learn."""
    apart, limit = differences(made, rows)
    if not (apart <= limit).all():
        worst, count = int(np.argmax(apart)), int((~(apart <= limit)).sum())
        raise ParityError(
            f"the graph answers {count} of {len(rows)} rows otherwise than its source, by "
            f"{apart[worst]:.3g} for {made.table.sent(rows[worst])}; scale numbers before they are used"
        )


def drawn_rows(table: Table, seed: int) -> list[list[Any]]:
    """Rows of numbers around what is usual, which float32 has exactly, of every category, of others and of
    missing cells.
    """
    rng = np.random.default_rng(seed)
    rows: list[list[Any]] = [[] for _ in range(DRAWN)]
    for column in table.columns:
        for row in rows:
            if isinstance(column, CategoryColumn):
                names = [*column.values, *(["~no such category~"] if column.unknown == "other" else [])]
                row.append(names[rng.integers(len(names))])
            elif column.imputes and rng.random() < 0.1:
                row.append(None)
            else:
                spread = max(1.0, abs(column.typical))
                row.append(_within(column, float(np.float32(column.typical + spread * rng.normal()))))
    return rows


def trained_from(
    kind: str, settings: ImportSettings, made: ImportedPipeline, started: float, **more: Any
) -> Trained:
    """The contract with the export: `more` are metrics, postprocess, samples and classes."""
    features = made.features
    path = existing(settings.source, "source")
    return Trained(
        kind=kind,
        module=made.module,
        onnx=made.module.graph.graph,
        parameters=made.module.graph.count,
        example=(features[torch.arange(EXAMPLE_ROWS) % len(features)],),
        validation=(features[:HELD_OUT],),
        preprocess=made.table.as_config(),
        data={
            "name": "not known",
            "source": f"imported: {settings.source}",
            "licence": settings.licence,
            "measured_on": settings.data,
        },
        training={
            "files": {path.name: file_digest(path)},
            "estimator": "ONNX" if isinstance(made.model, OnnxTable) else type(made.model).__name__,
            "seconds": round(time.monotonic() - started, 1),
        },
        **more,
    )


def samples_of(made: ImportedPipeline, expectations: Sequence[dict[str, Any] | None]) -> list[Sample]:
    """Golden requests with what is expected; rows with None for it are left out."""
    pairs = zip(made.requests(), expectations, strict=False)
    return [
        Sample(f"row-{place}", body, "application/json", expected)
        for place, (body, expected) in enumerate(pairs)
        if expected is not None
    ]


def _within(column: Any, value: float) -> float:
    low = -np.inf if column.minimum is None else column.minimum
    high = np.inf if column.maximum is None else column.maximum
    return float(min(max(value, low), high))


def _check_names(columns: Sequence[PipelineColumn], settings: ImportSettings, path: Path) -> None:
    names = [column.name for column in columns]
    for name in names:
        if name in RESERVED or not name.strip() or len(name) > 100:
            raise CallError(f"{path}: {name[:100]!r} can't be a column's name; rename it before you fit")
    if len(set(names)) < len(names):
        raise CallError(f"{path}: two columns have one name; say columns with other names, in their order")
    if unknown := [name for name in settings.columns if name not in names]:
        raise CallError(f"columns: the pipeline takes no {unknown[0]!r}; it takes {', '.join(names[:40])}")


def word(column: PipelineColumn) -> str:
    """A category of a column."""
    made = column.column({}, False)
    return str(made.typical)


def _expected(model: Any, columns: Sequence[PipelineColumn], rows: Sequence[Sequence[Any]]) -> np.ndarray:
    """What the model itself answers."""
    return model.answers(rows) if isinstance(model, OnnxTable) else outputs_of_pipeline(model, columns, rows)


def _answers_without(model: Any, columns: Sequence[PipelineColumn], usual: Sequence[Any], place: int) -> bool:
    row = list(usual)
    row[place] = None
    try:
        return bool(np.isfinite(_expected(model, columns, [row])).all())
    except (ValueError, CallError):  # as scikit-learn says that it takes no NaN
        return False


def rows_of(
    settings: ImportSettings, run: Run, table: Table, classes: Sequence[str]
) -> tuple[list[list[Any]], list[Any]]:
    """Rows of the data with their truths, or drawn ones without."""
    if settings.data is None:
        return drawn_rows(table, run.seed + 1), []
    if settings.target is None:
        raise CallError("data needs a target: the column of the truth, --set training.target=NAME")
    sent, truths = rows_to_measure(cast(Any, settings), run.seed, table, classes, False)
    return [table.read(row) for row in sent], truths
