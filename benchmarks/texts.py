"""Measures what a request to a model of texts costs beside the bare loop, and a batch of mixed lengths.

    marina bench texts languages              an exported model of this project; several by their names
    marina bench texts languages --rounds 50

A request has 128 tokens, or as many as the model reads. The bare loop is its tokenizer, its graph and
`tolist()` of what comes out, in the same process. A batch has BATCH texts of evenly spread lengths up to
that, and stands beside as many of the longest. Numbers are medians of processor time, measured in turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exported import predictor_of
from handlers.inputs.tokenization import Tokenizer
from handlers.kinds.texts import TextPredictor
from handlers.protocol.requests import Row

TOKENS, BATCH = 128, 8
PLAIN = {"content-type": "text/plain"}
SENTENCE = "the house by the sea was sold to a young couple last week after months of waiting"
WORDS = SENTENCE.split()


def text_of(tokenizer: Tokenizer, tokens: int) -> str:
    """A text of at least so many tokens, word by word."""
    words: list[str] = []
    while len(tokenizer.encode(" ".join(words), tokens).ids) < tokens:
        words.append(WORDS[len(words) % len(WORDS)])
    return " ".join(words)


def milliseconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median processor time of each call, all in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 3):  # the first ones warm up
        for name, call in calls.items():
            started = time.process_time_ns()
            call()
            if turn >= 3:
                found[name].append((time.process_time_ns() - started) / 1e6)
    return {name: statistics.median(times) for name, times in found.items()}


def measured(name: str, rounds: int) -> dict[str, Any]:
    """One model. Raises CallError where it reads no texts."""
    predictor: Any = predictor_of(name, TextPredictor, "which reads no texts")
    tokenizer: Any = predictor.tokenizer
    most = min(TOKENS, predictor.text_limits.max_tokens)
    longest = text_of(tokenizer, most)
    lengths = np.linspace(most / BATCH, most, BATCH).astype(int)
    mixed = [text_of(tokenizer, max(1, int(length))) for length in lengths]

    def bare() -> Any:
        return predictor.model(tokenizer.encode(longest, most).ids[None]).tolist()

    def request(texts: list[str]) -> Callable[[], Any]:
        rows: list[Row] = [({"body": text}, PLAIN) for text in texts]
        return lambda: predictor.reply(rows, [str(number) for number in range(len(rows))])

    calls = {"bare": bare, "request": request([longest]), "mixed": request(mixed)}
    found = milliseconds({**calls, "longest": request([longest] * BATCH)}, rounds)
    ratios = {
        "request_to_bare": found["request"] / found["bare"],
        "mixed_to_longest": found["mixed"] / found["longest"],
    }
    runtime = {key: predictor.computing[key] for key in ("runtime", "precision")}
    about = {"name": name, "kind": predictor.metadata["kind"], "tokens": most}
    return {**about, **runtime, "milliseconds": found, **ratios}


def line(row: dict[str, Any]) -> str:
    """A measurement in words."""
    times = row["milliseconds"]
    request = (
        f"request {times['request']:.3f} ms, bare {times['bare']:.3f}, ratio {row['request_to_bare']:.2f}"
    )
    mixed = (
        f"{times['mixed']:.2f} ms, of the longest {times['longest']:.2f}, ratio {row['mixed_to_longest']:.2f}"
    )
    about = f"{row['name']} ({row['runtime']} {row['precision']}), {row['tokens']} tokens"
    return f"{about}: {request}; {BATCH} texts of mixed lengths {mixed}"


def main() -> None:
    """Measure each model, print a line for each, write --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=["languages"], help="models; default: languages")
    parser.add_argument("--rounds", type=int, default=30, help="calls of each")
    parser.add_argument("--out", type=Path, help="file for the results")
    options = parser.parse_args()
    results = []
    for name in options.names:
        results.append(measured(name, options.rounds))
        print(line(results[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
