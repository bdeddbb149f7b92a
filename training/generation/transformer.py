"""Transformers that write (Vaswani et al. 2017, with layer norm first): an encoder, and a decoder over it
whose step keeps the keys and values of what came before.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from handlers.decoding.loop import Layout
from handlers.decoding.state import CACHE, CONSTANT, StatePart
from handlers.decoding.vocabulary import BEGIN, END
from training.generation.programs import Program


class Attention(nn.Module):
    """Attention of several heads; keys and values are computed once and kept by whoever calls."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def split(self, vectors: torch.Tensor) -> torch.Tensor:
        """[B, T, width] -> [B, heads, T, width of a head]."""
        rows, length, width = vectors.shape
        return vectors.reshape(rows, length, self.heads, width // self.heads).transpose(1, 2)

    def keys_and_values(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of what is attended to."""
        return self.split(self.key(vectors)), self.split(self.value(vectors))

    def forward(
        self, vectors: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `vectors` [B, T, width] find, by the mask bool [B or 1, 1, T or 1, S], and the weights [B,
        heads, T, S].
        """
        queries = self.split(self.query(vectors))
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(3)
        return self.joined(weights @ values), weights

    def joined(self, found: torch.Tensor) -> torch.Tensor:
        """[B, heads, T, d] -> [B, T, width]."""
        rows, heads, length, size = found.shape
        result: torch.Tensor = self.out(found.transpose(1, 2).reshape(rows, length, heads * size))
        return result

    def behind(
        self, vector: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What one more token [B, 1, width] finds in those before it, where the mask bool [B, 1, 1, C] says
        so, and in itself; its own key and value [B, heads, 1, d].
        """
        query = self.split(self.query(vector))
        key, value = self.keys_and_values(vector)
        scale = 1 / math.sqrt(query.shape[3])
        past = (query @ keys.transpose(2, 3) * scale).masked_fill(~mask, torch.finfo(query.dtype).min)
        weights = torch.cat([past, (query * key).sum(3, keepdim=True) * scale], 3).softmax(3)
        found = weights[:, :, :, :-1] @ values + weights[:, :, :, -1:] * value
        return self.joined(found), key, value


class Layer(nn.Module):
    """Attention to the own sequence, perhaps to another one, and two linear layers, each added to what it
    reads.
    """

    def __init__(self, width: int, heads: int, dropout: float, crosses: bool, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width, epsilon), Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width, epsilon) if crosses else None
        self.cross = Attention(width, heads) if crosses else None
        self.inner_norm = nn.LayerNorm(width, epsilon)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def inner(self, vectors: torch.Tensor) -> torch.Tensor:
        """The linear layers."""
        hidden = F.gelu(self.first(self.inner_norm(vectors)), approximate="tanh")
        result: torch.Tensor = vectors + self.dropout(self.second(hidden))
        return result

    def whole(self, vectors: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention to the own sequence at once; its keys and values [B, 2, heads, T, d]."""
        normed = self.norm(vectors)
        keys, values = self.attention.keys_and_values(normed)
        found, _ = self.attention(normed, keys, values, mask)
        return vectors + self.dropout(found), torch.stack([keys, values], 1)

    def behind(
        self, vector: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Attention of one more token [B, 1, width] to those before it, where the mask says so, and to
        itself; its own key and value [B, heads, 1, d].
        """
        found, key, value = self.attention.behind(self.norm(vector), keys, values, mask)
        return vector + found, (key, value)

    def across(
        self, vectors: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention to keys and values [B, 2, heads, S, d] of another sequence; its weights."""
        assert self.cross is not None
        assert self.cross_norm is not None
        found, weights = self.cross(self.cross_norm(vectors), memory[:, 0], memory[:, 1], mask)
        return vectors + self.dropout(found), weights


def filled(cache: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Which places of a cache [B, 2 layers, heads, C, d] hold a token, so many before each one at `position`
    int64 [B]: bool [B, 1, 1, C].
    """
    places = torch.arange(cache.shape[3], device=cache.device)
    return (places[None] < position[:, None])[:, None, None]


class TransformerNetwork(nn.Module):
    """Reads sources of at most `most` tokens, and writes at most `most_new`."""

    def __init__(
        self, sizes: tuple[int, int], width: int, layers: int, heads: int, dropout: float, most: int, new: int
    ) -> None:
        super().__init__()
        self.width, self.heads, self.depth = width, heads, layers
        self.source_embedding, self.target_embedding = (nn.Embedding(size, width) for size in sizes)
        self.source_places, self.target_places = nn.Embedding(most, width), nn.Embedding(new + 1, width)
        self.encoder = nn.ModuleList(Layer(width, heads, dropout, crosses=False) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(width, heads, dropout, crosses=True) for _ in range(layers))
        self.encoder_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes[1])
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=width**-0.5)

    def encode(self, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [B, S], lengths int64 [B] -> keys and values of all decoder layers [B, 2 layers,
        heads, S, d], mask bool [B, S].
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        mask = places[None] < lengths[:, None]
        vectors = self.dropout(self.source_embedding(tokens) + self.source_places(places)[None])
        for layer in self.encoder:
            assert isinstance(layer, Layer)
            vectors, _ = layer.whole(vectors, mask[:, None, None])
            vectors = layer.inner(vectors)
        vectors = self.encoder_norm(vectors)
        parts: list[torch.Tensor] = []
        for layer in self.decoder:
            assert isinstance(layer, Layer)
            assert layer.cross is not None
            parts += layer.cross.keys_and_values(vectors)
        return torch.stack(parts, 1), mask

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of the tokens behind `targets` int64 [B, T], which begin with BEGIN."""
        memory, mask = self.encode(tokens, lengths)
        places = torch.arange(targets.shape[1], device=targets.device)
        causal = (places[:, None] >= places[None])[None, None]
        vectors = self.dropout(self.target_embedding(targets) + self.target_places(places)[None])
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, Layer)
            vectors, _ = layer.whole(vectors, causal)
            vectors, _ = layer.across(vectors, memory[:, 2 * number : 2 * number + 2], mask[:, None, None])
            vectors = layer.inner(vectors)
        logits: torch.Tensor = self.head(self.norm(vectors))
        return logits

    def layout(self) -> Layout:
        """How its programs are called."""
        shape = (2 * self.depth, self.heads, 0, self.width // self.heads)
        parts = (
            StatePart("memory", CONSTANT, shape, axis=3),
            StatePart("mask", CONSTANT, (0,), "bool", axis=1),
            StatePart("cache", CACHE, shape, axis=3),
        )
        return Layout(parts, BEGIN, END)

    def programs(self) -> tuple[nn.Module, nn.Module]:
        """That of the prompt, and that of a step."""
        return TransformerPrompt(self), TransformerStep(self)


class TransformerPrompt(Program[TransformerNetwork]):
    """Tokens int64 [B, S] and lengths int64 [B] -> the first state."""

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of the state by name; the cache is empty."""
        memory, mask = self.network.encode(tokens, lengths)
        return {"memory": memory, "mask": mask}


class TransformerStep(Program[TransformerNetwork]):
    """The last token int64 [B], how many came before it int64 [B], and the state -> logits, its own keys and
    values, and the attention of the last layer.
    """

    def forward(
        self,
        token: torch.Tensor,
        position: torch.Tensor,
        memory: torch.Tensor,
        mask: torch.Tensor,
        cache: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """One token more."""
        network = self.network
        past = filled(cache, position)
        vector = (network.target_embedding(token) + network.target_places(position))[:, None]
        own: list[torch.Tensor] = []
        weights = memory[:, 0]
        for number, layer in enumerate(network.decoder):
            assert isinstance(layer, Layer)
            first = 2 * number
            vector, pair = layer.behind(vector, cache[:, first], cache[:, first + 1], past)
            own += pair
            vector, weights = layer.across(vector, memory[:, first : first + 2], mask[:, None, None])
            vector = layer.inner(vector)
        logits = network.head(network.norm(vector))[:, 0]
        return {"logits": logits, "cache": torch.stack(own, 1), "attention": weights[:, :, 0].mean(1)}
