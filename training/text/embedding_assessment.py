"""What an embedder is worth on held-out texts, and its export."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.data.embedding_texts import Entry
from training.export.trained import Trained
from training.runs.run import Run
from training.text.embedding import Reader, TextEmbedder, build_index, embedded, trained_embedder
from training.text.embedding_report import write_embedding_report
from training.text.embedding_settings import AnswerSettings
from training.text.retrieval import PREFIX, RETRIEVAL_METRICS, measure_tfidf, retrieve

ASSESSMENT_METRICS = (*RETRIEVAL_METRICS, *(PREFIX + name for name in RETRIEVAL_METRICS))


def assessed(
    settings: AnswerSettings,
    model: TextEmbedder,
    reader: Reader,
    entries: Sequence[Entry],
    tokens: Sequence[np.ndarray],
    run: Run,
    metrics: dict[str, float],
    **facts: Any,
) -> Trained:
    """Search the `entries` of the test split, `tokens` theirs, with TF-IDF beside it; write the report, build
    the index, and make the export of it all. Without entries nothing is measured.

    `metrics` are further ones, `facts` what else `Trained` takes.
    """
    model = model.eval()
    found: dict[str, float] = {}
    if entries:
        vectors = embedded(model, tokens).numpy()
        retrieval = retrieve(vectors, entries)
        beside = measure_tfidf(entries) if settings.baseline else {}
        write_embedding_report(entries, vectors, retrieval, beside, run.report)
        found = {**retrieval.metrics, **beside}
    index = build_index(settings, model, reader, run.findings)
    everything = {**found, **metrics}
    return trained_embedder(settings, model, reader, entries, tokens, index, metrics=everything, **facts)
