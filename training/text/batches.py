"""Tokenized texts: batches to learn from, and the answers of a network to all of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from handlers.inputs.tokenization import Tokenizer
from handlers.kinds.texts import padded
from training.data.texts import Text

EVALUATION_BATCH = 64

TextBatch = tuple[torch.Tensor, torch.Tensor]


class TokenizedTexts:
    """Tokens of each text, and its labels: int64 [N], or float32 [N, classes] of 0 and 1 where there may be
    several.
    """

    def __init__(
        self, texts: Sequence[Text], tokenizer: Tokenizer, most: int, classes: int, several: bool
    ) -> None:
        encoded = [tokenizer.encode(one.text, most) for one in texts]
        self.tokens = [one.ids for one in encoded]
        self.truncated = [row for row, one in enumerate(encoded) if one.truncated]
        self.lengths = np.array([len(tokens) for tokens in self.tokens])
        self.features: torch.Tensor | None = None  # what a frozen encoder makes of each, while a head learns
        if several:
            self.labels = torch.zeros(len(texts), classes)
            for row, one in enumerate(texts):
                self.labels[row, list(one.labels)] = 1
        else:
            self.labels = torch.tensor([one.labels[0] for one in texts])

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: Sequence[int]) -> TextBatch:
        """Tokens int64 [B, longest], or the features of a frozen encoder, and labels."""
        if self.features is not None:
            return self.features[torch.as_tensor(rows)], self.labels[torch.as_tensor(rows)]
        tokens = padded([self.tokens[row] for row in rows])
        return torch.from_numpy(tokens), self.labels[torch.as_tensor(rows)]


def logits_of(model: nn.Module, texts: TokenizedTexts, device: torch.device | str = "cpu") -> torch.Tensor:
    """Float32 [N, classes] on the CPU, in the order of the texts."""
    order = np.argsort(texts.lengths, kind="stable")
    parts = []
    with torch.no_grad():  # not inference_mode: a temperature is fitted to them
        for start in range(0, len(order), EVALUATION_BATCH):
            tokens, _ = texts.batch(order[start : start + EVALUATION_BATCH].tolist())
            parts.append(model(tokens.to(device)).float().cpu())
    logits = torch.empty_like(sorted_logits := torch.cat(parts))
    logits[torch.from_numpy(order)] = sorted_logits
    return logits
