"""The settings of recipes for sounds."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from training.runs.class_learning import OperatingPoint
from training.runs.schedules import EmaDecay, FitSettings, LearningRate, ShortEpochs
from training.sounds.features import Feature

DEFAULT_FEATURES: tuple[Feature, ...] = ("log_mel",)

Masks = Annotated[
    int,
    Field(ge=0, le=10, description="stripes that hide a fifth of the picture at most (SpecAugment)"),
]


class Settings(FitSettings):
    """The settings of this recipe."""

    data: str = Field(
        description="a folder with a folder of sounds per class, a table (.csv, .tsv, .parquet) that names "
        "each file and its class, or files whose names say it (see pattern)"
    )
    label: str | None = Field(
        default=None, description="column of the class; default: label, class, category or target"
    )
    group: str | None = Field(
        default=None,
        description="column of what stays in one split, such as speakers; default: speaker, group, "
        "session and the like, where there is one",
    )
    pattern: str | None = Field(
        default=None,
        description="of file names that say the class, like {label}_{group}_{}.wav; {} is anything; no table "
        "or folder of classes is needed then",
    )
    held_out: tuple[str, ...] = Field(
        default=(), description="groups that make the test split, such as speakers; default: 15 % drawn"
    )
    sample_rate: int | None = Field(
        default=None, ge=2000, le=192_000, description="hertz; default: that of most files, 16,000 at most"
    )
    minimum_seconds: float = Field(default=0.05, ge=0.01, le=60, description="shorter sounds are refused")
    window: float | None = Field(
        default=None,
        gt=0,
        le=60,
        description="seconds that the graph hears at once; a longer sound is answered window by window. "
        "Default: the longest sound of the data, 10 at most",
    )
    window_hop: float | None = Field(
        default=None, gt=0, le=60, description="seconds from one window to the next; default: half a window"
    )
    silence: Literal["refuse", "answer"] = Field(
        default="refuse", description="a sound in which nothing is: answer it where silence is a class"
    )
    features: tuple[Feature, ...] = Field(
        default=DEFAULT_FEATURES,
        min_length=1,
        description="what the network sees, computed inside the graph: log_mel, mfcc, chroma, rms, "
        "zero_crossings, centroid, rolloff",
    )
    mels: int = Field(default=40, ge=8, le=256, description="bands of the mel scale")
    frame_ms: float = Field(default=32, ge=4, le=256, description="milliseconds of a frame")
    frame_hop_ms: float = Field(default=10, ge=1, le=128, description="milliseconds between two frames")
    hidden: int = Field(default=24, ge=4, le=512, description="channels of the first of the layers")
    layers: int = Field(default=4, ge=3, le=16, description="of convolutions over frequency and time")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="before the last layer")
    pitch: float = Field(default=4, ge=0, le=12, description="semitones that a training sound moves at most")
    stretch: float = Field(default=0.2, ge=0, le=0.8, description="share of its tempo that changes at most")
    noise: float | None = Field(
        default=15,
        ge=-10,
        le=100,
        description="decibels of signal over noise at least; half of the sounds get white to brown noise; "
        "null: none",
    )
    volume: float = Field(default=6, ge=0, le=60, description="decibels that it is louder or quieter at most")
    shift: float = Field(default=0.1, ge=0, le=10, description="seconds of silence before it at most")
    frequency_masks: Masks = 2
    time_masks: Masks = 2
    class_balance: Literal["none", "weights"] = Field(
        default="none", description="weights: rare classes count more in the loss"
    )
    label_smoothing: float = Field(default=0.05, ge=0, lt=1, description="of the target: spread over all")
    operating_point: OperatingPoint = None
    baseline: bool = Field(default=True, description="measure a support vector machine on mfcc beside it")
    epochs: ShortEpochs = 40
    batch_size: int = Field(default=32, ge=2, le=4096, description="sounds per step")
    learning_rate: LearningRate = 3e-3
    ema_decay: EmaDecay = 0.98

    def frame_samples(self, rate: int) -> int:
        """Samples of a frame, an even number."""
        return 2 * max(4, round(rate * self.frame_ms / 2000))

    def hop_samples(self, rate: int) -> int:
        """Samples between two frames."""
        return max(1, round(rate * self.frame_hop_ms / 1000))

    @field_validator("features", mode="before")
    @classmethod
    def _listed(cls, said: Any) -> Any:
        """One name stands for a list of it."""
        return (said,) if isinstance(said, str) else said

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"features: {', '.join(self.features)} names one twice")
        if self.window_hop is not None and self.window is not None and self.window_hop > self.window:
            raise ValueError("window_hop above window leaves parts of a sound unheard; make it smaller")
        if self.window is not None and self.minimum_seconds > self.window:
            raise ValueError(f"minimum_seconds {self.minimum_seconds} is above window {self.window}")
        if self.frame_hop_ms > self.frame_ms:
            raise ValueError("frame_hop_ms above frame_ms leaves parts of a sound unheard; make it smaller")
        return self
