"""Small models of texts that need no training, and predictors that serve them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers.inputs.tokenization import FILE, SPECIAL
from handlers.kinds.embedder import EmbedderPredictor
from handlers.kinds.text_classifier import TextClassifierPredictor
from handlers.kinds.texts import TextPredictor
from handlers.protocol.fields import field_value
from handlers.runtime.export import Export
from handlers.runtime.runtimes import TorchRuntime
from training.text.tokenizers import word_file

WORDS = [*SPECIAL, "dark", "night", "light", "day", "the", "."]
EVIDENCE = {"dark": -2.0, "night": -1.0, "light": 2.0, "day": 1.0}
TEXTS = {"dark": "The dark night.", "light": "Light the day."}
PREPROCESS: dict[str, Any] = {"input": "text", "tokenizer": "words", "max_tokens": 8, "max_characters": 1000}


class Brightness(nn.Module):
    """Tokens int64 [B, length] -> logits [B, 2] by the sum of what each word says."""

    def __init__(self) -> None:
        super().__init__()
        evidence = torch.tensor([EVIDENCE.get(word, 0.0) for word in WORDS])
        self.register_buffer("evidence", evidence)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The more light words, the more the second class leads."""
        light = self.evidence[tokens].sum(1)  # type: ignore[index]
        return torch.stack([-light, light], 1)


class Direction(nn.Module):
    """Tokens int64 [B, length] -> unit vectors [B, 3]: how much light, dark and else a text has."""

    def __init__(self) -> None:
        super().__init__()
        light = torch.tensor([max(EVIDENCE.get(word, 0.0), 0.0) for word in WORDS])
        dark = torch.tensor([max(-EVIDENCE.get(word, 0.0), 0.0) for word in WORDS])
        neither = torch.tensor([0.0, *(0.5 for _ in WORDS[1:])])
        self.register_buffer("table", torch.stack([light, dark, neither], 1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The direction of the sum."""
        return nn.functional.normalize(self.table[tokens].sum(1), dim=1)  # type: ignore[index]


EMBEDDING: dict[str, Any] = {"type": "embedding", "dimension": 3, "top_k": 2}


def serve_embedder(folder: Path, module: nn.Module | None = None, **postprocess: Any) -> EmbedderPredictor:
    """A predictor of `module`, by default a Direction; its files go to the empty `folder`."""
    files: dict[str, Any] = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": "embedder", "max_batch": 8},
        "preprocess_config": {**PREPROCESS, "max_characters": 1_000_000},
        "postprocess_config": {**EMBEDDING, **postprocess},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / FILE).write_bytes(word_file(WORDS, True))
    predictor = EmbedderPredictor()
    predictor.configure(Export.open(folder))
    predictor.model = TorchRuntime((module or Direction()).eval())
    return predictor


def serve(
    folder: Path,
    module: nn.Module | None = None,
    classes: Sequence[str] = ("dark", "light"),
    tokenizer: bytes | None = None,
    postprocess: dict[str, Any] | None = None,
    **preprocess: Any,
) -> TextClassifierPredictor:
    """A predictor of `module`; its files go to the empty `folder`."""
    files: dict[str, Any] = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": "text_classifier", "max_batch": 8},
        "preprocess_config": {**PREPROCESS, **preprocess},
        "postprocess_config": postprocess or {"type": "classification", "top_k": 2},
        "class_mapping": {str(index): name for index, name in enumerate(classes)},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / FILE).write_bytes(tokenizer or word_file(WORDS, True))
    predictor = TextClassifierPredictor()
    predictor.configure(Export.open(folder))
    predictor.model = TorchRuntime((module or Brightness()).eval())
    return predictor


def answer(predictor: TextPredictor, body: bytes | Any, **headers: str) -> Any:
    """What one body gets: bytes as they are, all else as JSON."""
    content_type = headers.get(
        "content_type", "text/plain" if isinstance(body, bytes) else "application/json"
    )
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    field = field_value(content, content_type.partition(";")[0].encode())
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"content-type": content_type}
    (found,) = predictor.answer_rows([({"body": field}, sent)])
    return found


def accepted(predictor: TextPredictor, body: bytes | Any, **headers: str) -> Any:
    """What one body gets, where it isn't refused; a refusal is raised."""
    reply = answer(predictor, body, **headers)
    if isinstance(reply, Exception):
        raise reply
    return reply
