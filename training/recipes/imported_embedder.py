"""Brings a network that makes vectors of texts and learned elsewhere: a pretrained encoder from a folder, or
the body of a text classifier of this project.

Nothing is learned. Where there are texts that belong together, it is measured on finding them.
"""

import time

import numpy as np
import torch
from pydantic import Field
from torch import nn

from handlers.inputs.texts import TextLimits
from handlers.inputs.tokenization import FILE, load_tokenizer
from handlers.runtime.checksums import file_digest
from handlers.runtime.export import ONNX_PROGRAM, PROGRAM, Export
from marina.core import spec as specs
from marina.core.errors import CallError
from training.data.embedding_texts import Entry, held_out_entries
from training.data.texts import Reading
from training.export.trained import Trained
from training.runs.run import Run
from training.text.embedding import Reader, TextEmbedder
from training.text.embedding_assessment import ASSESSMENT_METRICS, assessed
from training.text.embedding_settings import AnswerSettings
from training.text.encoders import WEIGHTS, folder_of, load_encoder
from training.text.networks import build
from training.text.settings import POOLING_WORDS, PRETRAINED, NetworkSettings
from training.text.tokenizers import PRETRAINED as PRETRAINED_TOKENIZER

IS_IMPORT = True
METRICS = ASSESSMENT_METRICS
MODEL = "model:"


class Settings(AnswerSettings):
    """What a spec may say under `training`."""

    source: str = Field(
        description=(
            "hf:FOLDER (a pretrained BERT, DistilBERT or MiniLM: config.json, tokenizer.json, "
            "model.safetensors), or model:NAME (the body of a text classifier of this project)"
        )
    )
    licence: str = Field(default="the owner's", description="of the weights")
    trust_pickle: bool = Field(default=False, description="nothing that is taken is a pickle")
    pooling: str = Field(
        default="auto",
        pattern="^(auto|mean|first)$",
        description=POOLING_WORDS,
    )
    data: str | None = Field(
        default=None, description="texts that belong together, to measure on; nothing is learned from them"
    )


def train(settings: Settings, run: Run) -> Trained:
    """Measure it, where there is data, and describe it. Raises CallError for what can't be read."""
    started = time.monotonic()
    body, reader, facts = _brought(settings)
    entries: list[Entry] = []
    tokens: list[np.ndarray] = []
    if settings.data:
        reading = Reading(settings.encoding, limits=reader.limits)
        entries = held_out_entries(settings.data, 0, run.findings, reading, settings.relevance, True)
        tokens = reader.tokens(entries, run.findings, "texts")
    return assessed(
        *(settings, TextEmbedder(body), reader, entries, tokens, run, {}),
        data={
            **{"name": "not known", "source": f"imported: {settings.source}", "licence": settings.licence},
            "measured_on": settings.data,
        },
        training={**facts, "seconds": round(time.monotonic() - started, 1)},
    )


def _brought(settings: Settings) -> tuple[nn.Module, Reader, dict[str, str]]:
    """The body, its tokenizer, and which files it is."""
    if settings.source.startswith(PRETRAINED):
        encoder, content = load_encoder(settings.source, settings.pooling)
        if settings.max_tokens > encoder.longest:
            raise CallError(f"max_tokens {settings.max_tokens}: {settings.source} has {encoder.longest}")
        files = {"weights": file_digest(folder_of(settings.source) / WEIGHTS)}
        return (
            encoder,
            Reader(content, PRETRAINED_TOKENIZER, settings.limits),
            {"pooling": encoder.pooling, **files},
        )
    if settings.source.startswith(MODEL):
        return _classifier_body(settings)
    raise CallError(f"source {settings.source!r} is none of hf:FOLDER, model:NAME")


def _classifier_body(settings: Settings) -> tuple[nn.Module, Reader, dict[str, str]]:
    """What the head of a trained text classifier reads. Raises CallError for another kind of model, and for
    a network of the user's own, whose body nobody knows.
    """
    from training import recipes

    name = settings.source.removeprefix(MODEL)
    spec = specs.load(name)
    spec.check_exported()
    export = Export.open(spec.export_dir)
    learned = recipes.recipe_of(spec).settings(spec)
    if spec.kind != "text_classifier" or not isinstance(learned, NetworkSettings):
        raise CallError(f"source: {name} is a {spec.kind}; name a text_classifier")
    if ":" in learned.architecture and not learned.is_pretrained:
        raise CallError(f"source: {name} has a network of its own; its body isn't known")
    if export.program.name == ONNX_PROGRAM:
        raise CallError(
            f"source: {name} is an lstm or gru, whose graph torch can't read; learn one with the recipe "
            "embedder and the same architecture"
        )
    kind = str(export.preprocess["tokenizer"])
    tokenizer = load_tokenizer(export.content(FILE), kind)
    state = torch.export.load(spec.export_dir / PROGRAM).state_dict
    encoder = None
    if learned.is_pretrained:
        encoder, _ = load_encoder(learned.architecture, learned.pooling, learned.pooled_layers)
    words = state.get("body.embedding.weight")
    vectors = words.numpy() if learned.vectors and words is not None else None
    network = build(learned, tokenizer.size, len(export.labels), vectors, encoder)
    network.load_state_dict(state)
    if (
        settings.max_tokens > int(export.preprocess["max_tokens"])
        and "max_tokens" in settings.model_fields_set
    ):
        raise CallError(f"max_tokens: {name} reads {export.preprocess['max_tokens']}; leave it out")
    limits = TextLimits(settings.max_characters, int(export.preprocess["max_tokens"]))
    return network.body, Reader(export.content(FILE), kind, limits), {"version": spec.version}
