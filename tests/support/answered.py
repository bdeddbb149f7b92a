"""What a predictor in this process answers, without a server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import openapi_spec_validator
import torch

from handlers.kinds import predictor_of
from handlers.runtime.export import Export
from handlers.runtime.predictor import Predictor
from handlers.runtime.runtimes import TorchRuntime
from marina.kinds.kind import Answer
from marina.packaging.openapi import of_description


def answer_to(predictor: Predictor, body: Any, **headers: str) -> Any:
    """What a body gets: text and bytes as they are, all else as JSON."""
    content = body if isinstance(body, str | bytes) else json.dumps(body).encode()
    (found,) = predictor.answer_rows([({"body": content}, headers)])
    return found


def answers_of(predictor: Predictor) -> Answer:
    """What a measurement sends its requests to."""
    return lambda rows, headers: predictor.answer_rows([({"body": body}, dict(headers)) for body, _ in rows])


def check_openapi(predictor: Predictor, request: Any, reply: Any) -> None:
    """The document of a model that takes CSV is valid, and has the form of this request and its reply."""
    document = of_description({**predictor.describe(), "about": "A toy.", "labels": []})
    openapi_spec_validator.validate(document)
    operation = document["paths"]["/predictions/toy"]["post"]
    assert "text/csv" in operation["requestBody"]["content"]
    for part, content in ((operation["requestBody"], request), (operation["responses"]["200"], reply)):
        schema = {**part["content"]["application/json"]["schema"], "components": document["components"]}
        jsonschema.validate(content, schema)


def configure_toy(
    predictor: Predictor,
    folder: Path,
    kind: str,
    preprocess: dict[str, Any],
    postprocess: dict[str, Any],
    classes: Sequence[str],
) -> None:
    """Read the export `toy` of a kind with classes, whose files are written to the empty `folder`."""
    files: dict[str, Any] = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": kind, "max_batch": 8},
        "preprocess_config": preprocess,
        "postprocess_config": postprocess,
        "class_mapping": {str(index): name for index, name in enumerate(classes)},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    predictor.configure(Export.open(folder))


def serve_toy(
    folder: Path, kind: str, preprocess: dict[str, Any], module: torch.nn.Module, classes: Sequence[str]
) -> Any:
    """A predictor that answers by `module`; its files go to the empty `folder`."""
    predictor: Any = predictor_of(kind)
    configure_toy(predictor, folder, kind, preprocess, {"type": "classification", "top_k": 2}, classes)
    predictor.model = TorchRuntime(module.eval())
    return predictor
