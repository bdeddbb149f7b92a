"""Learns a tag for each word of a sentence: parts of speech, or entities in the BIO scheme.

A word is the sum of embeddings of what it looks like (itself, its beginning and end, its shape; hashed), and
gated convolutions see its neighbors. Metrics are those of the test split, with a conditional random field on
the same split beside them. Not covered: pretrained encoders, and transitions between tags.
"""

import json
from typing import Any

import numpy as np
import torch
from pydantic import Field

from handlers.inputs.tokenization import FILE
from handlers.inputs.word_features import KIND, WordFeatures
from marina.core.errors import CallError
from training.data.tagged_texts import TaggedData, load_tagged
from training.export.trained import HELD_OUT, Dimension, Sample, Trained
from training.runs.batches import SplitBatches
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.schedules import Epochs
from training.runs.seeds import seed_everything
from training.text.settings import Dropout, ReadingSettings, TextFitSettings
from training.text.tag_assessment import PREFIX, TAG_METRICS, measure_crf, tag_metrics, write_tag_report
from training.text.tagging import TaggedSentences, TagLearner, TagNetwork, logits_of
from training.vision.classification import calibration

METRICS = (*TAG_METRICS, *(PREFIX + name for name in TAG_METRICS))
SAMPLES, SURE = 64, 0.05  # a lead of the best tag below which an answer is a matter of rounding


class Settings(ReadingSettings, TextFitSettings):
    """The settings of this recipe."""

    data: str = Field(
        description=(
            "tagged sentences: .conllu, .conll (a word a line, its tag last, an empty line behind a "
            "sentence), .jsonl of tokens and tags, or a folder with train, dev and test of these"
        )
    )
    column: str = Field(default="upos", description="of CoNLL-U: upos, xpos or deprel")
    buckets: int = Field(default=50_000, ge=1000, le=2_000_000, description="of the hashed features of words")
    width: int = Field(default=96, ge=8, le=1024, description="of the embeddings and convolutions")
    layers: int = Field(
        default=3, ge=0, le=12, description="gated convolutions; each sees one more word per side"
    )
    dropout: Dropout = 0.4
    word_dropout: float = Field(
        default=0.15, ge=0, lt=1, description="share of the features of words that are unknown in a step"
    )
    baseline: bool = Field(default=True, description="measure a CRF beside it, if python-crfsuite is there")
    epochs: Epochs = 15


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the best validation, calibrate there, measure on the test split.

    Raises CallError for data that can't be used.
    """
    seed_everything(run.seed)
    data = load_tagged(settings.data, settings.column, run.seed, run.findings, settings.limits)
    features = WordFeatures(settings.buckets)
    splits = []
    for name in ("train", "validation", "test"):
        split = TaggedSentences(getattr(data, name), features, data.tags, settings.max_tokens)
        happened = f"have more than {settings.max_tokens:,} words, of which the first count"
        run.findings.add(f"sentences of {name}", happened, split.truncated, len(split))
        splits.append(split)
    network = TagNetwork(features.size, settings.width, settings.layers, len(data.tags), settings.dropout)
    learner = TagLearner(network, settings, settings.word_dropout, splits[1])
    batches = SplitBatches(splits[0], settings.batch_size, run.seed)
    fit(learner, batches, run, fingerprint=data.about()["fingerprint"])

    model: TagNetwork = learner.best_model()
    validated = learner.validated(torch.device("cpu"))
    model.temperature = calibration.fit_temperature(*validated)
    probabilities = [logits.softmax(1).numpy() for logits in logits_of(model, splits[2])]
    found = [[data.tags[k] for k in one.argmax(1)] for one in probabilities]
    truth = [one.tags[: settings.max_tokens] for one in data.test]
    metrics = tag_metrics(found, truth)
    if settings.baseline:
        metrics |= measure_crf(data, settings.max_tokens)
    certainty = [one.max(1) for one in probabilities]
    write_tag_report(learner.history, learner.best_epoch, data, found, certainty, metrics, run.report)
    training = {**learner.training_facts(run), "temperature": model.temperature}
    return _trained(settings, data, model, splits, probabilities, metrics, training)


def _trained(
    settings: Settings,
    data: TaggedData,
    model: TagNetwork,
    splits: list[TaggedSentences],
    probabilities: list[np.ndarray],
    metrics: dict[str, float],
    training: dict[str, Any],
) -> Trained:
    example, _ = splits[0].batch(range(min(8, len(splits[0]))))
    if len(example) < 2 or example.shape[1] < 2:
        raise CallError("the training sentences are too few or too short to make a graph of")
    return Trained(
        kind="tagger",
        module=model,
        example=(example,),
        dimensions=({1: Dimension("length", 1, settings.max_tokens)},),
        validation=(splits[1].batch(range(min(HELD_OUT, len(splits[1]))))[0],),
        metrics=metrics,
        preprocess={"input": "text", "tokenizer": KIND, **vars(settings.limits)},
        postprocess={"type": "tags"},
        files={FILE: WordFeatures(settings.buckets).as_file()},
        samples=_samples(data, probabilities),
        data=data.about(),
        classes=list(data.tags),
        training=training,
    )


def _samples(data: TaggedData, probabilities: list[np.ndarray]) -> list[Sample]:
    """Sentences of the test split whose tags are all right, by a lead that is no matter of rounding; those
    with most different tags first.
    """
    right = []
    for row, (one, found) in enumerate(zip(data.test, probabilities, strict=True)):
        if len(found) != len(one.words):
            continue
        best = np.sort(found, 1)
        same = all(data.tags[k] == tag for k, tag in zip(found.argmax(1), one.tags, strict=True))
        if same and (best[:, -1] - best[:, -2]).min() > SURE:
            right.append((-len(set(one.tags)), row))
    samples = []
    for number, (_, row) in enumerate(sorted(right)[:SAMPLES], 1):
        one = data.test[row]
        body = json.dumps({"tokens": one.words}, ensure_ascii=False).encode()
        samples.append(Sample(f"sentence-{number}", body, "application/json", {"tags": list(one.tags)}))
    return samples
