"""What the Open Inference Protocol v2 wants of a server beside the predictor's answers in JSON: a choice of
outputs, outputs as bytes behind the JSON, the metadata of server and models, and errors with a key "error".

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; for binary outputs
triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from handlers.protocol.errors import BadRequest, quoted
from handlers.protocol.kserve import BINARY_HEADER, DTYPES
from handlers.protocol.replies import Reply
from handlers.protocol.requests import Row
from handlers.protocol.tensor_answers import datatype_of, tensor_answer
from handlers.runtime.predictor import Predictor
from marina import __version__
from marina.engines.gateway.bodies import Headers

EXTENSIONS = ["binary_tensor_data"]
BINARY = "application/octet-stream"
OK = 200


@dataclass(frozen=True)
class Outputs:
    """The outputs that a request asks for, some of them as bytes: name -> whether so; all where it names
    none. Without bytes the predictor's answer stands.
    """

    named: Mapping[str, bool]
    all_binary: bool

    @classmethod
    def asked_by(cls, row: Row) -> "tuple[Outputs | None, Row]":
        """What a v2 request asks for, None for JSON alone; and the row, in which JSON that came
        without its content type is parsed. A body that is none is left to the predictor.

        Raises BadRequest for outputs that aren't named.
        """
        fields, headers = row
        body = _head(fields.get("body"), headers)
        if not isinstance(body, dict):
            return None, row
        if BINARY_HEADER not in headers:
            row = {"body": body}, headers
        outputs = body.get("outputs") or []
        all_binary = _flag(body, "binary_data_output", False)
        if not isinstance(outputs, list) or not all(map(_is_named, outputs)):
            raise BadRequest("'outputs' must be a list of {\"name\": ...}; without it all are answered")
        named = {output["name"]: _flag(output, "binary_data", all_binary) for output in outputs}
        return cls(named, all_binary) if all_binary or any(named.values()) else None, row

    def written(self, reply: Reply) -> tuple[Reply, tuple[tuple[bytes, bytes], ...]]:
        """The reply with these outputs, and the header that says how long its JSON is where bytes follow.

        Raises BadRequest for an output that the model has not.
        """
        if reply.status != OK:
            return reply, ()
        answer = json.loads(reply.content)
        outputs = {output["name"]: output for output in answer.get("outputs", [])}
        unknown = sorted(self.named.keys() - outputs.keys())
        if unknown:
            known = ", ".join(outputs)
            raise BadRequest(f"unknown outputs: {quoted(unknown)}; there are {known}")
        named = self.named or dict.fromkeys(outputs, self.all_binary)
        chunks = []
        for name, is_binary in named.items():
            if is_binary:
                chunks.append(tensor_bytes(outputs[name]))
                del outputs[name]["data"]
                outputs[name]["parameters"] = {"binary_data_size": len(chunks[-1])}
        answer["outputs"] = [outputs[name] for name in named]
        head = json.dumps(answer, separators=(",", ":")).encode()
        header = (BINARY_HEADER.encode(), b"%d" % len(head))
        return Reply(b"".join([head, *chunks]), BINARY), (header,)


def with_error(reply: Reply) -> Reply:
    """A refusal as v2's clients read it, its message also under "error"."""
    content = json.loads(reply.content)
    return reply._replace(content=json.dumps({**content, "error": content["message"]}).encode())


def tensor_bytes(output: Mapping[str, Any]) -> bytes:
    """The values of an output, little-endian; of BYTES, each with its length in front."""
    if output["datatype"] == "BYTES":
        texts = [text.encode() for text in output["data"]]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    dtype = DTYPES[output["datatype"]].newbyteorder("<")
    return np.asarray(output["data"], dtype).tobytes()


def server_metadata() -> dict[str, Any]:
    """The metadata of the server."""
    return {"name": "marina", "version": __version__, "extensions": EXTENSIONS}


def model_metadata(predictor: Predictor, versions: list[str]) -> dict[str, Any]:
    """The metadata of a model: inputs and outputs with datatypes and shapes, -1 for what varies."""
    described = predictor.describe()
    return {
        "name": described["name"],
        "versions": versions,
        "platform": described["computing"].get("runtime", ""),
        "inputs": [_input(described, name) for name in predictor.input_names()],
        "outputs": _outputs(predictor),
    }


def _head(body: Any, headers: Headers) -> Any:
    """The JSON of a body, in front of its bytes where it has some; None where it is no JSON."""
    if not isinstance(body, bytes):
        return body
    try:
        return json.loads(body[: int(headers[BINARY_HEADER])] if BINARY_HEADER in headers else body)
    except (ValueError, RecursionError):
        return None


def _is_named(output: Any) -> bool:
    return isinstance(output, dict) and isinstance(output.get("name"), str)


def _flag(holder: Mapping[str, Any], key: str, default: bool) -> bool:
    """A parameter that is true or false. Raises BadRequest for any other."""
    parameters = holder.get("parameters") or {}
    value = parameters.get(key, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise BadRequest(f"the parameter {key} must be true or false")
    return value


def _input(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A tensor of an instance; the files of a picture or clip are BYTES."""
    schema = described["request"]
    for choice in (schema, *schema.get("anyOf", [])):
        if name in choice.get("properties", {}):
            datatype, sizes = _tensor(choice["properties"][name])
            return {"name": name, "datatype": datatype, "shape": [-1, *sizes]}
    return {"name": name, "datatype": "BYTES", "shape": [-1]}


def _tensor(schema: Mapping[str, Any]) -> tuple[str, list[int]]:
    """The datatype and the inner dimensions of a property."""
    sizes = []
    while schema.get("type") == "array":
        sizes.append(schema["minItems"] if schema.get("minItems") == schema.get("maxItems", -1) else -1)
        schema = schema.get("items", {})
    return datatype_of(dict(schema)) or "BYTES", sizes


def _outputs(predictor: Predictor) -> list[dict[str, Any]]:
    """The outputs of a golden sample's answer, in which only the dimensions that the schema fixes stay."""
    schema, sample = predictor.answer_schema(), predictor.export.samples[0]
    answer = tensor_answer([sample["answer"]], schema, "", "", None, ragged=predictor.ragged)
    found = []
    for output in answer["outputs"]:
        sizes = list(output["shape"][1:])
        is_column = output["name"] not in schema["properties"]
        if is_column and not predictor.ragged:
            sizes[0] = -1  # the rows of a table, which an option may limit
        for axis, fixed in enumerate(_tensor(schema["properties"].get(output["name"], {}))[1]):
            if fixed == -1 and axis < len(sizes):
                sizes[axis] = -1  # a named dimension
        found.append({"name": output["name"], "datatype": output["datatype"], "shape": [-1, *sizes]})
    return found
