"""The settings of a signal classifier's training."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from handlers.inputs.signals import ALSO, SIGNAL, Channel
from marina.core.spec import Section
from training.data.signal_tables import Columns
from training.runs.class_learning import OperatingPoint
from training.runs.schedules import EmaDecay, LargeBatchSize, LearningRate, ShortEpochs
from training.series.settings import RECURRENT, Hidden, Layers, Network, NetworkSettings
from training.tables.settings import RESERVED

FIXED = (*RECURRENT, "linear")  # networks whose graph takes one number of steps


class ChannelSettings(Section):
    """What the values of a channel may be."""

    unit: str = Field(default="", description="of its values")
    minimum: float | None = Field(default=None, description="least value")
    maximum: float | None = Field(default=None, description="largest value")

    def channel(self, name: str, mean: float) -> Channel:
        """As serving has it."""
        return Channel(name, mean, self.unit, self.minimum, self.maximum)


class Settings(NetworkSettings):
    """The settings of this recipe."""

    data: str = Field(
        description=(
            "a table with a row per step (.csv, .tsv, .parquet), .npz, .ts, a folder of one such file per "
            "split, a folder of files per class, or aeon:NAME"
        )
    )
    series: str | None = Field(
        default=None, description="column of a table that says which signal a row is of; needed there"
    )
    step: str | None = Field(
        default=None,
        description="column of numbers or times that orders the rows of a signal; default: as they stand",
    )
    label: str = Field(default="label", description="column of the class")
    split: str | None = Field(default=None, description="column of train, validation and test")
    group: str | None = Field(
        default=None, description="column of what stays in one split, such as persons or machines"
    )
    channels: dict[str, ChannelSettings] = Field(
        default={},
        description="names in their order, as a list or with what their values may be; default: the data's",
    )
    channels_first: bool = Field(
        default=False, description="arrays of .npz and .npy have channels before steps, [N, C, T]"
    )
    minimum_steps: int | None = Field(
        default=None, ge=1, description="shorter signals are refused; default: the shortest of the data"
    )
    maximum_steps: int | None = Field(
        default=None,
        ge=2,
        le=100_000,
        description="longer signals are refused; default: the longest of the data",
    )
    network: Network = "tcn"
    hidden: Hidden = 64
    layers: Layers = 3
    bidirectional: bool = Field(
        default=False, description="rnn, lstm and gru: read the signal in both directions"
    )
    dropout: float = Field(default=0.2, ge=0, lt=1, description="behind each layer and before the last")
    noise: float = Field(
        default=0.1, ge=0, le=10, description="added in a training step, in deviations of the channel"
    )
    class_balance: Literal["none", "weights"] = Field(
        default="none", description="weights: rare classes count more in the loss"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over all")
    operating_point: OperatingPoint = None
    baseline: bool = Field(
        default=True,
        description="measure logistic regression on each channel's summary (mean, deviation, ends) beside it",
    )
    epochs: ShortEpochs = 60
    batch_size: LargeBatchSize = 32
    learning_rate: LearningRate = 3e-3
    ema_decay: EmaDecay = 0.98

    @property
    def columns(self) -> Columns:
        """How the data is read."""
        return Columns(
            tuple(self.channels),
            self.series,
            self.step,
            self.label,
            self.split,
            self.group,
            self.channels_first,
        )

    @field_validator("channels", mode="before")
    @classmethod
    def _listed(cls, said: Any) -> Any:
        """`[x, y]` stands for `{x: {}, y: {}}`, as does `{x: null}`."""
        if isinstance(said, list | tuple):
            return {str(name): {} for name in said}
        if isinstance(said, dict):
            return {name: {} if one is None else one for name, one in said.items()}
        return said

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        for name in self.channels:
            if name in (*RESERVED, SIGNAL, ALSO) or not name.strip() or len(name) > 100:
                raise ValueError(f"{name[:100]!r} can't be a channel's name; rename it in the data")
            if name in self.columns.others:
                raise ValueError(f"{name!r} is a channel and another column; name it once")
        low, high = self.minimum_steps, self.maximum_steps
        if low is not None and high is not None and low > high:
            raise ValueError(f"minimum_steps {low} is above maximum_steps {high}")
        return self
