"""Tokenized pairs of texts: batches of about one length."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from handlers.decoding.vocabulary import BEGIN, END, SPECIAL, ListVocabulary, list_file
from handlers.inputs.tokenization import UNKNOWN, Tokenizer
from handlers.kinds.texts import padded
from training.data.text_pairs import TextPair
from training.runs.batches import Batches

POOL = 50  # batches whose pairs are sorted by length together


class PairBatch(NamedTuple):
    """Sources int64 [B, S] and their lengths int64 [B], what is fed to the decoder int64 [B, T], and what it
    must give there; PAD behind.
    """

    sources: torch.Tensor
    lengths: torch.Tensor
    fed: torch.Tensor
    wanted: torch.Tensor


def target_vocabulary(pairs: Sequence[TextPair], form: str, size: int) -> tuple[ListVocabulary, bytes]:
    """The most frequent tokens of the targets behind the special ones, and the file of them."""
    counts = Counter(token for one in pairs for target in one.targets for token in cut(target, form))
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: size - len(SPECIAL)]
    words = [*SPECIAL, *(word for word, _ in listed)]
    joiner = " " if form == "words" else ""
    return ListVocabulary(words, joiner), list_file(words, joiner)


def cut(target: str, form: str) -> list[str]:
    """The tokens of a target."""
    return target.split() if form == "words" else [*target]


class TokenizedPairs:
    """Tokens of each source and of the first target."""

    def __init__(
        self,
        pairs: Sequence[TextPair],
        tokenizer: Tokenizer,
        vocabulary: ListVocabulary,
        form: str,
        most: int,
    ) -> None:
        numbers = {word: number for number, word in enumerate(vocabulary.words)}
        encoded = [tokenizer.encode(one.source, most) for one in pairs]
        self.pairs = pairs
        self.sources = [one.ids for one in encoded]
        self.is_cut = [one.truncated or not len(one.ids) for one in encoded]
        self.targets = [
            np.array([numbers.get(token, UNKNOWN) for token in cut(one.targets[0], form)], np.int64)
            for one in pairs
        ]
        self.lengths = np.array([len(one) for one in self.targets])

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, rows: Sequence[int]) -> PairBatch:
        """Filled up to the longest."""
        targets = [self.targets[row] for row in rows]
        sources = [self.sources[row] for row in rows]
        return PairBatch(
            torch.from_numpy(padded(sources)),
            torch.tensor([len(one) for one in sources]),
            torch.from_numpy(padded([np.concatenate([[BEGIN], one]) for one in targets])),
            torch.from_numpy(padded([np.concatenate([one, [END]]) for one in targets])),
        )


class PairBatches(Batches[PairBatch]):
    """Batches of a training epoch: drawn, but each of targets of about one length: little is padding."""

    def __init__(self, pairs: TokenizedPairs, size: int, seed: int) -> None:
        super().__init__(seed)
        self.pairs, self.size = pairs, min(size, len(pairs))

    def __len__(self) -> int:
        return len(self.pairs) // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """Drawn pairs, sorted within pools of POOL batches; a short rest is left out."""
        drawn = torch.randperm(len(self.pairs), generator=self.generator)[: len(self) * self.size].numpy()
        steps: list[list[int]] = []
        for start in range(0, len(drawn), POOL * self.size):
            pool = drawn[start : start + POOL * self.size]
            pool = pool[np.argsort(self.pairs.lengths[pool], kind="stable")]
            steps += pool.reshape(-1, self.size).tolist()
        return [steps[step] for step in torch.randperm(len(steps), generator=self.generator).tolist()]

    def batch(self, read: Any) -> PairBatch:
        """Of these rows."""
        return self.pairs.batch(read)
