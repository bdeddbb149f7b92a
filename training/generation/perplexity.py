"""How well a language model predicts a text: perplexity, and the share of tokens that it would have said."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from marina.core import paths
from marina.core.errors import CallError
from training.data.text_files import read_text
from training.generation.causal import CausalNetwork

LANGUAGE_METRICS = ("token_accuracy", "perplexity", "bits_per_byte")
ROWS = 16  # windows that are computed together


def windows(tokens: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Parts int64 [rows, at most size + 1] that overlap by one token: what follows the last of one is the
    first of the next.
    """
    whole = (len(tokens) - 1) // size
    parts = np.lib.stride_tricks.sliding_window_view(tokens[: whole * size + 1], size + 1)[::size]
    for first in range(0, len(parts), ROWS):
        yield parts[first : first + ROWS]
    if len(tokens) - 1 > whole * size:
        yield tokens[None, whole * size :]


def measured(
    network: CausalNetwork, tokens: np.ndarray, size: int, device: Any = "cpu"
) -> tuple[float, float]:
    """(mean loss per token in nats, share of tokens that were the most probable ones), each behind at most
    `size` tokens of its window.
    """
    loss = right = 0.0
    with torch.no_grad():
        for part in windows(tokens, size):
            rows = torch.from_numpy(np.ascontiguousarray(part)).to(device)
            logits = network(rows[:, :-1]).flatten(0, 1)
            wanted = rows[:, 1:].flatten()
            loss += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
            right += float((logits.argmax(1) == wanted).sum())
    count = max(1, len(tokens) - 1)
    return loss / count, right / count


def metrics_of(loss: float, right: float, tokens: int, size: int) -> dict[str, float]:
    """Metrics by name, of so many tokens whose text has `size` bytes."""
    return {
        "token_accuracy": right,
        "perplexity": math.exp(min(loss, 50.0)),
        "bits_per_byte": loss * tokens / max(1, size) / math.log(2),
    }


def language_metrics(network: CausalNetwork, tokenizer: Any, data: str, size: int) -> dict[str, float]:
    """Of a text file. Raises CallError for one that can't be read or is too short."""
    path = paths.expanded(data)
    if not path.is_file():
        raise CallError(f"data {data!r} is no text file")
    text = read_text(path)
    tokens = tokenizer.encode(text, len(text.encode())).ids
    if len(tokens) < 2:
        raise CallError(f"{path} has {len(tokens)} tokens; two at least are needed")
    return metrics_of(*measured(network, tokens, size), len(tokens) - 1, len(text.encode()))
