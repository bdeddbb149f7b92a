"""The settings of a text classifier's training."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from handlers.inputs.texts import TextLimits
from marina.core.spec import Section
from training.data.texts import Reading
from training.runs.class_learning import ABOUT_OPERATING_POINT, OperatingPoint
from training.runs.schedules import BatchSize, EmaDecay, Epochs, FitSettings, LearningRate

OWN = ":"  # in the name of a function of the user's own
Dropout = Annotated[float, Field(ge=0, lt=1, description="share of activations that are dropped")]
RECURRENT = ("lstm", "gru")
ARCHITECTURES = ("bag", "cnn", *RECURRENT, "transformer")
PRETRAINED = "hf:"  # in front of the folder of an encoder
POOLING_WORDS = (
    "of hf: the mean of all tokens or the first one ([CLS]); auto: what the folder says, else the mean"
)
OF_TOKENS = ("tokenizer", "character_ngrams", "vocabulary_size", "lowercase", "vectors", "freeze_vectors")
OF_ENCODERS = ("pooling", "pooled_layers", "frozen_layers", "encoder_learning_rate", "layer_decay")


class ReadingSettings(Section):
    """How texts are read."""

    encoding: str = Field(default="utf-8", description="of the files; a byte-order mark may be there or not")
    max_characters: int = Field(
        default=TextLimits.max_characters,
        ge=100,
        le=10_000_000,
        description="of one text, learned from or sent; longer ones are refused",
    )
    max_tokens: int = Field(
        default=256, ge=4, le=8192, description="of one text; the rest doesn't count, and the answer says so"
    )

    @property
    def limits(self) -> TextLimits:
        """Of the texts that are learned from and sent."""
        return TextLimits(self.max_characters, self.max_tokens)

    @property
    def reading(self) -> Reading:
        """How files of texts are read."""
        return Reading(self.encoding, limits=self.limits)


class TokenSettings(ReadingSettings):
    """How texts become tokens."""

    tokenizer: Literal["words", "characters", "bpe", "wordpiece", "unigram"] = Field(
        default="words",
        description=(
            "words, runs of characters, or pieces of words by the extra text; learned from the training texts"
        ),
    )
    character_ngrams: tuple[int, int] = Field(
        default=(1, 3), description="of the tokenizer characters: fewest and most characters of a token"
    )
    vocabulary_size: int = Field(
        default=8000, ge=300, le=500_000, description="most tokens, with <pad> and <unk>"
    )
    lowercase: bool = Field(default=True, description="whether upper and lower case are the same")
    vectors: str | None = Field(
        default=None,
        description="text file of pretrained vectors (GloVe, fastText) to begin with; may be packed",
    )
    freeze_vectors: bool = Field(default=False, description="with vectors: whether they stay as they are")

    def check_tokens(self) -> None:
        """Raise ValueError for settings that don't go together."""
        if not 1 <= self.character_ngrams[0] <= self.character_ngrams[1] <= 8:
            raise ValueError("character_ngrams are the fewest and the most characters, 1 to 8, like [1, 3]")
        if self.vectors and self.tokenizer != "words":
            raise ValueError("vectors are of words; say tokenizer: words, or leave them out")
        if self.freeze_vectors and not self.vectors:
            raise ValueError("freeze_vectors keeps pretrained vectors as they are, so it needs 'vectors'")


class TextFitSettings(FitSettings):
    """The defaults of a fit to texts."""

    batch_size: BatchSize = 32
    learning_rate: LearningRate = 4e-3
    ema_decay: EmaDecay = 0.98


class NetworkSettings(TokenSettings, TextFitSettings):
    """What a network that learns from tokens is made of."""

    renamed: ClassVar[dict[str, str]] = {
        "max_length": "max_tokens",
        "vocab_size": "vocabulary_size",
        "embedding_dim": "embedding_size",
    }

    architecture: str = Field(
        default="bag",
        description=(
            "bag (mean and maximum of the embeddings), cnn (Kim 2014), lstm, gru (by the extra onnx), "
            "transformer, hf:FOLDER (a pretrained BERT, DistilBERT or MiniLM: config.json, tokenizer.json, "
            "model.safetensors), or file.py:function(vocabulary_size, outputs) that gives tokens int64 "
            "[B, length] -> logits"
        ),
    )
    pooling: Literal["auto", "mean", "first"] = Field(
        default="auto",
        description=POOLING_WORDS,
    )
    pooled_layers: int = Field(
        default=1,
        ge=1,
        le=48,
        description="of hf: the vectors of so many last layers side by side; 4 or 5 help where it is frozen",
    )
    frozen_layers: int | None = Field(
        default=None,
        ge=0,
        description=(
            "of hf: so many layers from the input on stay as they are, and the embeddings; default: all; "
            "0: everything learns"
        ),
    )
    encoder_learning_rate: float = Field(
        default=5e-5, gt=0, le=1, description="of hf: peak for its last layer; learning_rate is the head's"
    )
    layer_decay: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="of hf: each layer learns at this share of the rate of the next (Howard and Ruder 2018)",
    )
    embedding_size: int = Field(default=64, ge=4, le=2048, description="width of the embeddings")
    filters: int = Field(default=100, ge=4, le=2048, description="of the cnn, for each of its widths")
    filter_widths: tuple[int, ...] = Field(
        default=(3, 4, 5), min_length=1, description="of the cnn, in tokens"
    )
    hidden: int = Field(
        default=64, ge=4, le=2048, description="of lstm and gru: numbers of a cell in each direction"
    )
    bidirectional: bool = Field(
        default=True, description="of lstm and gru: whether others read from the end on, too"
    )
    layers: int = Field(default=2, ge=1, le=24, description="of the transformer, lstm and gru")
    heads: int = Field(default=4, ge=1, le=32, description="of attention in each of its layers")
    dropout: Dropout = 0.3
    token_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of tokens that are <unk> in a training step"
    )

    @property
    def is_pretrained(self) -> bool:
        """Whether the network is an encoder that was pretrained elsewhere, which has its own tokenizer."""
        return self.architecture.startswith(PRETRAINED)

    def check_network(self) -> None:
        """Raise ValueError for settings that don't go together."""
        self.check_tokens()
        others = OF_TOKENS if self.is_pretrained else OF_ENCODERS
        if wrong := [name for name in others if name in self.model_fields_set]:
            why = "that is the encoder's own" if self.is_pretrained else "that is of architecture: hf:FOLDER"
            raise ValueError(f"{wrong[0]}: {why}; leave it out")
        if self.is_pretrained:
            return
        of_cells = [name for name in ("hidden", "bidirectional") if name in self.model_fields_set]
        if of_cells and self.architecture not in RECURRENT:
            raise ValueError(f"{of_cells[0]}: that is of architecture: lstm and gru; leave it out")
        if self.vectors and "embedding_size" in self.model_fields_set:
            raise ValueError("embedding_size is that of the vectors; leave it out")
        if self.architecture not in ARCHITECTURES and OWN not in self.architecture:
            raise ValueError(
                "architecture must be bag, cnn, lstm, gru, transformer, hf:FOLDER, or a function like "
                "file.py:build"
            )
        if self.architecture == "transformer" and not self.vectors and self.embedding_size % self.heads:
            raise ValueError(f"embedding_size {self.embedding_size} has no {self.heads} equal heads")


class Settings(NetworkSettings):
    """The settings of this recipe."""

    data: str = Field(
        description=(
            "a table or JSON lines of texts and labels (.csv, .tsv, .parquet, .jsonl, also .gz and .xz), "
            "a folder of tables or of .txt files per class, or gettext:PACKAGE:LANGUAGE,LANGUAGE "
            "for the translations that a package brings"
        )
    )
    label_separator: str | None = Field(
        default=None,
        min_length=1,
        description="between the labels of one text in a table; lists of labels need none",
    )
    class_balance: Literal["none", "weights"] = Field(
        default="none", description="weights: rare classes count more in the loss"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the target spread over all classes; one label per text"
    )
    operating_point: OperatingPoint = Field(
        default=None, description=f"{ABOUT_OPERATING_POINT}; of one label per text"
    )
    baseline: bool = Field(
        default=True,
        description="measure TF-IDF with logistic regression beside it, and list its most telling words",
    )

    epochs: Epochs = 10

    @property
    def reading(self) -> Reading:
        """With several labels in a cell."""
        return replace(super().reading, separator=self.label_separator)

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        self.check_network()
        return self
