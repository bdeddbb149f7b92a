"""Made sentences with names of people and places, as CoNLL files, and a tagger that needs no training."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers.inputs.tokenization import FILE
from handlers.inputs.word_features import WordFeatures
from handlers.kinds.tagger import TaggerPredictor
from handlers.runtime.export import Export
from handlers.runtime.runtimes import TorchRuntime
from training.export.trained import Dimension, Sample, Trained

PEOPLE = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Katherine", "Dennis")
FAMILIES = ("Lovelace", "Hopper", "Turing", "Dijkstra", "Liskov", "Knuth", "Johnson", "Ritchie")
PLACES = ("Paris", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Rabat", "Seoul")
FORMS = (
    "P visited L in spring .",
    "from L to L went P .",
    "P and P met .",
    "nobody was in L .",
    "P wrote it .",
)
TAGS = ["O", "B-LOC", "B-PER", "I-PER"]
BUCKETS = 997
FEATURES = WordFeatures(BUCKETS)
TEXT = "Ada Lovelace visited Paris."
PREPROCESS: dict[str, Any] = {
    "input": "text",
    "tokenizer": "features",
    "max_tokens": 12,
    "max_characters": 1000,
}


def made_sentences(count: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Words and tags."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        for word in draw.choice(FORMS).split():
            if word == "P":
                words += [draw.choice(PEOPLE), draw.choice(FAMILIES)]
                tags += ["B-PER", "I-PER"]
            else:
                words.append(draw.choice(PLACES) if word == "L" else word)
                tags.append("B-LOC" if word == "L" else "O")
        rows.append((words, tags))
    return rows


def write_conll(path: Path, count: int = 300, seed: int = 0) -> Path:
    """A word a line, an empty line behind each sentence."""
    sentences = made_sentences(count, seed)
    blocks = ("\n".join(f"{word} x {tag}" for word, tag in zip(*one, strict=True)) for one in sentences)
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


class Lookup(nn.Module):
    """Features int64 [B, length, F] -> logits [B, length, 4]: the tag of each known name, by the word."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.zeros(FEATURES.size, len(TAGS))
        table[:, 0] = 1.0
        for tag, words in ((1, PLACES), (2, PEOPLE), (3, FAMILIES)):
            for number in FEATURES.of(words)[:, 0]:
                table[number, tag] = 5.0
        self.register_buffer("table", table)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """By the first feature."""
        return self.table[features[:, :, 0]]  # type: ignore[index]


def serve_tagger(folder: Path, module: nn.Module | None = None, **preprocess: Any) -> TaggerPredictor:
    """A predictor of `module`, by default a Lookup; its files go to the empty `folder`."""
    files: dict[str, Any] = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": "tagger", "max_batch": 8},
        "preprocess_config": {**PREPROCESS, **preprocess},
        "postprocess_config": {"type": "tags"},
        "class_mapping": {str(index): name for index, name in enumerate(TAGS)},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / FILE).write_bytes(FEATURES.as_file())
    predictor = TaggerPredictor()
    predictor.configure(Export.open(folder))
    predictor.model = TorchRuntime((module or Lookup()).eval())
    return predictor


def trained() -> Trained:
    """A model of the kind, as a recipe gives it."""
    words = ["Ada", "Lovelace", "visited", "Paris", "."]
    body = json.dumps({"tokens": words}).encode()
    tags = ["B-PER", "I-PER", "O", "B-LOC", "O"]
    return Trained(
        kind="tagger",
        module=Lookup().eval(),
        example=(torch.from_numpy(FEATURES.of(words)).repeat(2, 1, 1),),
        dimensions=({1: Dimension("length", 1, PREPROCESS["max_tokens"])},),
        metrics={"accuracy": 1.0},
        preprocess=PREPROCESS,
        postprocess={"type": "tags"},
        files={FILE: FEATURES.as_file()},
        samples=[Sample("names", body, "application/json", {"tags": tags})],
        data={"name": "names"},
        classes=TAGS,
    )
