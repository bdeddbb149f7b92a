"""How a tagger learns: a network over the words of a sentence, cross-entropy of each word's tag."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from handlers.inputs.tokenization import PAD, UNKNOWN
from handlers.inputs.word_features import WordFeatures
from handlers.kinds.texts import padded
from training.data.tagged_texts import Sentence
from training.runs.class_learning import ClassModule
from training.runs.schedules import FitSettings

WIDTH = 3  # words that a convolution sees
NO_TAG = -100  # of what fills a batch up
BATCH = 64

TagBatch = tuple[torch.Tensor, torch.Tensor]  # features int64 [B, length, F], tags int64 [B, length]


class Block(nn.Module):
    """A convolution over neighbors that is added to what it reads, normalized first."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, 2 * width, WIDTH, padding=WIDTH // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, length, width], of the mask bool [B, length, 1] -> the same, gated (Dauphin et al. 2017)."""
        found = self.convolution((self.norm(words) * mask).transpose(1, 2)).transpose(1, 2)
        result: torch.Tensor = words + self.dropout(F.glu(found, 2))
        return result


class TagNetwork(nn.Module):
    """What is served: features int64 [B, length, F], PAD behind -> logits float32 [B, length, tags], divided
    by `temperature`, which is 1 until the model is calibrated.
    """

    def __init__(self, size: int, width: int, layers: int, tags: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, width, PAD)
        nn.init.normal_(self.embedding.weight, std=0.3)
        with torch.no_grad():
            self.embedding.weight[PAD] = 0
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(layers))
        self.last, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.head = nn.Linear(width, tags)
        self.temperature = 1.0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        mask = features[:, :, :1] != PAD
        words = self.dropout(self.embedding(features).sum(2))
        for block in self.blocks:
            words = block(words, mask)
        logits: torch.Tensor = self.head(self.dropout(self.last(words)))
        return logits if self.temperature == 1 else logits / self.temperature


class TaggedSentences:
    """Features and tags of each sentence, at most so many words of it."""

    def __init__(
        self, sentences: Sequence[Sentence], features: WordFeatures, tags: Sequence[str], most: int
    ) -> None:
        index = {tag: number for number, tag in enumerate(tags)}
        self.features = [features.of(one.words[:most]) for one in sentences]
        self.tags = [np.array([index[tag] for tag in one.tags[:most]]) for one in sentences]
        self.truncated = [one.place for one in sentences if len(one.words) > most]

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, rows: Sequence[int]) -> TagBatch:
        """Filled up to the longest."""
        tags = np.full((len(rows), max(len(self.tags[row]) for row in rows)), NO_TAG)
        for place, row in enumerate(rows):
            tags[place, : len(self.tags[row])] = self.tags[row]
        return torch.from_numpy(padded([self.features[row] for row in rows])), torch.from_numpy(tags)


class TagLearner(ClassModule):
    """A network that learns tags; of the epochs the one with the best validation counts."""

    def __init__(
        self, model: TagNetwork, settings: FitSettings, word_dropout: float, validation: TaggedSentences
    ) -> None:
        super().__init__(model, settings)
        self.word_dropout, self.validation = word_dropout, validation

    def training_step(self, batch: TagBatch) -> torch.Tensor:
        """One step; of some words a part of what they look like is unknown."""
        features, tags = batch
        if self.word_dropout:
            dropped = torch.rand(features.shape, device=features.device) < self.word_dropout
            features = features.masked_fill(dropped & (features != PAD), UNKNOWN)
        there = tags != NO_TAG
        return self.learn_from(self.model(features)[there], tags[there])

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over the words."""
        return F.cross_entropy(logits, labels)

    def validated(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all words of validation."""
        logits = logits_of(self.average, self.validation, device)
        return torch.cat(logits), torch.from_numpy(np.concatenate(self.validation.tags))


def logits_of(
    model: nn.Module, sentences: TaggedSentences, device: torch.device | str = "cpu"
) -> list[torch.Tensor]:
    """Float32 [words, tags] of each sentence, on the CPU."""
    order = np.argsort([len(one) for one in sentences.tags], kind="stable")
    found: list[torch.Tensor] = [torch.empty(0)] * len(order)
    with torch.no_grad():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH].tolist()
            features, _ = sentences.batch(rows)
            for row, logits in zip(rows, model(features.to(device)).float().cpu(), strict=True):
                found[row] = logits[: len(sentences.tags[row])]
    return found
