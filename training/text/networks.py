"""Networks that take tokens int64 [B, length], of any length, and give logits [B, outputs].

PAD is masked in each: padding changes no answer. LSTM and GRU are in `text.recurrent`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from handlers.inputs.tokenization import PAD
from marina.core.errors import CallError
from training.imports.user_code import called, folder_of, importable, load_function
from training.tensors.onnx_graphs import read_packages
from training.text.recurrent import Recurrent
from training.text.settings import OWN, RECURRENT, NetworkSettings

EXPANSION = 4  # of the transformer's inner layers


class Bag(nn.Module):
    """The mean and the maximum of the embeddings (Shen et al. 2018, section 3)."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.width = 2 * embedding.embedding_dim

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, length] -> [B, width]."""
        mask = (tokens != PAD).unsqueeze(2)
        vectors = self.embedding(tokens)
        return torch.cat([_mean(vectors, mask), _maximum(vectors, mask)], 1)


class Convolutions(nn.Module):
    """Filters over some tokens each, and their maximum over the text (Kim 2014)."""

    def __init__(self, embedding: nn.Embedding, filters: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.embedding, self.widths = embedding, list(widths)
        self.filters = nn.ModuleList(nn.Conv1d(embedding.embedding_dim, filters, size) for size in widths)
        self.width = filters * len(self.widths)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, length] -> [B, width]."""
        mask = (tokens != PAD).unsqueeze(2)
        vectors = (self.embedding(tokens) * mask).transpose(1, 2)
        found = []
        for size, convolution in zip(self.widths, self.filters, strict=True):
            around = F.pad(vectors, ((size - 1) // 2, size // 2))  # as many places as tokens
            found.append(_maximum(convolution(around).relu().transpose(1, 2), mask))
        return torch.cat(found, 1)


class Attention(nn.Module):
    """One layer of a transformer (Vaswani et al. 2017), normalized first (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(
            nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, length, width], bool [B, length] -> [B, length, width]."""
        batch, length, width = vectors.shape
        parts = self.inputs(self.before(vectors)).reshape(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        vectors = vectors + self.dropout(self.outputs(mixed))
        result: torch.Tensor = vectors + self.dropout(self.inner(self.between(vectors)))
        return result


class Transformer(nn.Module):
    """A small encoder with learned positions, and the mean of what it gives."""

    def __init__(
        self, embedding: nn.Embedding, layers: int, heads: int, longest: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding, self.width = embedding, embedding.embedding_dim
        self.positions = nn.Parameter(torch.randn(longest, self.width) * 0.02)
        self.layers = nn.ModuleList(Attention(self.width, heads, dropout) for _ in range(layers))
        self.last, self.dropout = nn.LayerNorm(self.width), nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, length] -> [B, width]."""
        mask = tokens != PAD
        vectors = self.embedding(tokens) * math.sqrt(self.width) + self.positions[: tokens.shape[1]]
        vectors = self.dropout(vectors)
        for layer in self.layers:
            vectors = layer(vectors, mask)
        return _mean(self.last(vectors), mask.unsqueeze(2))


class TextNetwork(nn.Module):
    """What is served: tokens int64 [B, length] -> logits float32 [B, outputs], divided by `temperature`,
    which is 1 until the model is calibrated.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head, self.temperature = body, head, 1.0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        logits: torch.Tensor = self.head(self.body(tokens))
        return logits if self.temperature == 1 else logits / self.temperature


def build(
    settings: NetworkSettings,
    size: int,
    outputs: int,
    vectors: np.ndarray | None,
    encoder: nn.Module | None = None,
) -> TextNetwork:
    """The network of the settings for a vocabulary of `size`, not trained yet; the embeddings begin with
    `vectors`, float32 [size, width], and an `encoder` that was pretrained is its body.

    Raises CallError for a function of the user's own that doesn't give such a module.
    """
    if OWN in settings.architecture and encoder is None:
        return TextNetwork(_own(settings.architecture, size, outputs), nn.Identity())
    body = encoder or build_body(settings, size, vectors)
    width: Any = body.width
    return TextNetwork(body, nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(width, outputs)))


def build_body(settings: NetworkSettings, size: int, vectors: np.ndarray | None) -> nn.Module:
    """What makes a vector of `width` numbers of a text: tokens int64 [B, length] -> float32 [B, width]."""
    width = settings.embedding_size if vectors is None else vectors.shape[1]
    embedding = nn.Embedding(size, width, PAD)
    if vectors is None:
        nn.init.normal_(embedding.weight, std=1 / math.sqrt(width))
        with torch.no_grad():
            embedding.weight[PAD] = 0
    else:
        embedding.weight.data = torch.from_numpy(vectors.copy())
        embedding.weight.requires_grad_(not settings.freeze_vectors)
    if settings.architecture == "cnn":
        return Convolutions(embedding, settings.filters, settings.filter_widths)
    if settings.architecture in RECURRENT:
        read_packages(f"architecture: {settings.architecture}")  # before it learns
        sizes = (settings.hidden, settings.layers, settings.bidirectional)
        return Recurrent(embedding, settings.architecture, *sizes, settings.dropout)
    if settings.architecture == "transformer":
        if width % settings.heads:
            raise CallError(f"heads: vectors of width {width} have no {settings.heads} equal parts")
        return Transformer(embedding, settings.layers, settings.heads, settings.max_tokens, settings.dropout)
    return Bag(embedding)


def _own(name: str, size: int, outputs: int) -> nn.Module:
    function = load_function(name, "architecture")
    with importable(folder_of(name.rpartition(":")[0])):
        made = called(lambda: function(size, outputs), name)
    if not isinstance(made, nn.Module):
        raise CallError(f"{name} gave a {type(made).__name__}, not an nn.Module")
    made = made.float()
    tokens = torch.ones(2, 3, dtype=torch.int64)
    found = called(lambda: made.eval()(tokens), name)
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape != (2, outputs):
        raise CallError(f"{name} gives {shape} for 2 texts of 3 tokens; give logits of shape (2, {outputs})")
    return made


def _mean(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, length, width] over the places of the mask, bool [B, length, 1]."""
    return (vectors * mask).sum(1) / mask.sum(1).clamp(min=1)


def _maximum(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return vectors.masked_fill(~mask, torch.finfo(vectors.dtype).min).amax(1)
