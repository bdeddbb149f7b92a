"""Made texts whose class can be told from their words, as files."""

import csv
import random
from pathlib import Path

PLAIN = ("the", "a", "it", "was", "and", "film", "of", "we", "saw", "in", "this", "story", "one", "with")
TELLING = {
    "good": ("wonderful", "moving", "great", "brilliant", "fun"),
    "bad": ("boring", "awful", "dull", "terrible", "waste"),
}


def made_texts(count: int, seed: int = 0, longest: int = 30) -> list[tuple[str, str]]:
    """(text, class) of both classes in turn."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = ("bad", "good")[number % 2]
        words = draw.choices(PLAIN, k=draw.randint(4, longest)) + draw.choices(TELLING[label], k=3)
        draw.shuffle(words)
        rows.append((" ".join(words).capitalize() + ".", label))
    return rows


def write_csv(path: Path, count: int = 300, seed: int = 0) -> Path:
    """A table of made texts."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *made_texts(count, seed)])
    return path
