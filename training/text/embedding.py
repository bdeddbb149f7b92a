"""A module that embeds texts, and the export of one: vectors of texts, an index, samples, metrics."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from handlers.inputs.texts import TextLimits
from handlers.inputs.tokenization import FILE, Tokenizer, load_tokenizer
from handlers.inputs.vector_index import MOST_ENTRIES, VectorIndex
from handlers.kinds.texts import padded
from marina.core.errors import CallError
from training.data.copies import SPLITS
from training.data.embedding_texts import EmbeddingData, Entry, all_entries
from training.data.texts import Reading
from training.export.trained import HELD_OUT, Dimension, Sample, Trained, spread
from training.findings import Findings
from training.text.embedding_settings import AnswerSettings
from training.text.recurrent import graph_of

BATCH = 64
SAMPLES, SAMPLE_CHARACTERS = 64, 2000
SENTENCES = (  # samples of a model that no data is named for
    "The train to the coast leaves at half past seven.",
    "Our team won the match in the last minute.",
    "The bank has raised its interest rate again.",
    "She planted tomatoes and basil behind the house.",
    "How do I reset the password of my account?",
    "The committee publishes its report in spring.",
    "Heavy rain is expected in the north tonight.",
    "This recipe needs two eggs and a cup of flour.",
)


class TextEmbedder(nn.Module):
    """What is served: tokens int64 [B, length] -> unit vectors float32 [B, dimension]."""

    def __init__(self, body: nn.Module, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.projection = body, projection or nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Vectors of a batch."""
        return F.normalize(self.projection(self.body(tokens)), dim=1)


@dataclass(frozen=True)
class Reader:
    """A tokenizer as an export has it, and what is read of a text."""

    content: bytes
    kind: str
    limits: TextLimits

    def tokenizer(self) -> Tokenizer:
        """As serving loads it."""
        return load_tokenizer(self.content, self.kind)

    def tokens(self, entries: Sequence[Entry], findings: Findings, things: str) -> list[np.ndarray]:
        """The tokens of each text; what is cut is a finding, and one without any is a single unknown word."""
        tokenizer, most = self.tokenizer(), self.limits.max_tokens
        encoded = [tokenizer.encode(one.text, most) for one in entries]
        cut = [one.place for one, found in zip(entries, encoded, strict=True) if found.truncated]
        findings.add(things, f"have more than {most:,} tokens, of which the first count", cut, len(entries))
        empty = [one.place for one, found in zip(entries, encoded, strict=True) if not len(found.ids)]
        findings.add(things, "have no token, and are the unknown word", empty, len(entries))
        return [found.ids if len(found.ids) else np.ones(1, np.int64) for found in encoded]

    def split_tokens(self, data: EmbeddingData, findings: Findings) -> list[list[np.ndarray]]:
        """The tokens of each text of training, validation and test."""
        return [self.tokens(getattr(data, split), findings, f"texts of {split}") for split in SPLITS]


def embedded(
    model: nn.Module, tokens: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> torch.Tensor:
    """What a module makes of texts: float32 [N, width] on the CPU, in their order."""
    order = np.argsort([len(one) for one in tokens], kind="stable")
    parts = []
    with torch.no_grad():
        for start in range(0, len(order), BATCH):
            rows = torch.from_numpy(padded([tokens[row] for row in order[start : start + BATCH]]))
            parts.append(model(rows.to(device)).float().cpu())
    found = torch.empty_like(by_length := torch.cat(parts))
    found[torch.from_numpy(order)] = by_length
    return found


def build_index(
    settings: AnswerSettings, model: nn.Module, reader: Reader, findings: Findings
) -> VectorIndex | None:
    """The index of the settings. Raises CallError for too many entries, and for an id that is there twice."""
    if settings.index is None:
        return None
    entries = all_entries(settings.index, findings, Reading(settings.encoding, limits=reader.limits))
    if len(entries) > MOST_ENTRIES:
        raise CallError(f"index {settings.index} has {len(entries):,} texts; {MOST_ENTRIES:,} at most")
    ids = [one.name for one in entries]
    if len(set(ids)) < len(ids):
        twice = next(name for place, name in enumerate(ids) if name in ids[:place])
        raise CallError(f"index {settings.index} has the id {twice!r} twice")
    most = settings.index_characters
    long = [one.place for one in entries if len(one.text) > most]
    findings.add("entries of the index", f"are shown by their first {most:,} characters", long, len(entries))
    texts = [one.text if len(one.text) <= most else one.text[: most - 1] + "…" for one in entries]
    vectors = embedded(model, reader.tokens(entries, findings, "entries of the index")).numpy()
    return VectorIndex(np.ascontiguousarray(vectors, np.float32), ids, texts)


def trained_embedder(
    settings: AnswerSettings,
    model: TextEmbedder,
    reader: Reader,
    held_out: Sequence[Entry],
    tokens: Sequence[np.ndarray],
    index: VectorIndex | None,
    **facts: Any,
) -> Trained:
    """What the export gets; `held_out` are the texts of the test split and `tokens` theirs."""
    if not held_out:
        held_out = [Entry(text, "", f"sentence {number}", "") for number, text in enumerate(SENTENCES, 1)]
        tokens = [reader.tokenizer().encode(one.text, reader.limits.max_tokens).ids for one in held_out]
    model = model.eval().requires_grad_(False)
    example = torch.from_numpy(padded(tokens[:8] if len(tokens) > 1 else [tokens[0], tokens[0]]))
    dimension = model(example).shape[1]
    postprocess = {"type": "embedding", "dimension": dimension, "top_k": settings.top_k}
    return Trained(
        kind="embedder",
        module=model,
        onnx=graph_of(model.body, model.projection, normalized=True),
        example=(torch.cat([example, example], 1) if example.shape[1] == 1 else example,),
        dimensions=({1: Dimension("length", 1, reader.limits.max_tokens)},),
        validation=(torch.from_numpy(padded(spread(tokens, HELD_OUT))),),
        preprocess={"input": "text", "tokenizer": reader.kind, **vars(reader.limits)},
        postprocess={**postprocess, "labels": [*settings.labels], "has_index": index is not None},
        files={FILE: reader.content, **(index.as_files() if index else {})},
        samples=_samples(held_out, dimension),
        **facts,
    )


def _samples(entries: Sequence[Entry], dimension: int) -> list[Sample]:
    """Short texts of the test split, and that each has a vector: what it is lies beside them, as a golden
    answer.
    """
    short = [one for one in entries if len(one.text) <= SAMPLE_CHARACTERS] or entries
    samples = []
    for number, one in enumerate(spread(short, SAMPLES), 1):
        body = json.dumps({"text": one.text}, ensure_ascii=False).encode("utf-8", "replace")
        samples.append(Sample(f"text-{number}", body, "application/json", {"dimension": dimension}))
    return samples
