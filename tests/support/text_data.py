"""Made texts whose class can be told from their words, as files."""

import csv
import json
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


TOPICS = {
    "sea": ("ship", "harbor", "sail", "wave", "anchor"),
    "kitchen": ("oven", "flour", "recipe", "spoon", "salt"),
    "music": ("violin", "choir", "melody", "piano", "chord"),
    "garden": ("rose", "seed", "spade", "hedge", "tulip"),
}


def write_groups(path: Path, count: int = 240, seed: int = 0, size: int = 4) -> Path:
    """Lines of texts; `size` of them are about one topic in words that only their group has in common."""
    draw = random.Random(seed)
    names = [*TOPICS]
    lines = []
    for number in range(count):
        group = number // size
        topic = TOPICS[names[group % len(names)]]
        own = [f"name{group}"] * 2
        words = draw.choices(PLAIN, k=draw.randint(4, 12)) + draw.choices(topic, k=3) + own
        draw.shuffle(words)
        lines.append({"text": " ".join(words), "group": f"group {group}", "label": names[group % len(names)]})
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def write_csv(path: Path, count: int = 300, seed: int = 0) -> Path:
    """A table of made texts."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *made_texts(count, seed)])
    return path
