"""Brings a language model that learned elsewhere: GPT-2's form from a folder of Hugging Face's.

Nothing is learned. Where there are texts, the perplexity of them is measured.
"""

import json
import time
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from handlers.decoding.options import GenerationOptions
from handlers.decoding.prompts import PRETRAINED, load_prompt_tokenizer
from handlers.inputs.tokenization import FILE
from handlers.runtime.checksums import file_digest
from marina.core.errors import CallError
from marina.core.spec import Section
from training.export.trained import Sample, Trained
from training.generation.causal import CausalNetwork
from training.generation.exporting import postprocess_of, trained_generator
from training.generation.gpt2 import load_gpt2
from training.generation.learner import answers_of
from training.generation.perplexity import LANGUAGE_METRICS, language_metrics
from training.runs.run import Run
from training.text.encoders import WEIGHTS, folder_of
from training.text.settings import PRETRAINED as PREFIX

IS_IMPORT = True
METRICS = LANGUAGE_METRICS
PROMPTS = ("The", "It was a", "In the beginning", "She said that")  # of the golden samples
SAMPLE_TOKENS = 8


class Settings(Section):
    """What a spec may say under `training`."""

    source: str = Field(description="hf:FOLDER of a GPT-2: config.json, tokenizer.json, model.safetensors")
    licence: str = Field(default="the owner's", description="of the weights")
    trust_pickle: bool = Field(default=False, description="nothing that is taken is a pickle")
    max_characters: int = Field(
        default=100_000, ge=1, le=10_000_000, description="of a prompt; longer is refused"
    )
    max_tokens: int | None = Field(
        default=None, ge=2, description="of a prompt; default: half of what the model has places for"
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="of an answer; default: what is left of the model's places"
    )
    data: str | None = Field(default=None, description="a text file to measure the perplexity of")

    @model_validator(mode="after")
    def _is_folder(self) -> "Settings":
        if not self.source.startswith(PREFIX):
            raise ValueError(f"source {self.source!r}: write {PREFIX}FOLDER")
        return self


def train(settings: Settings, _run: Run) -> Trained:
    """Measure it, where there is data, and describe it. Raises CallError for what can't be read."""
    started = time.monotonic()
    network, content = load_gpt2(settings.source)
    most = settings.max_tokens or network.most // 2
    new = settings.max_new_tokens or network.most - most
    if new < 1 or most + new > network.most:
        raise CallError(
            f"max_tokens {most} and max_new_tokens {new}: together the model has places for {network.most}"
        )
    tokenizer = load_prompt_tokenizer(content, PRETRAINED)
    if tokenizer.size > network.embedding.num_embeddings:
        raise CallError(
            f"tokenizer.json has {tokenizer.size:,} tokens, and the model "
            f"{network.embedding.num_embeddings:,}; give the tokenizer of this model"
        )
    metrics = language_metrics(network, tokenizer, settings.data, most) if settings.data else {}
    prompts = [tokenizer.encode(text, most).ids for text in PROMPTS]
    if not all(map(len, prompts)):
        raise CallError("tokenizer.json makes no tokens of English words; give the tokenizer of this model")
    weights = file_digest(folder_of(settings.source) / WEIGHTS)
    return trained_generator(
        network,
        [*prompts, np.concatenate(prompts)[:most]],
        most,
        new,
        metrics=metrics,
        preprocess={
            **{"input": "text", "tokenizer": PRETRAINED},
            **{"max_tokens": most, "max_characters": settings.max_characters},
        },
        postprocess=postprocess_of(network, "", new, {}),
        files={FILE: content},
        samples=_samples(network, tokenizer, prompts, min(SAMPLE_TOKENS, new)),
        data={
            **{"name": "not known", "source": f"imported: {settings.source}", "licence": settings.licence},
            "measured_on": settings.data,
        },
        training={"weights": weights, "seconds": round(time.monotonic() - started, 1)},
    )


def _samples(network: CausalNetwork, tokenizer: Any, prompts: list[np.ndarray], new: int) -> list[Sample]:
    """A few words that the model continues."""
    found = answers_of(network, prompts, tokenizer, GenerationOptions(max_new_tokens=new))
    return [
        Sample(
            f"prompt-{number}",
            json.dumps({"text": text, "max_new_tokens": new}).encode(),
            "application/json",
            {"text": one.text},
        )
        for number, (text, one) in enumerate(zip(PROMPTS, found, strict=True), 1)
    ]
