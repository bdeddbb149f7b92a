"""A Transformer that continues its prompt: a language model of GPT-2's form (Radford et al. 2019)."""

import torch
from torch import nn

from handlers.decoding.loop import Layout
from handlers.decoding.state import CACHE, StatePart
from training.generation.programs import Program
from training.generation.transformer import Layer, filled

DEVIATION = 0.02  # of the first weights


class CausalNetwork(nn.Module):
    """Texts of at most `most` tokens, prompt and answer together; `end` is the token that ends one. The head
    has the weights of the embedding.
    """

    def __init__(
        self,
        size: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        most: int,
        end: int,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.depth, self.most, self.end = width, heads, layers, most, end
        self.embedding, self.places = nn.Embedding(size, width), nn.Embedding(most, width)
        self.layers = nn.ModuleList(
            Layer(width, heads, dropout, crosses=False, epsilon=epsilon) for _ in range(layers)
        )
        self.norm, self.dropout = nn.LayerNorm(width, epsilon), nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                nn.init.normal_(module.weight, std=DEVIATION)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def read(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [B, T] -> what the head reads [B, T, width]; keys and values [B, 2 layers, heads, T,
        d].
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        causal = (places[:, None] >= places[None])[None, None]
        vectors = self.dropout(self.embedding(tokens) + self.places(places)[None])
        pairs = []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            vectors, pair = layer.whole(vectors, causal)
            vectors = layer.inner(vectors)
            pairs.append(pair)
        return self.norm(vectors), torch.cat(pairs, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of the token behind each."""
        return self.logits(self.read(tokens)[0])

    def logits(self, vectors: torch.Tensor) -> torch.Tensor:
        """Of what `read` gives."""
        return vectors @ self.embedding.weight.T

    def layout(self) -> Layout:
        """How its programs are called."""
        shape = (2 * self.depth, self.heads, 0, self.width // self.heads)
        return Layout((StatePart("cache", CACHE, shape, axis=3),), None, self.end)

    def programs(self) -> tuple[nn.Module, nn.Module]:
        """That of the prompt, and that of a step."""
        return CausalPrompt(self), CausalStep(self)


class CausalPrompt(Program[CausalNetwork]):
    """Tokens int64 [B, S], filled up behind, and lengths int64 [B] -> logits of the first new token, and the
    keys and values of all; what is behind a prompt's end is overwritten later.
    """

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        """One batch."""
        vectors, cache = self.network.read(tokens)
        last = (lengths.clamp(max=tokens.shape[1]) - 1)[:, None, None].expand(-1, 1, vectors.shape[2])
        return {"logits": self.network.logits(vectors.gather(1, last)[:, 0]), "cache": cache}


class CausalStep(Program[CausalNetwork]):
    """The last token int64 [B], how many came before it int64 [B], and the cache -> logits, and its own keys
    and values.
    """

    def forward(
        self, token: torch.Tensor, position: torch.Tensor, cache: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """One token more."""
        network = self.network
        past = filled(cache, position)
        vector = (network.embedding(token) + network.places(position))[:, None]
        own: list[torch.Tensor] = []
        for number, layer in enumerate(network.layers):
            assert isinstance(layer, Layer)
            first = 2 * number
            vector, pair = layer.behind(vector, cache[:, first], cache[:, first + 1], past)
            own += pair
            vector = layer.inner(vector)
        return {"logits": network.logits(network.norm(vector)[:, 0]), "cache": torch.stack(own, 1)}
