"""Learns what comes next in a text, byte by byte or piece by piece: a Transformer of GPT-2's form.

What is served continues a prompt. Metrics are those of the end of the text, which nothing learned from.
Not covered: recurrent networks, and several documents with an end of their own.
"""

import json
from typing import Any

import numpy as np

from handlers.decoding.options import GenerationOptions
from handlers.inputs.tokenization import FILE
from marina.core.errors import CallError
from training.export.trained import Sample, Trained
from training.generation.exporting import postprocess_of, trained_generator
from training.generation.language import (
    LanguageLearner,
    Settings,
    TextSplits,
    WindowBatches,
    language_tokenizer,
    load_text,
    network_of,
)
from training.generation.learner import answers_of
from training.generation.perplexity import LANGUAGE_METRICS, measured, metrics_of
from training.generation.report import draw_generation_curves, write_continuations
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.seeds import seed_everything

__all__ = ["METRICS", "Settings", "train"]

METRICS = LANGUAGE_METRICS
SAMPLES, SAMPLE_CHARACTERS, SAMPLE_TOKENS = 12, 40, 12


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the least loss on validation, measure on the test part.

    Raises CallError for data that can't be used.
    """
    seed_everything(run.seed)
    data = load_text(settings.data, settings.encoding)
    tokenizer, content, kind = language_tokenizer(settings, data.train)
    parts = [
        tokenizer.encode(text, len(text.encode())).ids for text in (data.train, data.validation, data.test)
    ]
    if min(map(len, parts)) < 4:
        raise CallError(f"{settings.data} has too few tokens to learn from")
    network = network_of(settings, tokenizer.size)
    learner = LanguageLearner(network, settings, parts[1])
    batches = WindowBatches(parts[0], settings.places, settings.batch_size, run.seed)
    fit(learner, batches, run, fingerprint=str(data.about()["fingerprint"]))

    model = learner.best_model()
    loss, right = measured(model, parts[2], settings.places)
    metrics = metrics_of(loss, right, len(parts[2]) - 1, len(data.test.encode()))
    draw_generation_curves(learner.history, learner.best_epoch, run.report / "curves.png")
    texts = _prompts(data, min(SAMPLE_CHARACTERS, max(2, settings.max_tokens // 4)))  # of four bytes at most
    prompts = [tokenizer.encode(text, settings.max_tokens).ids for text in texts]
    drawn = GenerationOptions(min(64, settings.max_new_tokens), temperature=0.8, seed=run.seed)
    write_continuations(data.test, texts, answers_of(model, prompts, tokenizer, drawn), run.report)
    return trained_generator(
        model,
        prompts,
        settings.max_tokens,
        settings.max_new_tokens,
        metrics=metrics,
        preprocess={
            **{"input": "text", "tokenizer": kind},
            **{"max_tokens": settings.max_tokens, "max_characters": settings.max_characters},
        },
        postprocess=postprocess_of(model, "", settings.max_new_tokens, {}),
        files={FILE: content},
        samples=_samples(model, tokenizer, texts, prompts, min(SAMPLE_TOKENS, settings.max_new_tokens)),
        data=data.about(),
        training=learner.training_facts(run),
    )


def _prompts(data: TextSplits, size: int) -> list[str]:
    """Beginnings of at most `size` characters, spread over the test part, at the beginnings of words where
    there are any.
    """
    texts = []
    step = max(1, len(data.test) // SAMPLES)
    for place in range(0, len(data.test), step):
        part = data.test[place : place + size]
        text = part[part.find(" ") + 1 :] if " " in part[: size // 2] else part
        if text.strip() and "\0" not in text:
            texts.append(text)
    if not texts:
        raise CallError("the end of the text is white space alone; there is nothing to measure on")
    return texts[:SAMPLES]


def _samples(
    model: Any, tokenizer: Any, texts: list[str], prompts: list[np.ndarray], new: int
) -> list[Sample]:
    """Beginnings, with how the model continues them."""
    found = answers_of(model, prompts, tokenizer, GenerationOptions(max_new_tokens=new))
    samples = []
    for number, (text, one) in enumerate(zip(texts, found, strict=True), 1):
        body = json.dumps({"text": text, "max_new_tokens": new}, ensure_ascii=False).encode()
        samples.append(Sample(f"prompt-{number}", body, "application/json", {"text": one.text}))
    return samples
