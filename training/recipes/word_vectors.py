"""Learns vectors of words from plain texts, by skip-gram or continuous bag of words (Mikolov et al. 2013),
and those of texts as their weighted mean (Arora et al. 2017).

Nothing needs to belong together; where something does, the metrics are those of finding it in the test split,
with TF-IDF and cosine beside it. Where there are analogies, they are asked.
"""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from handlers.inputs.tokenization import PAD, UNKNOWN
from marina.core import paths
from marina.core.errors import CallError
from training.data.embedding_texts import load_entries
from training.data.text_files import read_text
from training.export.trained import Trained
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.schedules import BatchSize, Epochs, FitSettings, LearningRate
from training.runs.seeds import seed_everything
from training.text.embedding import Reader, TextEmbedder
from training.text.embedding_assessment import ASSESSMENT_METRICS, assessed
from training.text.embedding_settings import AnswerSettings
from training.text.skip_gram import (
    WeightedMean,
    WordBatches,
    WordLearner,
    WordVectors,
    analogy_accuracy,
    word_weights,
)
from training.text.tokenizers import train_tokenizer

METRICS = (*ASSESSMENT_METRICS, "analogies", "validation_loss")
HELD_OUT_WORDS = 4096


class Settings(AnswerSettings, FitSettings):
    """The settings of this recipe."""

    data: str = Field(
        description=(
            "a table or JSON lines of texts (.csv, .tsv, .parquet, .jsonl, also .gz and .xz), or a folder"
        )
    )
    method: Literal["skip_gram", "cbow"] = Field(
        default="skip_gram", description="cbow is several times faster, skip_gram better for rare words"
    )
    dimension: int = Field(default=100, ge=2, le=2048, description="numbers of a vector")
    window: int = Field(default=5, ge=1, le=50, description="words on each side that are neighbors, at most")
    negatives: int = Field(default=5, ge=1, le=100, description="drawn words for each true neighbor")
    subsample: float = Field(
        default=1e-3, ge=0, le=1, description="words above this share are left out at random; 0: none"
    )
    vocabulary_size: int = Field(
        default=20_000, ge=10, le=500_000, description="most words, with <pad> and <unk>"
    )
    lowercase: bool = Field(default=True, description="whether upper and lower case are the same")
    weighting: float = Field(
        default=1e-3,
        ge=0,
        le=1,
        description="a in a / (a + share of the word), its weight (Arora et al. 2017); 0: all alike",
    )
    analogies: str | None = Field(
        default=None,
        description="a file of four words a line, a : b = c : d, to ask; lines with : in front are headings",
    )
    epochs: Epochs = 5
    batch_size: BatchSize = 512
    learning_rate: LearningRate = 5e-3
    optimizer: Literal["adam", "adamw"] = Field(default="adam", description="of both tables of vectors")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="the optimizer's")
    renamed: ClassVar[dict[str, str]] = {"vector_size": "dimension", "sg": "method"}


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the least loss on validation, measure on the test split.

    Raises CallError for settings or data that can't be used.
    """
    seed_everything(run.seed)
    data = load_entries(settings.data, run.seed, run.findings, settings.reading, settings.relevance)
    questions = read_analogies(settings.analogies, settings.lowercase) if settings.analogies else []
    content = train_tokenizer(
        "words", [one.text for one in data.train], settings.vocabulary_size, settings.lowercase
    )
    reader = Reader(content, "words", settings.limits)
    vocabulary = reader.tokenizer().vocabulary()
    train_tokens, validation, test = reader.split_tokens(data, run.findings)
    counts = np.bincount(np.concatenate(train_tokens), minlength=len(vocabulary)).astype(np.float64)
    counts[[PAD, UNKNOWN]] = 0
    options = (settings.window, settings.negatives, settings.subsample)
    batches = WordBatches(train_tokens, counts, settings.batch_size, run.seed, *options)
    held_out = WordBatches(validation, counts, HELD_OUT_WORDS, 0, *options)
    model = WordVectors(len(vocabulary), settings.dimension)
    learner = WordLearner(model, settings, settings.method == "cbow", held_out.batch(held_out.order()[0]))
    fit(learner, batches, run, fingerprint=data.about()["fingerprint"])

    words: np.ndarray = learner.best_model().words.weight.detach().numpy()
    embedder = TextEmbedder(WeightedMean(words, word_weights(counts, settings.weighting)))
    metrics = {"validation_loss": learner.history[learner.best_epoch - 1]["validation_loss"]}
    facts: dict[str, Any] = {**learner.training_facts(run), "words": len(vocabulary)}
    if settings.analogies:
        right, facts["analogies_asked"] = analogy_accuracy(words, vocabulary, questions)
        if right is None:
            raise CallError(f"analogies: no line of {settings.analogies} has four words of the vocabulary")
        metrics["analogies"] = right
    about = {"data": data.about(), "training": facts}
    return assessed(settings, embedder, reader, data.test, test, run, metrics, **about)


def read_analogies(name: str, lowercase: bool) -> list[tuple[str, str, str, str]]:
    """Four words a line, as in word2vec's questions-words.txt. Raises CallError for another line."""
    path = paths.expanded(name)
    if not path.is_file():
        raise CallError(f"analogies {name!r}: no such file")
    questions = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = (line.lower() if lowercase else line).split()
        if not words or words[0] == ":" or line.startswith(":"):
            continue
        if len(words) != 4:
            raise CallError(f"analogies {path}, line {number}: {len(words)} words; write four, a : b = c : d")
        questions.append((words[0], words[1], words[2], words[3]))
    return questions
