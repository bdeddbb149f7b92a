"""The part of the OpenAPI document about streams and jobs, which the standalone engine has."""

from typing import Any

Schema = dict[str, Any]
TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
COUNT: Schema = {"type": "integer", "minimum": 0}
JOB: Schema = {
    "type": "object",
    "required": ["id", "state", "model", "progress", "created", "links"],
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["queued", "running", "done", "failed"]},
        "model": {"type": "string"},
        "version": {"type": ["string", "null"]},
        "progress": {
            "type": "object",
            "properties": {"done": COUNT, "total": {"type": ["integer", "null"]}, "errors": COUNT},
        },
        "created": TIME,
        "started": TIME,
        "finished": TIME,
        "expires": {**TIME, "description": "when it is forgotten"},
        "links": {
            "type": "object",
            "properties": {"self": {"type": "string"}, "result": {"type": "string"}},
        },
        "error": {"$ref": "#/components/schemas/Failure"},
        "callback": {
            "type": "object",
            "properties": {"state": {"enum": ["pending", "delivered", "failed"]}, "tries": COUNT},
        },
    },
}
PREFER: Schema = {
    "name": "prefer",
    "in": "header",
    "required": False,
    "schema": {"const": "respond-async"},
    "description": "have the request answered later, as a job",
}
CALLBACK: Schema = {
    "name": "callback",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "format": "uri"},
    "description": "of a job: a URL that is told when it has ended; the server's configuration allows hosts",
}
EVENTS: Schema = {
    "schema": {"type": "string"},
    "example": 'data: {"index":0,"prediction":{}}\n\nevent: done\ndata: {"count":1,"errors":0}\n\n',
}


def add_streams_and_jobs(operation: Schema) -> None:
    """Add to a prediction that its answers may come one after another, or later."""
    operation["parameters"] = [*operation["parameters"], PREFER, CALLBACK]
    responses = operation["responses"]
    responses["200"]["content"]["text/event-stream"] = EVENTS
    responses["202"] = {
        "description": "a job was queued",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "where to look at it"}},
        "content": _json("Job"),
    }
    responses["429"] = _failure("so many jobs are kept as may be")
    responses["507"] = _failure("there is no room for the body of the job")


def job_paths() -> dict[str, Schema]:
    """The URLs of a job."""
    parameters = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    missing = _failure("no such job")
    done = {"description": "what the request would have got", "content": {"application/json": {"schema": {}}}}
    return {
        "/jobs/{id}": {
            "parameters": parameters,
            "get": {
                "operationId": "lookAtJob",
                "summary": "State and progress of a job",
                "responses": {"200": {"description": "the job", "content": _json("Job")}, "404": missing},
            },
            "delete": {
                "operationId": "deleteJob",
                "summary": "End a job and forget it",
                "responses": {"204": {"description": "it is gone"}, "404": missing},
            },
        },
        "/jobs/{id}/result": {
            "parameters": parameters,
            "get": {
                "operationId": "fetchResult",
                "summary": "The result of a job that is done",
                "responses": {"200": done, "404": missing, "409": _failure("it is not done")},
            },
        },
    }


def _failure(about: str) -> Schema:
    return {"description": about, "content": _json("Failure")}


def _json(schema: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
