"""Texts to learn a language model from, windows of them, and how it learns."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from handlers.decoding.prompts import BYTES, PRETRAINED, ByteTokenizer, load_prompt_tokenizer
from handlers.decoding.vocabulary import END, SPECIAL
from marina.core import paths
from marina.core.errors import CallError
from training.data.picture_files import files_below
from training.data.text_files import form_of, read_text
from training.generation.causal import CausalNetwork
from training.generation.perplexity import measured
from training.generation.settings import Dropout, Heads, Width, check_heads
from training.runs.batches import Batches, shuffled
from training.runs.loss_learning import LossModule
from training.runs.schedules import BatchSize, EmaDecay, Epochs, FitSettings, MaxGradNorm

SHARE = 0.1  # of the text, each for validation and test, from its end
READ = (".txt", ".md", ".text")


class Settings(FitSettings):
    """The settings of this recipe."""

    data: str = Field(description="a text file (.txt, .md; may be packed), or a folder of such files")
    tokens: str = Field(
        default="bytes", pattern="^(bytes|bpe)$", description="bytes, or pieces of words by the extra text"
    )
    vocabulary_size: int = Field(default=4000, ge=300, le=200_000, description="of bpe: most tokens")
    encoding: str = Field(default="utf-8", description="of the files")
    max_characters: int = Field(
        default=100_000, ge=1, le=10_000_000, description="of a prompt; longer is refused"
    )
    max_tokens: int = Field(default=128, ge=2, le=4096, description="of a prompt; longer is refused")
    max_new_tokens: int = Field(default=128, ge=2, le=4096, description="of an answer, at most")
    width: Width = 128
    layers: int = Field(default=4, ge=1, le=48, description="of the transformer")
    heads: Heads = 4
    dropout: Dropout = 0.1
    epochs: Epochs = 10
    batch_size: BatchSize = 16
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="peak of the schedule")
    max_grad_norm: MaxGradNorm = 1.0
    ema_decay: EmaDecay = 0.0

    @property
    def places(self) -> int:
        """Tokens of prompt and answer together, which is what a window has in training."""
        return self.max_tokens + self.max_new_tokens

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        check_heads(self.width, self.heads)
        if self.tokens == BYTES and "vocabulary_size" in self.model_fields_set:
            raise ValueError("vocabulary_size is of tokens: bpe; leave it out")
        return self


@dataclass(frozen=True)
class TextSplits:
    """A text in three parts, one behind the other; `test` is used to measure the floor, and only for that."""

    train: str
    validation: str
    test: str
    name: str

    def about(self) -> dict[str, Any]:
        """Name, characters and fingerprint, for the export's metadata."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        digest = sha256("\0".join(parts.values()).encode()).hexdigest()
        origin = {"name": self.name, "source": "the owner's", "licence": "the owner's"}
        words = f"the last {SHARE:.0%} are the test, those before them validation"
        return {
            **origin,
            **{name: len(one) for name, one in parts.items()},
            "splits": words,
            "fingerprint": digest,
        }


def load_text(data: str, encoding: str) -> TextSplits:
    """The text of a file, or of the files of a folder by name. Raises CallError for none."""
    place = paths.expanded(data)
    files = [place] if place.is_file() else []
    if place.is_dir():
        files = sorted(path for path in files_below(place) if form_of(path) in READ)
    if not files:
        raise CallError(f"data {data!r} is no text file and no folder with .txt or .md files")
    text = "\n".join(read_text(path, encoding) for path in files)
    held = int(SHARE * len(text))
    if held < 2:
        raise CallError(f"{place} has {len(text)} characters; that is too little to learn from")
    return TextSplits(text[: -2 * held], text[-2 * held : -held], text[-held:], place.name)


def language_tokenizer(settings: Settings, text: str) -> tuple[Any, bytes, str]:
    """The tokenizer, the content of its file, and its kind. Raises CallError where the library is missing."""
    if settings.tokens == BYTES:
        return ByteTokenizer(), b"{}", BYTES
    try:
        import tokenizers
    except ImportError as error:
        raise CallError(
            "tokens: bpe needs the package tokenizers: pip install 'marina[text]'; or say bytes"
        ) from error
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=settings.vocabulary_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(text.splitlines(keepends=True), trainer)
    content = str(made.to_str()).encode()
    return load_prompt_tokenizer(content, PRETRAINED), content, PRETRAINED


def network_of(settings: Settings, size: int) -> CausalNetwork:
    """The network of the settings, for a vocabulary of this size."""
    shape = (settings.width, settings.layers, settings.heads, settings.dropout)
    return CausalNetwork(size, *shape, settings.places, END)


class WindowBatches(Batches[torch.Tensor]):
    """Windows int64 [B, size + 1] of a text, from another beginning in each epoch."""

    def __init__(self, tokens: np.ndarray, size: int, batch: int, seed: int) -> None:
        super().__init__(seed)
        self.tokens, self.length = tokens, min(size, (len(tokens) - 1) // 2)
        self.count = (len(tokens) - 1) // self.length - 1
        self.size = min(batch, self.count)

    def __len__(self) -> int:
        return self.count // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """Where the windows of each step begin."""
        shift = int(torch.randint(self.length, (1,), generator=self.generator))
        steps = shuffled(self.count, self.size, self.generator)
        return [[shift + self.length * row for row in rows] for rows in steps]

    def batch(self, read: Any) -> torch.Tensor:
        """The windows that begin there."""
        return torch.from_numpy(np.stack([self.tokens[one : one + self.length + 1] for one in read]))


class LanguageLearner(LossModule):
    """A network that learns what comes next. Its `validation` is the tokens of that text, int64 [N]."""

    settings: Settings

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each token behind those before it."""
        logits = model(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(self) -> dict[str, float]:
        """The loss in training and on validation, and the share of tokens that are right there."""
        self.average.eval()
        device = next(self.average.parameters()).device
        network: Any = self.average
        loss, right = measured(network, self.validation, self.settings.places, device)
        self.model.train()
        return {
            "train_loss": float(np.mean(self.losses)),
            "validation_loss": loss,
            "validation_token_error_rate": 1 - right,
        }

    def summary(self, row: dict[str, float]) -> str:
        """Losses."""
        return f"loss {row['train_loss']:.3f}, validation {row['validation_loss']:.3f}"

    def best_model(self) -> Any:
        """The average of the best epoch, on the CPU, to be served."""
        return super().best_model().requires_grad_(False)
