"""Learns vectors of texts from those that belong together: pairs, groups, or texts of one label.

A network of one's own from scratch, or a pretrained encoder (hf:FOLDER), frozen below a linear layer or
fine-tuned, by contrast with the other texts of the batch. Metrics are those of finding what belongs together
in the test split, with TF-IDF and cosine beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from torch import nn

from training.data.embedding_texts import EmbeddingData, load_entries
from training.export.trained import Trained
from training.runs.curves import draw_curves
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.schedules import BatchSize, Epochs, LearningRate
from training.runs.seeds import seed_everything
from training.text.contrast import ContrastiveLearner, Inputs, PairBatches
from training.text.embedding import Reader, TextEmbedder, embedded
from training.text.embedding_assessment import ASSESSMENT_METRICS, assessed
from training.text.embedding_settings import AnswerSettings
from training.text.encoders import Encoder, is_frozen
from training.text.networks import build_body
from training.text.settings import OWN, NetworkSettings
from training.text.tokenizers import tokens_of
from training.text.vectors import vectors_of

__all__ = ["Settings", "train"]

METRICS = ASSESSMENT_METRICS


class Settings(AnswerSettings, NetworkSettings):
    """The settings of this recipe."""

    data: str = Field(
        description=(
            "a table or JSON lines (.csv, .tsv, .parquet, .jsonl, also .gz and .xz) of texts that belong "
            "together: text and positive, or text and group or label; or a folder of .txt files per group"
        )
    )
    dimension: int | None = Field(
        default=128,
        ge=2,
        le=4096,
        description="numbers of a vector; null: as wide as the network, no linear layer",
    )
    temperature: float = Field(
        default=0.05, gt=0, le=1, description="of the softmax over similarities (InfoNCE)"
    )
    epochs: Epochs = 10
    batch_size: BatchSize = 64
    learning_rate: LearningRate = 2e-3

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        self.check_network()
        if OWN in self.architecture and not self.is_pretrained:
            raise ValueError("architecture must be bag, cnn, lstm, gru, transformer or hf:FOLDER")
        if self.is_pretrained and self.frozen_layers is None and self.dimension is None:
            raise ValueError("a frozen encoder without a linear layer learns nothing; use imported_embedder")
        return self


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the best validation, measure on the test split.

    Raises CallError for settings or data that can't be used.
    """
    seed_everything(run.seed)
    data = load_entries(settings.data, run.seed, run.findings, settings.reading, settings.relevance)
    content, kind, encoder = tokens_of(settings, [one.text for one in data.train])
    reader = Reader(content, kind, settings.limits)
    splits: list[Sequence[np.ndarray]] = [*reader.split_tokens(data, run.findings)]
    model, learner = _fitted(settings, run, data, reader, encoder, splits[:2])
    if "mrr" in learner.history[0]:
        measures = {"recall_at_1": "recall at 1", "mrr": "mean reciprocal rank"}
        draw_curves(learner.history, measures, "Validation", run.report / "curves.png")
    facts = {"data": data.about(), "training": learner.training_facts(run)}
    return assessed(settings, model, reader, data.test, splits[2], run, {}, **facts)


def _fitted(
    settings: Settings,
    run: Run,
    data: EmbeddingData,
    reader: Reader,
    encoder: Encoder | None,
    tokens: Sequence[Inputs],
) -> tuple[TextEmbedder, ContrastiveLearner]:
    """The network of the best epoch, and how it learned from the `tokens` of training and validation. Above a
    frozen encoder the linear layer alone learns, from features that are computed once.
    """
    tokenizer = reader.tokenizer()
    vectors = None
    if settings.vectors:
        vectors = vectors_of(settings.vectors, tokenizer.vocabulary(), run.seed, run.findings)
    body: Any = encoder or build_body(settings, tokenizer.size, vectors)
    projection = nn.Linear(body.width, settings.dimension) if settings.dimension else None
    if encoder is not None and projection is not None:  # begins with the similarities that the encoder has
        nn.init.orthogonal_(projection.weight)
        nn.init.zeros_(projection.bias)
    inputs = tokens
    if frozen := encoder is not None and is_frozen(encoder):
        inputs = [embedded(body, part) for part in tokens]  # type: ignore[arg-type]
    model = TextEmbedder(nn.Identity() if frozen else body, projection)
    learner = ContrastiveLearner(model, settings, settings.temperature, data.validation, inputs[1])
    batches = PairBatches(data.train, inputs[0], settings.batch_size, run.seed)
    fit(learner, batches, run, fingerprint=data.about()["fingerprint"])
    best: TextEmbedder = learner.best_model()
    return TextEmbedder(body if frozen else best.body, best.projection), learner
