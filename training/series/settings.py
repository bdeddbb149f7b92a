"""The settings of recipes for series."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from handlers.inputs.frequency import Frequency
from training.runs.schedules import FitSettings, LargeBatchSize, LearningRate, ShortEpochs
from training.tables.settings import RESERVED, ColumnSettings, SplitShare

CalendarPart = Literal["month", "day", "weekday", "hour", "day_of_year"]
RECURRENT = ("rnn", "lstm", "gru")
Network = Annotated[
    Literal["gru", "lstm", "rnn", "tcn", "transformer", "linear"],
    Field(description="tcn: dilated causal convolutions; linear: one layer over all values"),
]
Hidden = Annotated[int, Field(ge=1, le=2048, description="width of each layer; linear has none")]
Layers = Annotated[int, Field(ge=1, le=16, description="stacked ones; linear has none")]


class NetworkSettings(FitSettings):
    """The networks over a sequence."""

    network: Network = "gru"
    hidden: Hidden = 32
    layers: Layers = 1
    bidirectional: bool = Field(
        default=False,
        description="rnn, lstm and gru: read the window in both directions, all of which is past",
    )
    heads: int = Field(default=4, ge=1, le=64, description="of the transformer's attention")
    kernel: int = Field(default=3, ge=2, le=64, description="values that a convolution of the tcn sees")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="behind each layer")

    @model_validator(mode="after")
    def _go_together(self) -> "NetworkSettings":
        if self.bidirectional and self.network not in RECURRENT:
            raise ValueError(f"bidirectional is for {', '.join(RECURRENT)}, not for {self.network}")
        if self.network == "transformer" and self.hidden % self.heads:
            raise ValueError(f"hidden: {self.hidden} has no equal parts for {self.heads} heads")
        return self


class ForecastSettings(NetworkSettings):
    """The settings of this recipe."""

    data: str = Field(
        description=(
            "a table (.csv, .tsv, .parquet) with a row per time, or statsmodels:co2, statsmodels:sunspots"
        )
    )
    target: str = Field(description="column of numbers to forecast")
    unit: str = Field(default="", description="of the target")
    minimum: float | None = Field(default=None, description="least value of the target")
    maximum: float | None = Field(default=None, description="largest value of the target")
    time: str | None = Field(
        default=None, description="column of times; without one, rows are in order and answers have no times"
    )
    form: str = Field(default="", description="how times are written, like %d.%m.%Y; default: ISO 8601")
    frequency: str | None = Field(
        default=None, description="of the values, like month, 15 minutes, week; needed with a time"
    )
    calendar: tuple[CalendarPart, ...] = Field(
        default=(), description="parts of the time that are learned from, also of the times ahead"
    )
    series: str | None = Field(default=None, description="column that says which series a row belongs to")
    embedding: int = Field(
        default=0, ge=0, le=1024, description="so many learned numbers per series; 0: one-hot"
    )
    unknown: Literal["error", "other"] = Field(
        default="error", description="what a series is that training didn't have; other: forecast it, too"
    )
    known: dict[str, ColumnSettings] = Field(
        default={}, description="columns that are known ahead, like prices and holidays; name -> type or more"
    )
    observed: dict[str, ColumnSettings] = Field(
        default={}, description="columns that are known up to now; name -> type or more"
    )
    missing: Literal["error", "interpolate"] = Field(
        default="error",
        description="a value that is missing in a window: refuse it, or take the line between its neighbors",
    )
    missing_values: tuple[str, ...] = Field(
        default=("", "NA", "N/A", "NaN", "nan", "null"), description="what stands for a missing cell"
    )
    window: int = Field(default=36, ge=2, le=10_000, description="values that a forecast looks back")
    horizon: int = Field(default=12, ge=1, le=1000, description="values that it looks ahead")
    season: int | None = Field(
        default=None, ge=1, description="values per season, for the naive forecasts; default: the frequency's"
    )
    transform: Literal["none", "log", "sqrt"] = Field(
        default="none", description="of the target, for series whose changes grow with their values"
    )
    scale: Literal["series", "window"] = Field(
        default="series",
        description="changes are counted in the series' deviation, or in that of the window, and so is the "
        "interval",
    )
    validation_share: SplitShare = Field(
        default=0.15, description="share of the times, before the test's, that chooses the epoch"
    )
    test_share: SplitShare = Field(default=0.15, description="share of the times, the last, that measures")
    loss: Literal["mae", "mse", "huber"] = Field(default="mae", description="of scaled changes")
    coverage: float | None = Field(
        default=0.9, gt=0, lt=1, description="share of true values in the answered interval; null: none"
    )
    blocks: int = Field(
        default=5,
        ge=2,
        le=20,
        description="of the times before the test; a fit without each gives the errors for the interval",
    )
    epochs: ShortEpochs = 40
    batch_size: LargeBatchSize = 32
    learning_rate: LearningRate = 1e-2

    @field_validator("missing_values", mode="before")
    @classmethod
    def _texts(cls, values: object) -> object:
        """-999 in YAML is a number."""
        return [str(value) for value in values] if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _columns(self) -> "ForecastSettings":
        """Raise ValueError for names and settings that contradict each other."""
        if (self.time is None) != (self.frequency is None):
            raise ValueError("time and frequency go together: write both, or neither")
        if self.calendar and self.time is None:
            raise ValueError("calendar needs a time")
        if self.frequency is not None:
            Frequency.from_text(self.frequency)
        if not self.series and self.model_fields_set & {"embedding", "unknown"}:
            raise ValueError("embedding and unknown are of several series; name their column: series")
        names = [self.target, *filter(None, (self.time, self.series)), *self.known, *self.observed]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is named twice among target, time, series, known and observed")
            if name in (*RESERVED, "rows", "data", "horizon") or not name.strip() or len(name) > 100:
                raise ValueError(f"{name[:100]!r} can't be a column's name; rename it in the data")
        for name, column in {**self.known, **self.observed}.items():
            if column.embedding:
                raise ValueError(f"{name}: embedding is for columns of tables; here categories are one-hot")
        return self

    @property
    def seasonal_period(self) -> int:
        """Values per season."""
        if self.season is not None:
            return self.season
        return Frequency.from_text(self.frequency).season if self.frequency else 1
