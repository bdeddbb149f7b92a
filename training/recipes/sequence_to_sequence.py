"""Learns to write a text for a text, token by token: pronunciations, translations, summaries.

A recurrent network with attention, or a Transformer, that reads the source once and writes with what it has
read. Metrics are those of answers to the test split, made by the loop that serves them; of several right
answers the nearest counts. Not covered: pieces of words, copying of what the vocabulary lacks.
"""

from typing import Any

import numpy as np
import torch

from handlers.decoding.options import GenerationOptions
from handlers.decoding.vocabulary import FILE as TARGET_FILE
from handlers.decoding.vocabulary import WORDS, ListVocabulary
from handlers.inputs.tokenization import FILE, load_tokenizer
from marina.core.errors import CallError
from training.data.copies import SPLITS
from training.data.text_pairs import Languages, PairData, load_pairs, trimmed
from training.export.trained import Trained
from training.generation.assessment import PAIR_METRICS, nearest, pair_metrics
from training.generation.exporting import postprocess_of, samples_of, trained_generator
from training.generation.learner import PairLearner, answers_of
from training.generation.pairs import PairBatches, TokenizedPairs, target_vocabulary
from training.generation.recurrent import RecurrentNetwork
from training.generation.report import DRAWN, draw_attention, write_pair_report
from training.generation.settings import Settings
from training.generation.transformer import TransformerNetwork
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.text.tokenizers import train_tokenizer

__all__ = ["METRICS", "Settings", "train"]

METRICS = PAIR_METRICS


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the fewest errors on validation, measure on the test split.

    Raises CallError for data that can't be used.
    """
    seed_everything(run.seed)
    data = read_data(settings, run)
    texts = [one.source for one in data.train]
    size = settings.vocabulary_size
    content = train_tokenizer(settings.source_tokens, texts, size, settings.lowercase, (1, 1))
    tokenizer = load_tokenizer(content, settings.source_tokens)
    vocabulary, target_content = target_vocabulary(data.train, settings.target_tokens, size)
    data, splits = _tokenized(settings, data, tokenizer, vocabulary, run)
    network = network_of(settings, tokenizer.size, vocabulary.size)
    learner = PairLearner(network, settings, splits["validation"], vocabulary)
    batches = PairBatches(splits["train"], settings.batch_size, run.seed)
    fit(learner, batches, run, fingerprint=str(data.about()["fingerprint"]))

    model = learner.best_model()
    options = GenerationOptions(max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams)
    found = answers_of(model, splits["test"].sources, vocabulary, options)
    answers = [one.text for one in found]
    targets = [one.targets for one in data.test]
    metrics = pair_metrics(answers, targets, settings.target_tokens)
    write_pair_report(
        learner.history, learner.best_epoch, data.test, answers, settings.target_tokens, run.report
    )
    _draw(model, data, splits["test"], vocabulary, settings, run)
    fits = [
        nearest(one, right, settings.target_tokens)[1] == 0
        for one, right in zip(answers, targets, strict=True)
    ]
    return trained_generator(
        model,
        _of_different_lengths(splits["train"].sources),
        settings.max_tokens,
        settings.max_new_tokens,
        metrics=metrics,
        preprocess={"input": "text", "tokenizer": settings.source_tokens, **vars(settings.limits)},
        postprocess=postprocess_of(model, WORDS, settings.max_new_tokens, {"num_beams": settings.num_beams}),
        files={FILE: content, TARGET_FILE: target_content},
        samples=samples_of(found, [one.source for one in data.test], fits),
        data=data.about(),
        training=learner.training_facts(run),
    )


def read_data(settings: Settings, run: Run) -> PairData:
    """The pairs in three splits. Raises CallError."""
    languages = Languages(*settings.languages) if settings.languages else None
    return load_pairs(settings.data, languages, settings.keep_stress, run.seed, run.findings, settings.limits)


def network_of(settings: Settings, sources: int, targets: int) -> Any:
    """The network of the settings, for vocabularies of these sizes."""
    if settings.architecture == "gru":
        return RecurrentNetwork(sources, targets, settings.width, settings.dropout, settings.max_tokens)
    shape = (settings.width, settings.layers, settings.heads, settings.dropout)
    return TransformerNetwork((sources, targets), *shape, settings.max_tokens, settings.max_new_tokens)


def _tokenized(
    settings: Settings, data: PairData, tokenizer: Any, vocabulary: ListVocabulary, run: Run
) -> tuple[PairData, dict[str, TokenizedPairs]]:
    """The splits as tokens; pairs that are longer than the limits are left out, as findings."""
    splits = {}
    for split in SPLITS:
        pairs = getattr(data, split)
        made = TokenizedPairs(pairs, tokenizer, vocabulary, settings.target_tokens, settings.max_tokens)
        lengths = made.lengths
        long = [one.place for one, cut in zip(pairs, made.is_cut, strict=True) if cut]
        wide = [
            one.place
            for one, size in zip(pairs, lengths.tolist(), strict=True)
            if size >= settings.max_new_tokens
        ]
        sources, targets = f"more than {settings.max_tokens:,}", f"{settings.max_new_tokens:,} and more"
        run.findings.add(f"pairs of {split}", f"left out: the source has {sources} tokens", long, len(pairs))
        run.findings.add(f"pairs of {split}", f"left out: the target has {targets} tokens", wide, len(pairs))
        data = trimmed(data, {*long, *wide})
        kept = getattr(data, split)
        if len(kept) < 2:
            raise CallError(
                f"{settings.data}: {len(kept)} pairs are left for {split}; two at least are needed"
            )
        splits[split] = TokenizedPairs(
            kept, tokenizer, vocabulary, settings.target_tokens, settings.max_tokens
        )
    return data, splits


def _draw(
    model: Any, data: PairData, test: TokenizedPairs, vocabulary: ListVocabulary, settings: Settings, run: Run
) -> None:
    """Where it looked, for some texts of the test split."""
    rows = [*range(0, len(test), max(1, len(test) // DRAWN))][:DRAWN]
    options = GenerationOptions(max_new_tokens=settings.max_new_tokens)
    found = answers_of(model, [test.sources[row] for row in rows], vocabulary, options, keeps_attention=True)
    if settings.source_tokens == "characters":
        sources = [[*data.test[row].source] for row in rows]
    else:
        sources = [data.test[row].source.split() for row in rows]
    draw_attention(found, sources, run.report / "attention.png")


def _of_different_lengths(prompts: list[np.ndarray]) -> list[np.ndarray]:
    """Some prompts, the longest first, as an example of the programs' inputs."""
    lengths = torch.tensor([len(one) for one in prompts])
    order = lengths.argsort(descending=True, stable=True)
    return [prompts[row] for row in order[:: max(1, len(order) // 4)][:4].tolist()]
