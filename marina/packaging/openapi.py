"""An OpenAPI document of one model's requests, answers and errors; TorchServe's description lacks them.

Requests and answers come from the handler's schemas, read from the archive, so that the document describes
what is deployed; KServe's protocols from kserve_schemas.json. It is OpenAPI 3.1, whose schemas are plain JSON
schemas.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marina.packaging.openapi_jobs import JOB, add_streams_and_jobs, job_paths

if TYPE_CHECKING:  # servers make documents of descriptions, and read no specs
    from marina.core.spec import Spec

Schema = dict[str, Any]
SCHEMAS = "#/components/schemas/"
PROTOCOLS = Path(__file__).with_name("kserve_schemas.json")
FAILURES = {
    "400": "the request can't be read as what this model takes; the message says what to send instead",
    "404": "no such model or version is registered",
    "413": "more bytes, pixels or instances than the limits, or an answer that would be too long",
    "415": "this model doesn't do that",
    "500": "the model failed on a request that was right",
    "503": "no worker is free: the queue is full, or the workers are starting",
}

CONFLICT = {
    "409": (
        "the state doesn't go with this step or this model: a step was lost or repeated, or another "
        "version answers"
    )
}


def document(spec: "Spec") -> dict[str, Any]:
    """The OpenAPI document of the archive of `spec`. Raises CallError without a readable archive."""
    return of_description(description(spec))


def description(spec: "Spec") -> dict[str, Any]:
    """The handler's description of itself, as `GET /models/NAME?customized=true` returns it."""
    from marina.packaging import archive

    handler = spec.predictor()
    handler.max_answer_bytes = spec.serving.max_answer_bytes
    with archive.opened(spec) as folder:
        handler.open_export(folder)
    described: dict[str, Any] = handler.describe()
    return described


def of_description(described: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document for what a handler says of itself."""
    name, version = described["name"], described["version"]
    bodies, headers = _bodies(described), _headers(described["options"])
    answered = _operation("predict", "Answer one request", bodies, headers, "Answer")
    if "format" in described["options"]:
        answered["responses"]["200"]["content"]["image/png"] = {"schema": {}}
    takes_rows = described.get("takes_rows")  # archives of earlier versions don't say it
    if takes_rows:
        _add_rows(answered, "Answer")
    add_streams_and_jobs(answered)
    version_1 = _operation(
        "predictV1", "Answer many instances (KServe v1)", _json("Instances"), headers, "Answers"
    )
    version_2 = _operation(
        "inferV2", "Answer tensors (KServe v2)", _json("TensorRequest"), headers, "TensorAnswer"
    )
    paths_ = {
        f"/predictions/{name}": {"post": answered},
        f"/predictions/{name}/{version}": {"post": {**answered, "operationId": "predictVersion"}},
        f"/v1/models/{name}:predict": {"post": version_1},
        f"/v2/models/{name}/infer": {"post": version_2},
        **job_paths(),
    }
    if "explanation" in described:
        more = [*headers, *_headers(described["explain_options"])]
        explained = _operation("explain", "Explain the answer to one request", bodies, more, "Explanation")
        if takes_rows:
            _add_rows(explained, "Explanation")
        if "format" in described["explain_options"]:
            explained["responses"]["200"]["content"]["image/png"] = {"schema": {}}
        paths_[f"/explanations/{name}"] = {"post": explained}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": version, "description": described["about"]},
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "security": [{"token": []}],
        "paths": paths_,
        "components": {
            "schemas": _schemas(described),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "marina token inference"}
            },
        },
    }


def merged(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The documents of several models as one: schemas and operations begin with the model's name."""
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Marina",
            "version": "1",
            "description": "The models that this server answers for.",
        },
        "paths": {},
        "components": {"schemas": {}},
    }
    for document in documents:
        prefix = document["info"]["title"]
        own = json.loads(json.dumps(document).replace(SCHEMAS, f"{SCHEMAS}{prefix}_"))
        for operations in own["paths"].values():
            for operation in operations.values():
                if isinstance(operation, dict):  # beside them stand the parameters of all
                    operation["operationId"] = f"{prefix}_{operation['operationId']}"
        whole["paths"] |= own["paths"]
        named = {f"{prefix}_{name}": schema for name, schema in own["components"]["schemas"].items()}
        whole["components"]["schemas"] |= named
        whole["components"]["securitySchemes"] = own["components"]["securitySchemes"]
        whole |= {"security": own["security"], "servers": own["servers"]}
    return whole


def _operation(
    identifier: str, summary: str, bodies: dict[str, Any], headers: list[Schema], answer: str
) -> dict[str, Any]:
    words = dict(
        sorted({**FAILURES, **(CONFLICT if any(one["name"] == "state" for one in headers) else {})}.items())
    )
    failures = {
        status: {"description": about, "content": _json("Failure")} for status, about in words.items()
    }
    return {
        "operationId": identifier,
        "summary": summary,
        "parameters": headers,
        "requestBody": {"required": True, "content": bodies},
        "responses": {"200": {"description": "the answer", "content": _json(answer)}, **failures},
    }


def _bodies(described: dict[str, Any]) -> dict[str, Any]:
    """The content types of a request's body."""
    files = described["file_types"]
    if not files:
        return _json("Instance")
    form = {"type": "object", "properties": {"data": {}, **described["options"]}, "required": ["data"]}
    return {
        **{kind: {"schema": {}} for kind in files},
        "multipart/form-data": {"schema": form},
        **_json("Instance"),
    }


def _add_rows(operation: dict[str, Any], answer: str) -> None:
    """Add that a list of instances, or a file of them, is answered one by one, or refused."""
    one = {"$ref": f"{SCHEMAS}Instance"}
    body = operation["requestBody"]["content"]["application/json"]
    body["schema"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    alone = {"$ref": f"{SCHEMAS}{answer}"}
    refused = {"type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}
    rows = {"type": "array", "items": {"anyOf": [alone, refused]}}
    several = {"type": "object", "required": ["rows"], "properties": {"rows": rows}}
    operation["responses"]["200"]["content"]["application/json"]["schema"] = {"anyOf": [alone, several]}


def _headers(options: dict[str, Schema]) -> list[Schema]:
    """Options as headers; they may also stand in the body."""
    return [
        {"name": name, "in": "header", "required": False, "schema": schema}
        for name, schema in options.items()
    ]


def _schemas(described: dict[str, Any]) -> dict[str, Schema]:
    """The schemas of KServe's protocols, filled with what the handler says of its model."""
    schemas: dict[str, Schema] = json.loads(PROTOCOLS.read_text(encoding="utf-8"))
    schemas["Job"] = JOB
    schemas |= {"Instance": described["request"], "Answer": described["answer"]}
    instances = schemas["Instances"]["properties"]
    instances["instances"]["maxItems"] = described["limits"]["max_instances"]
    instances.update(described["options"])
    schemas["TensorRequest"]["properties"]["parameters"]["properties"] = described["options"]
    answer = schemas["TensorAnswer"]["properties"]
    answer["model_name"], answer["model_version"] = ({"const": described[key]} for key in ("name", "version"))
    if "explanation" in described:
        schemas["Explanation"] = described["explanation"]
    return schemas


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"{SCHEMAS}{schema}"}}}
