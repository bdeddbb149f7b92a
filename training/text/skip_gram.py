"""Vectors of words by skip-gram and continuous bag of words, with negative sampling (Mikolov et al. 2013,
"Distributed Representations of Words and Phrases", sections 2.2 and 2.3), and texts as their weighted mean.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from handlers.inputs.tokenization import PAD, UNKNOWN
from marina.core.errors import CallError
from training.runs.batches import Batches
from training.runs.loss_learning import LossModule
from training.runs.schedules import FitSettings

NOISE_POWER = 0.75  # of the counts, negatives are drawn by
from_pretrained: Any = nn.Embedding.from_pretrained


class WordBatch(NamedTuple):
    """Words int64 [B], those around them [B, 2 window] with PAD where there is none, and drawn others."""

    centers: torch.Tensor
    contexts: torch.Tensor
    negatives: torch.Tensor


class WordVectors(nn.Module):
    """A vector per word, and one per word as a neighbor."""

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self.words, self.neighbors = nn.Embedding(size, dimension, PAD), nn.Embedding(size, dimension, PAD)
        nn.init.uniform_(self.words.weight, -0.5 / dimension, 0.5 / dimension)
        nn.init.zeros_(self.neighbors.weight)
        with torch.no_grad():
            self.words.weight[PAD] = 0

    def loss(self, batch: WordBatch, is_bag: bool) -> torch.Tensor:
        """The negative log-likelihood of true neighbors against drawn ones, per prediction."""
        if is_bag:
            counted = (batch.contexts != PAD).sum(1, keepdim=True).clamp(min=1)
            sources = self.words(batch.contexts).sum(1) / counted
            targets, weights = (
                batch.centers[:, None],
                torch.ones_like(batch.centers[:, None], dtype=torch.float32),
            )
        else:
            sources, targets = self.words(batch.centers), batch.contexts
            weights = (targets != PAD).float()
        true = torch.einsum("bd,btd->bt", sources, self.neighbors(targets))
        drawn = torch.einsum("bd,bkd->bk", sources, self.neighbors(batch.negatives))
        found = (F.logsigmoid(true) * weights).sum(1)
        against = F.logsigmoid(-drawn).sum(1) * weights.sum(1)
        return -(found + against).sum() / weights.sum().clamp(min=1)


class WordBatches(Batches[WordBatch]):
    """Words of an epoch with their neighbors. Frequent ones are left out at random (section 2.3), and the
    window of each is drawn, so that near neighbors count more.
    """

    def __init__(
        self,
        texts: Sequence[np.ndarray],
        counts: np.ndarray,
        size: int,
        seed: int,
        window: int,
        negatives: int,
        subsample: float,
    ) -> None:
        super().__init__(seed)
        known = [text[text > UNKNOWN] for text in texts]
        self.words = np.concatenate([*known, np.empty(0, np.int64)])
        if len(self.words) < 100:
            raise CallError(
                f"the training texts have {len(self.words)} words of the vocabulary; 100 at least"
            )
        self.text_of = np.repeat(np.arange(len(known)), [len(text) for text in known])
        share = counts / counts.sum()
        kept = np.sqrt(subsample / np.maximum(share, 1e-12)) if subsample else np.ones(len(counts))
        self.chance = torch.from_numpy(np.minimum(kept, 1.0)[self.words])
        self.noise = torch.from_numpy(np.cumsum(counts**NOISE_POWER) / (counts**NOISE_POWER).sum())
        expected = int(self.chance.sum())
        self.size, self.window, self.negatives = min(size, max(1, expected // 2)), window, negatives
        self.steps = max(1, expected // self.size)
        self.kept = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.steps

    def order(self) -> Sequence[Sequence[int]]:
        """Places among the words that are kept this time, drawn; as many steps in every epoch."""
        drawn = torch.rand(len(self.words), generator=self.generator, dtype=torch.float64)
        self.kept = np.flatnonzero((drawn < self.chance).numpy())
        if not len(self.kept):
            self.kept = np.arange(len(self.words))
        order = torch.randperm(len(self.kept), generator=self.generator).numpy()
        rows: list[list[int]] = np.resize(order, (self.steps, self.size)).tolist()
        return rows

    def batch(self, read: Any) -> WordBatch:
        """The words at these places, those around them, and drawn ones."""
        places = np.asarray(read)
        widths = torch.randint(1, self.window + 1, (len(places), 1), generator=self.generator).numpy()
        offsets = np.array([k for k in range(-self.window, self.window + 1) if k])
        around = places[:, None] + offsets
        inside = (around >= 0) & (around < len(self.kept)) & (np.abs(offsets) <= widths)
        rows = self.kept[np.clip(around, 0, len(self.kept) - 1)]
        centers = self.kept[places]
        inside &= self.text_of[rows] == self.text_of[centers][:, None]
        contexts = np.where(inside, self.words[rows], PAD)
        draws = torch.rand(len(places), self.negatives, generator=self.generator, dtype=torch.float64)
        negatives = torch.searchsorted(self.noise, draws).clamp(max=len(self.noise) - 1)
        return WordBatch(torch.from_numpy(self.words[centers]), torch.from_numpy(contexts), negatives)


class WordLearner(LossModule):
    """Word vectors that learn; the loss on words of validation has the same drawn ones each time."""

    def __init__(self, model: WordVectors, settings: FitSettings, is_bag: bool, held_out: WordBatch) -> None:
        super().__init__(model, settings, held_out)
        self.is_bag = is_bag

    def loss(self, model: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """Per prediction."""
        device = next(model.parameters()).device
        on_device = WordBatch(*(part.to(device) for part in batch))
        loss: torch.Tensor = model.loss(on_device, self.is_bag)  # type: ignore[operator]
        return loss


class WeightedMean(nn.Module):
    """Tokens int64 [B, length] -> the mean of their vectors, each with its weight."""

    def __init__(self, vectors: np.ndarray, weights: np.ndarray) -> None:
        super().__init__()
        self.words = from_pretrained(torch.from_numpy(vectors * weights[:, None]), padding_idx=PAD)
        self.width = vectors.shape[1]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, length] -> [B, width]."""
        counted = (tokens != PAD).sum(1, keepdim=True).clamp(min=1)
        mean: torch.Tensor = self.words(tokens).sum(1) / counted
        return mean


def word_weights(counts: np.ndarray, weighting: float) -> np.ndarray:
    """The weight of each word in a text, float32: rare ones have 1; unknown ones count little."""
    weights = np.ones(len(counts)) if not weighting else weighting / (weighting + counts / counts.sum())
    return weights.astype(np.float32)


def analogy_accuracy(
    vectors: np.ndarray, vocabulary: Sequence[str], questions: Sequence[tuple[str, str, str, str]]
) -> tuple[float | None, int]:
    """The share of questions a : b = c : ? whose answer's vector is nearest to b - a + c (3CosAdd; Mikolov et
    al. 2013, section 4), the three themselves left out, and how many have all words; None where none has.
    """
    places = {word: row for row, word in enumerate(vocabulary) if row > UNKNOWN}
    known = [[places[word] for word in one] for one in questions if all(word in places for word in one)]
    if not known:
        return None, 0
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    right = 0
    for a, b, c, wanted in known:
        scores = unit @ (unit[b] - unit[a] + unit[c])
        scores[[PAD, UNKNOWN, a, b, c]] = -np.inf
        right += int(scores.argmax() == wanted)
    return right / len(known), len(known)
