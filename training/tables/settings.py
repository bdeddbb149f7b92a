"""The settings that recipes for rows of a table share, and what a spec says of a column."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from handlers.inputs.columns import CategoryColumn, Column, NumberColumn
from handlers.inputs.date_columns import DateColumn
from marina.core.spec import Section
from training.runs.schedules import FitSettings, LargeBatchSize, ShortEpochs

RESERVED = ("instances", "inputs", "top_k")  # what a request's JSON has already
# key -> the types of columns that have it
KEYS = {
    "minimum": ("number", "date"),
    "maximum": ("number", "date"),
    "scaling": ("number",),
    "values": ("category",),
    "unknown": ("category",),
    "min_count": ("category",),
    "embedding": ("category",),
    "form": ("date",),
    "parts": ("date",),
}
SplitShare = Annotated[float, Field(gt=0, lt=0.5)]  # of the data
Part = Literal["elapsed", "year", "month", "day", "weekday", "hour", "day_of_year"]


class ColumnSettings(Section):
    """One column that a model learns from."""

    type: Literal["number", "category", "date"] = Field(description="of its cells")
    description: str = Field(default="", description="what it is")
    unit: str = Field(default="", description="of its numbers")
    missing: Literal["error", "impute"] | None = Field(
        default=None,
        description=(
            "impute: the median, or a category of their own, and a feature that says so; default: impute "
            "where training rows lack cells, else error"
        ),
    )
    minimum: float | str | None = Field(default=None, description="least number, or first date (ISO 8601)")
    maximum: float | str | None = Field(default=None, description="largest number, or last date")
    scaling: Literal["standard", "quantiles"] = Field(
        default="standard",
        description="of numbers: to mean 0 and deviation 1, or to their rank among the training rows",
    )
    values: tuple[str, ...] = Field(default=(), description="the categories; default: the training rows'")
    unknown: Literal["error", "other"] = Field(
        default="error", description="what an unknown category is; other: a category that stands for all"
    )
    min_count: int = Field(
        default=1, ge=1, description="with unknown: other, categories of fewer training rows are other, too"
    )
    embedding: int = Field(
        default=0, ge=0, le=1024, description="so many learned numbers per category; 0: one-hot"
    )
    form: str = Field(default="", description="how dates are written, like %d.%m.%Y; default: ISO 8601")
    parts: tuple[Part, ...] = Field(
        default=("elapsed", "day_of_year", "weekday"), min_length=1, description="what is learned of a date"
    )

    @model_validator(mode="before")
    @classmethod
    def _type_alone(cls, content: Any) -> Any:
        """`age: number` stands for `age: {type: number}`."""
        return {"type": content} if isinstance(content, str) else content

    @field_validator("values", mode="before")
    @classmethod
    def _as_texts(cls, values: Any) -> Any:
        """Categories that YAML reads as numbers or truths."""
        parse = CategoryColumn("values").parse
        return [parse(value, False) for value in values] if isinstance(values, list | tuple) else values

    @field_validator("minimum", "maximum", mode="before")
    @classmethod
    def _as_iso(cls, value: Any) -> Any:
        """YAML reads dates as such."""
        return value.isoformat() if hasattr(value, "isoformat") else value

    @model_validator(mode="after")
    def _keys_of_type(self) -> "ColumnSettings":
        for key in self.model_fields_set & KEYS.keys():
            if self.type not in KEYS[key]:
                raise ValueError(f"{key} is a key of {' and '.join(KEYS[key])} columns, not of {self.type}")
        for bound in (self.minimum, self.maximum):
            if self.type == "number" and isinstance(bound, str):
                raise ValueError(f"minimum and maximum must be numbers, not {bound!r}")
            if self.type == "date" and bound is not None:
                datetime.fromisoformat(str(bound))  # raises ValueError
        return self

    def draft(self, name: str) -> Column:
        """The column before it is fitted: it takes missing cells and all categories that may be."""
        about: dict[str, Any] = {"description": self.description, "unit": self.unit, "missing": "impute"}
        bounds: dict[str, Any] = {"minimum": self.minimum, "maximum": self.maximum}
        if self.type == "number":
            return NumberColumn(name, **about, **bounds)
        if self.type == "date":
            low, high = ("" if bound is None else str(bound) for bound in bounds.values())
            return DateColumn(name, **about, form=self.form, minimum=low, maximum=high, parts=self.parts)
        return CategoryColumn(
            name, **about, values=self.values, unknown=self.unknown, dimension=self.embedding
        )


class TableSettings(FitSettings):
    """The settings of these recipes; each adds its loss."""

    target_type: ClassVar[str] = "number"  # or category

    data: str = Field(
        description=(
            "a table (.csv, .tsv, .parquet), a folder with one per split, or sklearn:diabetes, "
            "sklearn:breast_cancer, sklearn:wine"
        )
    )
    target: str | None = Field(default=None, description="column to learn; bundled data knows its own")
    columns: dict[str, ColumnSettings] = Field(
        default={}, description="columns to learn from, name -> number, category, date, or more of it"
    )
    missing_values: tuple[str, ...] = Field(
        default=("", "NA", "N/A", "NaN", "nan", "null"), description="what stands for a missing cell"
    )
    split_column: str | None = Field(
        default=None, description="column that says train, validation or test; default: drawn by the seed"
    )
    validation_share: SplitShare = Field(
        default=0.15, description="share of the rows that chooses the epoch, where drawn"
    )
    test_share: SplitShare = Field(default=0.15, description="share that measures, where drawn")
    network: Literal["linear", "mlp", "rbf"] = Field(
        default="mlp", description="rbf: Gaussians around centers from k-means"
    )
    hidden: tuple[int, ...] = Field(default=(64, 32), description="widths of the mlp's hidden layers")
    activation: Literal["relu", "tanh", "gelu", "silu"] = Field(default="relu", description="of the mlp")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="behind each hidden layer of the mlp")
    centers: int = Field(default=32, ge=1, le=4096, description="of the rbf network")
    l1: float = Field(default=0.0, ge=0, description="weight of the sum of absolute weights in the loss")
    l2: float = Field(default=0.0, ge=0, description="that of squared weights; with l1 an elastic net")
    folds: int = Field(
        default=0, ge=0, le=100, description="of a cross-validation, whose metrics begin with cv_; 0: none"
    )
    compare: bool = Field(
        default=True, description="show gradient-boosted trees and a linear model beside it in the report"
    )
    epochs: ShortEpochs = 100
    batch_size: LargeBatchSize = 32

    @property
    def calibration_share(self) -> float:
        """The share of the training rows that nothing is learned from."""
        return 0.0

    @field_validator("missing_values", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        """-999 in YAML is a number."""
        return [str(value) for value in values] if isinstance(values, list | tuple) else values

    @field_validator("columns")
    @classmethod
    def _names(cls, columns: dict[str, ColumnSettings]) -> dict[str, ColumnSettings]:
        for name in columns:
            if name in RESERVED or not name.strip() or len(name) > 100:
                raise ValueError(f"{name[:100]!r} can't be a column's name; rename it in the data")
        return columns
