"""A recurrent encoder and a decoder with attention (Bahdanau et al. 2015, Neural machine translation by
jointly learning to align and translate, appendix A).
"""

import torch
from torch import nn

from handlers.decoding.loop import Layout
from handlers.decoding.state import CARRIED, CONSTANT, StatePart
from handlers.decoding.vocabulary import BEGIN, END
from handlers.inputs.tokenization import PAD
from training.generation.programs import Program


class RecurrentNetwork(nn.Module):
    """Reads sources of at most `length` tokens in both directions, and writes one token after another.

    A source shorter than that is filled up behind its end, which changes nothing: the backward cells begin
    at its last token.
    """

    def __init__(self, sources: int, targets: int, width: int, dropout: float, length: int) -> None:
        super().__init__()
        self.width, self.length = width, length
        self.source_embedding = nn.Embedding(sources, width, PAD)
        self.target_embedding = nn.Embedding(targets, width, PAD)
        self.forward_cells = nn.GRU(width, width, batch_first=True)
        self.backward_cells = nn.GRU(width, width, batch_first=True)
        self.first_state = nn.Linear(width, width)
        self.keys = nn.Linear(2 * width, width, bias=False)
        self.query = nn.Linear(width, width)
        self.energy = nn.Linear(width, 1, bias=False)
        self.cell = nn.GRUCell(3 * width, width)
        self.readout = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, targets)

    def encode(
        self, tokens: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens int64 [B, S], lengths int64 [B] -> values [B, S, 2 width], keys [B, S, width], mask bool [B,
        S], state [B, width].
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        mask = places[None] < lengths[:, None]
        mirrored = lengths[:, None] - 1 - places[None]
        mirrored = torch.where(mirrored >= 0, mirrored, places[None])[:, :, None]  # its own inverse
        vectors = self.dropout(self.source_embedding(tokens))
        onward = self.forward_cells(vectors)[0]
        turned = vectors.gather(1, mirrored.expand(-1, -1, self.width))
        backward = self.backward_cells(turned)[0].gather(1, mirrored.expand(-1, -1, self.width))
        values = self.dropout(torch.cat([onward, backward], 2)) * mask[:, :, None]
        return values, self.keys(values), mask, torch.tanh(self.first_state(backward[:, 0]))

    def decode_step(
        self,
        embedded: torch.Tensor,
        values: torch.Tensor,
        keys: torch.Tensor,
        mask: torch.Tensor,
        hidden: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The last token's embedding [B, width] -> what the head reads [B, 4 width], the new state, and the
        attention [B, S].
        """
        scores = self.energy(torch.tanh(self.query(hidden)[:, None] + keys))[:, :, 0]
        attention = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(1)
        context = (attention[:, None] @ values)[:, 0]
        hidden = self.cell(torch.cat([embedded, context], 1), hidden)
        return torch.cat([hidden, context, embedded], 1), hidden, attention

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of the tokens behind `targets` int64 [B, T], which begin with BEGIN."""
        values, keys, mask, hidden = self.encode(tokens, lengths)
        embedded = self.dropout(self.target_embedding(targets))
        outputs = []
        for place in range(targets.shape[1]):
            read, hidden, _ = self.decode_step(embedded[:, place], values, keys, mask, hidden)
            outputs.append(read)
        return self.logits(torch.stack(outputs, 1))

    def logits(self, read: torch.Tensor) -> torch.Tensor:
        """Of what `decode_step` gives."""
        result: torch.Tensor = self.head(self.dropout(torch.tanh(self.readout(read))))
        return result

    def layout(self) -> Layout:
        """How its programs are called."""
        parts = (
            StatePart("values", CONSTANT, (self.length, 2 * self.width)),
            StatePart("keys", CONSTANT, (self.length, self.width)),
            StatePart("mask", CONSTANT, (self.length,), "bool"),
            StatePart("hidden", CARRIED, (self.width,)),
        )
        return Layout(parts, BEGIN, END, prompt_length=self.length)

    def programs(self) -> tuple[nn.Module, nn.Module]:
        """That of the prompt, and that of a step."""
        return RecurrentPrompt(self), RecurrentStep(self)


class RecurrentPrompt(Program[RecurrentNetwork]):
    """Tokens int64 [B, length] and lengths int64 [B] -> the first state."""

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of the state by name."""
        values, keys, mask, hidden = self.network.encode(tokens, lengths)
        return {"values": values, "keys": keys, "mask": mask, "hidden": hidden}


class RecurrentStep(Program[RecurrentNetwork]):
    """The last token int64 [B], its place int64 [B] (not needed), and the state -> logits, the new state, and
    the attention.
    """

    def forward(
        self,
        token: torch.Tensor,
        position: torch.Tensor,
        values: torch.Tensor,
        keys: torch.Tensor,
        mask: torch.Tensor,
        hidden: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """One token more."""
        embedded = self.network.target_embedding(token + 0 * position)  # a graph has no unused input
        read, hidden, attention = self.network.decode_step(embedded, values, keys, mask, hidden)
        return {"logits": self.network.logits(read), "hidden": hidden, "attention": attention}
