"""How well vectors find what belongs together, beside TF-IDF on the same texts.

Each text of a split is a query among all others of it. recall_at_K is the share of queries of which one of
the K nearest others belongs to the same group (Jegou et al. 2011, section V; Musgrave et al. 2020), mrr the
mean of one by the place of the first that does (Voorhees 1999). Texts that nothing belongs to are among what
is searched, and no queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from training.data.embedding_texts import Entry, relevant_counts

AT = (1, 5, 10)
PREFIX = "tfidf_"
RETRIEVAL_METRICS = (*(f"recall_at_{k}" for k in AT), "mrr")
NEAREST = 10
PART = 256  # queries that are compared at once
FEATURES = 200_000
BASELINES = {"words": {"ngram_range": (1, 1)}, "words and pairs": {"ngram_range": (1, 2)}}


@dataclass(frozen=True)
class Retrieval:
    """Queries (rows of the split), the rows of their nearest others and how similar those are [Q, NEAREST],
    and the metrics; all empty where no text belongs to another.
    """

    queries: np.ndarray
    nearest: np.ndarray
    similarities: np.ndarray
    metrics: dict[str, float]


def retrieve(vectors: np.ndarray, entries: Sequence[Entry]) -> Retrieval:
    """Search every query among the others by cosine. `vectors` are unit vectors [N, d], dense or sparse."""
    counts = np.array(relevant_counts(entries))
    queries = np.flatnonzero(counts)
    groups = np.unique([one.group for one in entries], return_inverse=True)[1]
    count = min(NEAREST, len(entries) - 1)
    nearest = np.zeros((len(queries), count), np.int64)
    similarities = np.zeros((len(queries), count), np.float32)
    firsts = np.zeros(len(queries))
    for start in range(0, len(queries), PART):
        rows = queries[start : start + PART]
        scores = vectors[rows] @ vectors.T
        scores = np.asarray(scores.todense() if hasattr(scores, "todense") else scores, np.float32)
        scores[np.arange(len(rows)), rows] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")
        nearest[start : start + PART] = order[:, :count]
        similarities[start : start + PART] = np.take_along_axis(scores, order[:, :count], 1)
        firsts[start : start + PART] = (groups[order] == groups[rows, None])[:, :-1].argmax(1) + 1
    metrics = {}
    if len(queries):
        metrics = {f"recall_at_{k}": float((firsts <= k).mean()) for k in AT}
        metrics["mrr"] = float((1 / firsts).mean())
    return Retrieval(queries, nearest, similarities, metrics)


def measure_tfidf(entries: Sequence[Entry]) -> dict[str, float]:
    """The same metrics by TF-IDF (logarithmic counts, over the searched texts themselves) and cosine, by
    words or by words and pairs of them, whichever is better; under names with PREFIX.
    """
    best: dict[str, float] = {}
    for options in BASELINES.values():
        vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=FEATURES, **options)
        try:
            vectors = vectorizer.fit_transform([one.text for one in entries])
        except ValueError:  # no text has a word
            continue
        metrics = retrieve(vectors, entries).metrics
        if metrics.get("recall_at_1", 0) > best.get("recall_at_1", -1):
            best = metrics
    return {PREFIX + name: value for name, value in best.items()}
