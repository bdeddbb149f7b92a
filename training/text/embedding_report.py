"""What an embedder's training leaves for its report: held-out texts in two dimensions, their nearest
neighbors, and how well those are found beside TF-IDF.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.data.embedding_texts import Entry
from training.tables.drawing import COLORS, draw_comparison
from training.text.retrieval import PREFIX, Retrieval

POINTS, ROWS, SHOWN = 3000, 24, 160
NAMED = len(COLORS) - 1  # groups that have a color of their own
FARTHEST = "Where the nearest other text does not belong to the same group, the most similar ones first."
NEAREST = "Test texts, evenly from all, with the nearest other one."


def write_embedding_report(
    entries: Sequence[Entry],
    vectors: np.ndarray,
    retrieval: Retrieval,
    beside: Mapping[str, float],
    report: Path,
) -> None:
    """The pictures and tables of the test split; those about groups where there are some."""
    tables = report / "tables"
    tables.mkdir(exist_ok=True)
    draw_projection(entries, vectors, report / "projection.png")
    if not len(retrieval.queries):
        return
    recall = {"this model": retrieval.metrics["recall_at_1"]}
    if beside:
        recall["TF-IDF"] = beside[f"{PREFIX}recall_at_1"]
    draw_comparison(recall, "recall at 1, test texts", report / "retrieval.png")
    rows = neighbor_rows(entries, retrieval)
    spread = rows[:: max(1, -(-len(rows) // ROWS))]
    wrong = sorted((one for one in rows if not one["belongs"]), key=lambda one: -one["similarity"])[:ROWS]
    for name, title, text, listed in (
        ("neighbors", "Nearest neighbors", NEAREST, spread),
        ("wrong_neighbors", "Wrong neighbors", FARTHEST, wrong),
    ):
        content = {"title": title, "text": text, "rows": listed}
        (tables / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")


def neighbor_rows(entries: Sequence[Entry], retrieval: Retrieval) -> list[dict[str, Any]]:
    """Each query with its nearest other text: where both stand, how they begin, and whether they belong
    together.
    """
    rows = []
    for query, nearest, similarity in zip(
        retrieval.queries, retrieval.nearest[:, 0], retrieval.similarities[:, 0], strict=True
    ):
        one, other = entries[query], entries[nearest]
        rows.append(
            {
                "where": one.place,
                "text": _short(one.text),
                "nearest": other.place,
                "its text": _short(other.text),
                "similarity": round(float(similarity), 4),
                "belongs": one.group == other.group,
            }
        )
    return rows


def draw_projection(entries: Sequence[Entry], vectors: np.ndarray, path: Path) -> None:
    """The first two principal components of the vectors; the largest groups have colors."""
    step = max(1, -(-len(entries) // POINTS))
    entries, vectors = entries[::step], vectors[::step]
    centered = vectors - vectors.mean(0)
    _, strengths, axes_of = np.linalg.svd(centered, full_matrices=False)
    points = centered @ axes_of[:2].T
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    share = (strengths**2 / max(float((strengths**2).sum()), 1e-12))[:2].sum()
    counts = Counter(one.group for one in entries if one.group)
    names = [name for name, count in counts.most_common(NAMED) if count > 1]
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots()
    rest = np.array([one.group not in names for one in entries])
    axes.scatter(
        points[rest, 0], points[rest, 1], s=6, color="#999999", alpha=0.4, linewidths=0, label="others"
    )
    for color, name in zip(COLORS, names, strict=False):
        own = np.array([one.group == name for one in entries])
        axes.scatter(
            points[own, 0], points[own, 1], s=16, color=color, alpha=0.8, linewidths=0, label=_short(name, 24)
        )
    axes.set(xticks=[], yticks=[], xlabel="first component", ylabel="second component")
    axes.set_title(f"{len(entries):,} test texts; {share:.0%} of the variance", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if names:
        axes.legend(
            frameon=False, fontsize=8, title="largest groups", loc="center left", bbox_to_anchor=(1, 0.5)
        )
    figure.savefig(path, dpi=110)


def _short(text: str, most: int = SHOWN) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
