"""Learns which class a text has, or which labels: words or pieces of words, embeddings, and a small network.

The tokenizer is learned from the training split and lies in the export. Probabilities are calibrated, or get
a threshold per label, on validation; metrics are those of the test split, with TF-IDF
and logistic regression on the same split beside them.

A pretrained encoder from a folder (hf:FOLDER) brings its own tokenizer; frozen, its features are computed
once, and the head alone learns.
"""

import json
from typing import Any

from torch import nn

from handlers.inputs.tokenization import CHARACTERS, FILE, Tokenizer, load_tokenizer
from marina.core.errors import CallError
from training.data.texts import TextData, load_texts
from training.export.trained import HELD_OUT, Dimension, Sample, Trained
from training.runs.batches import LengthBatches
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.text.assessment import (
    TEXT_METRICS,
    Assessment,
    assess_one,
    assess_several,
    in_turns,
    operating_class,
    slug,
)
from training.text.baseline import PREFIX, measure_baseline
from training.text.batches import TokenizedTexts, logits_of
from training.text.embedding import embedded
from training.text.encoders import Encoder, is_frozen
from training.text.learner import Learner
from training.text.networks import TextNetwork, build
from training.text.recurrent import graph_of
from training.text.report import write_report
from training.text.settings import Settings
from training.text.tokenizers import tokens_of
from training.text.vectors import vectors_of

__all__ = ["Settings", "train"]

SURE, UNSURE = 0.9, 0.02  # certain enough for a sample that comes first; too near to a threshold for any
SAMPLE_CHARACTERS = 2000
SAMPLES = 64
METRICS = (*TEXT_METRICS, *(PREFIX + name for name in TEXT_METRICS))


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the best validation, calibrate there, measure on the test split.

    Raises CallError for settings or data that can't be used.
    """
    seed_everything(run.seed)
    data = load_texts(settings.data, run.seed, run.findings, settings.reading)
    if data.has_several and (settings.operating_point or settings.label_smoothing):
        raise CallError("operating_point and label_smoothing are for one label per text; leave them out")
    operating_class(settings, data.classes)
    content, kind, encoder = tokens_of(settings, [one.text for one in data.train])
    tokenizer = load_tokenizer(content, kind)
    splits = [_tokenized(settings, data, split, tokenizer, run) for split in ("train", "validation", "test")]
    vectors = None
    if settings.vectors:
        vectors = vectors_of(settings.vectors, tokenizer.vocabulary(), run.seed, run.findings)
    network = build(settings, tokenizer.size, len(data.classes), vectors, encoder)
    fitted = _with_features(network, splits)
    learner = Learner(fitted, settings, *splits[:2])
    batches = LengthBatches(splits[0], splits[0].lengths, settings.batch_size, run.seed)
    fit(learner, batches, run, fingerprint=data.about()["fingerprint"])

    model = learner.best_model()
    validated, logits = (logits_of(model, split) for split in splits[1:])
    if data.has_several:
        assessment = assess_several(validated, splits[1].labels, logits, splits[2].labels)
    else:
        assessment = assess_one(validated, splits[1].labels, logits, splits[2].labels, data.classes, settings)
    if fitted is not network:
        model = TextNetwork(network.body, model.head).eval()
        for split in splits:
            split.features = None
    model.temperature = assessment.temperature
    ngrams = settings.character_ngrams if settings.tokenizer == CHARACTERS else None
    baseline = measure_baseline(data, settings.lowercase, ngrams) if settings.baseline else None
    write_report(learner, assessment, data, baseline, run.report)
    metrics = assessment.metrics | (baseline.metrics if baseline else {})
    facts = learner.training_facts(run)
    return _trained(settings, data, model, splits, assessment, metrics, (content, kind), facts)


def _with_features(network: TextNetwork, splits: list[TokenizedTexts]) -> TextNetwork:
    """What learns: the network, or its head alone where the body is a frozen encoder, whose features are then
    computed once.
    """
    if not isinstance(network.body, Encoder) or not is_frozen(network.body):
        return network
    for split in splits:
        split.features = embedded(network.body, split.tokens)
    return TextNetwork(nn.Identity(), network.head)


def _tokenized(
    settings: Settings, data: TextData, split: str, tokenizer: Tokenizer, run: Run
) -> TokenizedTexts:
    """The tokens of a split; what has none or too many of them goes to the findings."""
    texts = getattr(data, split)
    tokenized = TokenizedTexts(texts, tokenizer, settings.max_tokens, len(data.classes), data.has_several)
    happened = f"have more than {settings.max_tokens:,} tokens, of which the first count"
    cut = [texts[row].place for row in tokenized.truncated]
    run.findings.add(f"texts of {split}", happened, cut, len(texts))
    return tokenized


def _trained(
    settings: Settings,
    data: TextData,
    model: TextNetwork,
    splits: list[TokenizedTexts],
    assessment: Assessment,
    metrics: dict[str, float],
    tokenizer: tuple[bytes, str],
    facts: dict[str, Any],
) -> Trained:
    example, _ = splits[0].batch(range(min(8, len(splits[0]))))
    return Trained(
        kind="text_classifier",
        module=model,
        onnx=graph_of(model.body, model.head, model.temperature),
        example=(example[:, : max(2, example.shape[1])],),
        dimensions=({1: Dimension("length", 1, settings.max_tokens)},),
        validation=(splits[1].batch(range(min(HELD_OUT, len(splits[1]))))[0],),
        metrics=metrics,
        preprocess={
            "input": "text",
            "tokenizer": tokenizer[1],
            "max_tokens": settings.max_tokens,
            "max_characters": settings.max_characters,
        },
        postprocess=assessment.postprocess,
        files={FILE: tokenizer[0]},
        samples=_samples(data, assessment),
        data=data.about(),
        classes=list(data.classes),
        training={**facts, "temperature": assessment.temperature},
    )


def _samples(data: TextData, assessment: Assessment) -> list[Sample]:
    """Texts of the test split that are answered rightly, sure answers first, of each class in turn."""
    certainty, right = assessment.certainty.tolist(), assessment.is_right.tolist()
    least = 0.1 if assessment.thresholds else SURE
    is_sure = [one >= least for one in certainty]
    rows = [
        row
        for row, one in enumerate(data.test)
        if right[row] and len(one.text) <= SAMPLE_CHARACTERS and certainty[row] > _margin(assessment, row)
    ]
    samples = []
    for number, row in in_turns(rows, lambda row: data.test[row].labels, is_sure.__getitem__, SAMPLES):
        one = data.test[row]
        names = [data.classes[label] for label in one.labels]
        body = json.dumps({"text": one.text}, ensure_ascii=False).encode()
        expect: dict[str, Any] = {"labels": names} if data.has_several else {"class": names[0]}
        name = slug(" ".join(names)) or f"class-{'-'.join(map(str, one.labels)) or 'none'}"
        samples.append(Sample(f"{name}-{number}", body, "application/json", expect))
    return samples


def _margin(assessment: Assessment, row: int) -> float:
    """The certainty above which an answer isn't a matter of rounding."""
    if assessment.decision is None:
        return UNSURE
    own = float(assessment.probabilities[row, assessment.decision.class_index])
    return 1.0 if abs(own - assessment.decision.threshold) <= UNSURE else 0.0
