"""What a tagger reaches, beside a conditional random field on the same split, and its report."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from handlers.inputs.word_features import parts_of
from handlers.kinds.tag_spans import is_bio, spans_of
from training.data.tagged_texts import Sentence, TaggedData
from training.runs.report_files import write_json, write_table
from training.tables.drawing import draw_comparison
from training.vision.classification import drawing

PREFIX = "crf_"
TAG_METRICS = ("accuracy", "sentence_accuracy", "macro_f1", "f1", "precision", "recall")
ROUNDS, C1, C2 = 100, 0.1, 0.1  # of L-BFGS; of the L1 and L2 penalty, as sklearn-crfsuite's tutorial has them
PARTS = ("word", "shape", "p1", "p2", "p3", "s1", "s2", "s3", "s4")
MISTAKES, AROUND = 24, 4  # that are listed; words on each side

Tags = Sequence[Sequence[str]]


def tag_metrics(found: Tags, truth: Tags) -> dict[str, float]:
    """Accuracy of words, sentence_accuracy, macro_f1 over the tags; where tags mark spans also f1, precision
    and recall of these by seqeval's definition (micro; label and both ends must be right).
    """
    pairs = [*zip(found, truth, strict=True)]
    words = [(one, other) for left, right in pairs for one, other in zip(left, right, strict=True)]
    right, predicted, wanted = (
        Counter(a for a, b in words if a == b),
        Counter(a for a, _ in words),
        Counter(b for _, b in words),
    )
    scores = [2 * right[tag] / (predicted[tag] + count) for tag, count in wanted.items()]
    metrics = {
        "accuracy": sum(right.values()) / max(1, len(words)),
        "sentence_accuracy": float(np.mean([list(one) == list(other) for one, other in pairs])),
        "macro_f1": float(np.mean(scores)),
    }
    if not is_bio([tag for tags in truth for tag in tags]):
        return metrics
    spans = [({*spans_of(one)}, {*spans_of(other)}) for one, other in pairs]
    both, ours, theirs = (
        sum(map(len, part))
        for part in ([a & b for a, b in spans], [a for a, _ in spans], [b for _, b in spans])
    )
    metrics |= {"precision": both / max(1, ours), "recall": both / max(1, theirs)}
    return {**metrics, "f1": 2 * both / max(1, ours + theirs)}


def measure_crf(data: TaggedData, most: int) -> dict[str, float]:
    """The same by a linear-chain conditional random field (Lafferty et al. 2001) on words, their beginnings,
    ends and shapes, and the two neighbors' words; empty where python-crfsuite is not installed.
    """
    if find_spec("pycrfsuite") is None:
        return {}
    import pycrfsuite

    trainer = pycrfsuite.Trainer(verbose=False)
    for one in data.train:
        trainer.append(crf_features(one.words[:most]), list(one.tags[:most]))
    trainer.set_params({"c1": C1, "c2": C2, "max_iterations": ROUNDS, "feature.possible_transitions": True})
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "crf")
        trainer.train(path)
        tagger = pycrfsuite.Tagger()
        tagger.open(path)
        found = [tagger.tag(crf_features(one.words[:most])) for one in data.test]
        tagger.close()
    metrics = tag_metrics(found, [one.tags[:most] for one in data.test])
    return {PREFIX + name: value for name, value in metrics.items()}


def crf_features(words: Sequence[str]) -> list[list[str]]:
    """What a conditional random field sees of each word."""
    own = [[f"{name}={part}" for name, part in zip(PARTS, parts_of(word), strict=True)] for word in words]
    rows = []
    for place, parts in enumerate(own):
        before = own[place - 1][:2] if place else ["start"]
        behind = own[place + 1][:2] if place + 1 < len(own) else ["end"]
        rows.append([*parts, *(f"-1:{one}" for one in before), *(f"+1:{one}" for one in behind)])
    return rows


def write_tag_report(
    history: list[dict[str, float]],
    best: int,
    data: TaggedData,
    found: Tags,
    certainty: Sequence[np.ndarray],
    metrics: dict[str, float],
    report: Path,
) -> None:
    """Curves, confusions, tags or spans one by one, the surest mistakes, and the other model beside."""
    drawing.draw_curves(history, best, report / "curves.png")
    index = {tag: number for number, tag in enumerate(data.tags)}
    truth = [one.tags[: len(tags)] for one, tags in zip(data.test, found, strict=True)]
    labels, answers = (torch.tensor([index[tag] for tags in part for tag in tags]) for part in (truth, found))
    drawing.draw_confusion(labels, answers, data.tags, report / "confusion.png")
    name = "f1" if "f1" in metrics else "accuracy"
    if PREFIX + name in metrics:
        beside = {"this network": metrics[name], "CRF": metrics[PREFIX + name]}
        draw_comparison(beside, f"{name}, test sentences", report / "comparison.png")
    write_json(report / "classes.json", by_tag(found, truth))
    text = "The wrong tags of the test split with the highest confidence, each with the words around it."
    rows = mistakes(data.test, found, certainty)[:MISTAKES]
    write_table(report / "tables" / "mistakes.json", "Worst mistakes", text, rows)


def mistakes(
    sentences: Sequence[Sentence], found: Tags, certainty: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """Every wrong tag, the surest first: where it stands, the words around it, truth and answer."""
    rows: list[dict[str, Any]] = []
    for one, tags, sure in zip(sentences, found, certainty, strict=True):
        for place, tag in enumerate(tags):
            if tag == one.tags[place]:
                continue
            before, behind = (
                one.words[max(0, place - AROUND) : place],
                one.words[place + 1 : place + 1 + AROUND],
            )
            row = {"where": one.place, "words": " ".join((*before, f"[{one.words[place]}]", *behind))}
            row |= {"truth": one.tags[place], "answer": tag}
            rows.append({**row, "certainty": round(float(sure[place]), 4)})
    return sorted(rows, key=lambda row: -row["certainty"])


def by_tag(found: Tags, truth: Tags) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label of spans, else of each tag."""
    has_spans = is_bio([tag for tags in truth for tag in tags])

    def units(tags: Sequence[str], number: int) -> set[tuple[str, int, int, int]]:
        spans = spans_of(tags) if has_spans else [(tag, k, k + 1) for k, tag in enumerate(tags)]
        return {(label, number, start, end) for label, start, end in spans}

    ours = {unit for number, tags in enumerate(found) for unit in units(tags, number)}
    theirs = {unit for number, tags in enumerate(truth) for unit in units(tags, number)}
    counts = [Counter(label for label, *_ in part) for part in (ours & theirs, ours, theirs)]
    rows = []
    for label, count in sorted(counts[2].items()):
        right, predicted = counts[0][label], counts[1][label]
        rows.append(
            {
                "class": label,
                "count": count,
                "precision": right / max(1, predicted),
                "recall": right / count,
                "f1": 2 * right / (predicted + count),
            }
        )
    return rows
