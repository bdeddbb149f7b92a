"""An OpenAPI document of one model: what TorchServe's own description of it, which knows neither bodies nor answers, should say.

Everything about requests and answers comes from the handler's own schemas, read from the archive, so that the document says
what is deployed. The dialect is OpenAPI 3.1, whose schemas are plain JSON schemas.
"""

from typing import Any

from marina import archive
from marina.spec import Spec

Schema = dict[str, Any]
IMAGE_TYPES = ("application/octet-stream", "image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
CLIP_TYPES = ("application/octet-stream", "image/gif", "image/webp", "image/apng", "video/mp4", "video/x-msvideo", "video/webm")
FAILURES = {
    "400": "the request can't be read as what this model takes; the message says what to send instead",
    "404": "no such model or version is registered",
    "413": "more bytes, pixels or instances than the limits, or an answer that would be too long",
    "415": "this model doesn't do that",
    "500": "the model failed on a request that was right",
    "503": "no worker is free: the queue is full, or the workers are starting",
}

CONFLICT = {"409": "the state doesn't go with this step or this model: a step was lost or repeated, or another version answers"}


def document(spec: Spec) -> dict[str, Any]:
    """The OpenAPI document of the archive of `spec`. Raises CallError when there is no archive that can be read."""
    return of_description(description(spec))


def description(spec: Spec) -> dict[str, Any]:
    """What the archive's handler says of itself, as `GET /models/NAME?customized=true` would."""
    from training.export import handler_of

    handler = handler_of(spec.kind)
    handler.max_answer_bytes = spec.serving.max_answer_bytes
    with archive.opened(spec) as folder:
        handler.read_configs(folder)
    return handler.describe_handle()


def of_description(described: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document for what a handler says of itself."""
    name, version = described["name"], described["version"]
    bodies, headers = _bodies(described), _headers(described["options"])
    answered = _operation("predict", "Answer one request", bodies, headers, "Answer")
    if "format" in described["options"]:
        answered["responses"]["200"]["content"]["image/png"] = {"schema": {}}
    version_1 = _operation("predictV1", "Answer many instances (KServe v1)", _json("Instances"), headers, "Answers")
    version_2 = _operation("inferV2", "Answer tensors (KServe v2)", _json("TensorRequest"), headers, "TensorAnswer")
    paths_ = {
        f"/predictions/{name}": {"post": answered},
        f"/predictions/{name}/{version}": {"post": {**answered, "operationId": "predictVersion"}},
        f"/v1/models/{name}:predict": {"post": version_1},
        f"/v2/models/{name}/infer": {"post": version_2},
    }
    if "explanation" in described:
        more = [*headers, *_headers(described["explain_options"])]
        explained = _operation("explain", "Explain the answer to one request", bodies, more, "Explanation")
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
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "marina token inference"}},
        },
    }


def _operation(identifier: str, summary: str, bodies: dict[str, Any], headers: list[Schema], answer: str) -> dict[str, Any]:
    words = dict(sorted({**FAILURES, **(CONFLICT if any(one["name"] == "state" for one in headers) else {})}.items()))
    failures = {status: {"description": about, "content": _json("Failure")} for status, about in words.items()}
    return {
        "operationId": identifier,
        "summary": summary,
        "parameters": headers,
        "requestBody": {"required": True, "content": bodies},
        "responses": {"200": {"description": "the answer", "content": _json(answer)}, **failures},
    }


def _bodies(described: dict[str, Any]) -> dict[str, Any]:
    """The content types of a request's body."""
    files = {"image": IMAGE_TYPES, "clip": CLIP_TYPES}.get(described["preprocess"]["input"])
    if files is None:
        return _json("Instance")
    form = {"type": "object", "properties": {"data": {}, **described["options"]}, "required": ["data"]}
    return {**{kind: {"schema": {}} for kind in files}, "multipart/form-data": {"schema": form}, **_json("Instance")}


def _headers(options: dict[str, Schema]) -> list[Schema]:
    """Options as headers; they may also stand in the body."""
    return [{"name": name, "in": "header", "required": False, "schema": schema} for name, schema in options.items()]


def _schemas(described: dict[str, Any]) -> dict[str, Schema]:
    most = described["limits"]["max_instances"]
    instance: Schema = {"$ref": "#/components/schemas/Instance"}
    listed = {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}}
    tensor = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "description": "the first dimension counts the instances",
            },
            "datatype": {
                "enum": [f"{kind}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)] + ["BOOL", "FP32", "FP64", "BYTES"]
            },
            "data": {"type": "array"},
        },
        "required": ["name", "shape", "datatype", "data"],
    }
    tensors = {"type": "array", "items": tensor, "minItems": 1}
    parameters = {"type": "object", "properties": described["options"]}
    instances = {"type": "array", "items": instance, "minItems": 1, "maxItems": most}
    schemas: dict[str, Schema] = {
        "Instance": described["request"],
        "Answer": described["answer"],
        "Instances": {
            "type": "object",
            "properties": {"instances": instances, **described["options"]},
            "required": ["instances"],
            "additionalProperties": False,
        },
        "Answers": {"type": "object", "properties": {"predictions": listed}, "required": ["predictions"]},
        "TensorRequest": {
            "type": "object",
            "properties": {"id": {"type": "string"}, "inputs": tensors, "parameters": parameters},
            "required": ["inputs"],
        },
        "TensorAnswer": {
            "type": "object",
            "properties": {
                "model_name": {"const": described["name"]},
                "model_version": {"const": described["version"]},
                "id": {"type": "string"},
                "outputs": tensors,
            },
            "required": ["model_name", "model_version", "outputs"],
        },
        "Failure": {
            "type": "object",
            "properties": {
                "code": {"type": "integer", "description": "the HTTP status"},
                "type": {"type": "string"},
                "message": {"type": "string", "description": "what is wrong, and what to send instead"},
                "request_id": {"type": "string", "description": "the one in the server's log; missing where no worker was reached"},
            },
            "required": ["code", "type", "message"],
        },
    }
    if "explanation" in described:
        schemas["Explanation"] = described["explanation"]
    return schemas


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
