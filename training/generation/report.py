"""What a generator's training leaves for its report: curves, where it looked, samples and mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from handlers.decoding.generation import Generation
from training.data.text_pairs import TextPair
from training.generation.assessment import frequent_substitutions, nearest
from training.runs.report_files import write_table

LISTED, DRAWN, LONGEST = 24, 6, 40  # rows of a table; attentions; tokens on a side of one
SHOWN = 300  # characters of a text


def write_pair_report(
    history: Sequence[dict[str, float]],
    best: int,
    pairs: Sequence[TextPair],
    answers: Sequence[str],
    form: str,
    report: Path,
) -> None:
    """Curves, errors by the length of the target, samples beside what is right, and the most frequent
    mistakes.
    """
    draw_generation_curves(history, best, report / "curves.png")
    targets = [one.targets for one in pairs]
    _draw_lengths(answers, targets, form, report / "lengths.png")
    tables = report / "tables"
    step = max(1, len(pairs) // LISTED)
    rows = [_row(one, answer, form) for one, answer in zip(pairs[::step], answers[::step], strict=True)]
    text = "Pairs of the test split, drawn evenly, with the edit distance to the nearest right answer."
    write_table(tables / "samples.json", "Samples", text, rows[:LISTED])
    wrong = [_row(one, answer, form) for one, answer in zip(pairs, answers, strict=True)]
    wrong = sorted((row for row in wrong if row["errors"]), key=lambda row: -row["errors"])[:LISTED]
    write_table(tables / "mistakes.json", "Worst mistakes", "The answers with the most errors.", wrong)
    counts = frequent_substitutions(answers, targets, form).most_common(LISTED)
    write_table(
        tables / "substitutions.json",
        "Most frequent mistakes",
        "Tokens in the place of others in one best alignment; ∅ is none.",
        [{"right": right, "answered": found, "count": count} for (right, found), count in counts],
    )


def draw_generation_curves(history: Sequence[dict[str, float]], best: int, path: Path) -> None:
    """Losses and the error rate by epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, rate = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    loss.plot(epochs, [row["train_loss"] for row in history], marker=".", label="training")
    loss.plot(epochs, [row["validation_loss"] for row in history], marker=".", label="validation")
    loss.set(title="Loss per token", xlabel="epoch", ylim=(0, None))
    loss.legend()
    rates = [row["validation_token_error_rate"] for row in history]
    rate.plot(epochs, rates, marker=".")
    rate.axvline(best, color="gray", linestyle=":", label="the epoch that is exported")
    rate.set(title="Token error rate, validation", xlabel="epoch", ylim=(0, max(rates) * 1.1 or 1))
    rate.legend()
    for axes in (loss, rate):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)


def draw_attention(found: Sequence[Generation], sources: Sequence[list[str]], path: Path) -> None:
    """Where each written token looked: a row per token, a column per token of the source."""
    shown = [
        (one, source)
        for one, source in zip(found, sources, strict=True)
        if one.attention and one.search.tokens and max(len(source), len(one.search.tokens)) <= LONGEST
    ][:DRAWN]
    if not shown:
        return
    figure = Figure(figsize=(11, 3.4 * -(-len(shown) // 3)), layout="constrained")
    grid = figure.subplots(-(-len(shown) // 3), min(3, len(shown)), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (one, source) in zip(grid.flat, shown, strict=False):
        tokens = [one.vocabulary.token(token) for token in one.search.tokens]
        weights = np.stack(one.attention or [])[: len(tokens), : len(source)]
        axes.axis("on")
        axes.imshow(weights, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(source)), source)
        axes.set_yticks(range(len(tokens)), tokens)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=9)
    figure.savefig(path, dpi=110)


def write_continuations(text: str, prompts: Sequence[str], found: Sequence[Generation], report: Path) -> None:
    """How a language model continues, beside how the text does."""
    rows = []
    for prompt, one in zip(prompts, found, strict=True):
        place = text.find(prompt) + len(prompt)
        rows.append({"prompt": prompt, "text": text[place : place + len(one.text)], "drawn": one.text})
    words = "Beginnings of the test part, how it continues, and what the model draws at a temperature of 0.8."
    write_table(report / "tables" / "samples.json", "Samples", words, rows)


def _draw_lengths(answers: Sequence[str], targets: Sequence[Sequence[str]], form: str, path: Path) -> None:
    by_length: dict[int, list[tuple[int, int]]] = {}
    for answer, right in zip(answers, targets, strict=True):
        target, distance = nearest(answer, right, form)
        by_length.setdefault(min(len(target), LONGEST), []).append((distance, len(target)))
    lengths = sorted(by_length)
    rates = [
        sum(errors for errors, _ in by_length[one]) / max(1, sum(size for _, size in by_length[one]))
        for one in lengths
    ]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    errors, counts = figure.subplots(1, 2)
    errors.bar(lengths, rates)
    longest = f" ({LONGEST}: and more)" if LONGEST in by_length else ""
    errors.set(title="Token error rate, test", xlabel=f"tokens of the right answer{longest}")
    counts.bar(lengths, [len(by_length[one]) for one in lengths], color="tab:gray")
    counts.set(title="Pairs of the test split", xlabel="tokens of the right answer")
    for axes in (errors, counts):
        axes.grid(alpha=0.3, axis="y")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)


def _row(pair: TextPair, answer: str, form: str) -> dict[str, Any]:
    return {
        "source": _short(pair.source),
        "right": _short(" | ".join(pair.targets)),
        "answer": _short(answer),
        "errors": nearest(answer, pair.targets, form)[1],
    }


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
