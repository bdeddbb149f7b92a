"""What a predictor in this process answers, without a server."""

import json
from typing import Any

import jsonschema
import openapi_spec_validator

from handlers.runtime.predictor import Predictor
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
