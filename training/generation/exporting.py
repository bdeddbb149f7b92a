"""A network of two programs -> what its export needs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from handlers.decoding.generation import Generation
from handlers.decoding.state import CACHE, CHUNK
from training.export.trained import Dimension, Sample, Trained

ROWS = 4  # of an example
PROMPT = "prompt"


def trained_generator(
    network: Any, prompts: Sequence[np.ndarray], most: int, most_new: int, **others: Any
) -> Trained:
    """The step as the main program and the prompt's beside it; `others` are further fields of Trained.

    `prompts` are held-out ones, of which the examples are made; `most` and `most_new` the longest prompt and
    answer.
    """
    layout = network.layout()
    prompt, step = (one.eval() for one in network.programs())
    length = layout.prompt_length or max(2, *(len(one) for one in prompts[:ROWS]))
    lengths = torch.tensor([min(len(one), length) for one in prompts[:ROWS]])
    tokens = torch.zeros(len(lengths), length, dtype=torch.int64)
    for row, one in zip(tokens, prompts, strict=False):
        row[: min(len(one), length)] = torch.from_numpy(one[:length])
    with torch.no_grad():
        given = prompt(tokens, lengths)
    first = given.pop("logits", None)
    longest = most if layout.begin is not None else most + most_new
    source = {} if layout.prompt_length else {1: Dimension("source", 1, most)}
    state, dimensions = [], []
    for part in layout.state:
        if part.role == CACHE:
            shape = [len(lengths), *part.shape]
            shape[part.axis or 0] = 7  # a size that no other dimension has
            state.append(torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1)
            bound = -(-longest // CHUNK) * CHUNK if layout.begin is None else -(-most_new // CHUNK) * CHUNK
            dimensions.append({part.axis or 0: Dimension("capacity", 1, bound + CHUNK)})
        else:
            state.append(given[part.name])
            sized = part.axis is not None and not layout.prompt_length
            dimensions.append({part.axis or 0: Dimension("source", 1, most)} if sized else {})
    token = torch.full((len(lengths),), layout.end) if first is None else first.argmax(1)
    position = torch.arange(len(lengths)) % 3 + 1
    main = Trained(
        kind="generator",
        module=step,
        example=(token, position, *state),
        dimensions=({}, {}, *dimensions),
        **others,
    )
    main.parts = {PROMPT: main.part(prompt, (tokens, lengths), (source, {}))}
    return main


def postprocess_of(
    network: Any, vocabulary: str, most_new: int, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """postprocess_config.json; `vocabulary` is the kind of target.json, empty where there is none."""
    limits = {"max_new_tokens": most_new, "defaults": {"max_new_tokens": most_new, **defaults}}
    return {"type": "generation", **network.layout().as_config(), "vocabulary": vocabulary, **limits}


def samples_of(
    found: Sequence[Generation], texts: Sequence[str], right: Sequence[bool], count: int = 64
) -> list[Sample]:
    """Texts with the surest answers, by log-probability per token: right ones first, where there are any."""
    ranked = [
        (not fits, -one.search.score / (len(one.search.tokens) + 1), row)
        for row, (one, fits) in enumerate(zip(found, right, strict=True))
    ]
    samples = []
    for number, (_, _, row) in enumerate(sorted(ranked)[:count], 1):
        body = json.dumps({"text": texts[row]}, ensure_ascii=False).encode()
        samples.append(Sample(f"text-{number}", body, "application/json", {"text": found[row].text}))
    return samples
