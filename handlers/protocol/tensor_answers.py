"""Answers in KServe's v2 protocol (Open Inference Protocol): N answers -> named tensors.

    {"model_name", "model_version", "id", "outputs": [{"name", "shape", "datatype", "data"}]}         data
        flat in row order

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md. What is not covered: binary
answers, which a client that asks for them takes as JSON, too.
"""

import json
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any

from .errors import BadRequest, quoted

SCALARS = {"integer": "INT64", "number": "FP32", "string": "BYTES", "boolean": "BOOL"}
# by a schema's "format" (OpenAPI's registry), where it is another than its type's
FORMATS = {
    "double": "FP64",
    "int32": "INT32",
    "int16": "INT16",
    "int8": "INT8",
    "uint64": "UINT64",
    "uint32": "UINT32",
    "uint16": "UINT16",
    "uint8": "UINT8",
}


class TensorAnswer(dict[str, Any]):
    """An answer of named tensors, JSON-ready."""


def tensor_answer(
    answers: list[dict[str, Any]],
    schema: dict[str, Any],
    name: str,
    version: str,
    request_id: str | None,
    ragged: bool,
    names: Collection[str] = (),
    ignored: Collection[str] = (),
) -> TensorAnswer:
    """The answers of N instances as a v2 response; `schema` is the JSON schema of one answer and gives each
    property's type.

    integer -> INT64 [N], number -> FP32 [N], string -> BYTES [N], boolean -> BOOL [N]; arrays of these with a
    fixed length (minItems = maxItems = n) -> [N, n], and so on inwards; so is one of a named dimension
    ("x-dimension"), as long as the answers have it. A "format" says a narrower datatype. An array of objects
    is a table: each property of its rows becomes an output [N, k, ...], or, if `ragged` or if the instances
    differ in k, [rows of all instances together, ...] behind an INT64 [N] of the array's own name with the
    rows per instance.
    All else -> BYTES [N] of JSON text. A property that only some answers or rows have is left out.

    Only the outputs of these `names` are answered, all where there are none; parameters that were `ignored`
    are named in the answer's own. Raises BadRequest for a name that no output has, and ValueError for NaN and
    infinity in what becomes JSON text.
    """
    outputs: list[dict[str, Any]] = []
    for key, kind in schema.get("properties", {}).items():
        if all(key in answer for answer in answers):
            values = [answer[key] for answer in answers]
            items = kind.get("items", {}) if kind.get("type") == "array" else {}
            outputs += (
                _table(key, items, values, ragged)
                if "properties" in items
                else [_output(key, kind, values, [len(values)])]
            )
    return TensorAnswer(
        model_name=name,
        model_version=version,
        **({"id": request_id} if request_id is not None else {}),
        **({"parameters": {"ignored": ", ".join(ignored)[:200]}} if ignored else {}),
        outputs=_named(outputs, names) if names else outputs,
    )


def _named(outputs: list[dict[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """Those of these names, in their order. Raises BadRequest."""
    by_name = {output["name"]: output for output in outputs}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise BadRequest(
            f"unknown outputs: {quoted(unknown)}; this request is answered with {', '.join(by_name)}"
        )
    return [by_name[name] for name in names]


def _output(name: str, kind: dict[str, Any], values: Iterable[Any], leading: list[int]) -> dict[str, Any]:
    """One output of the shape `leading` and the dimensions of a value; `values` in row order."""
    inner, sizes, level = kind, [], [*values]
    every = level
    while inner.get("type") == "array" and (size := _size(inner, level)) is not None:
        sizes.append(size)
        inner, level = inner.get("items", {}), [*chain.from_iterable(level)]
    datatype = datatype_of(inner)
    if datatype is None:
        texts = [json.dumps(value, separators=(",", ":"), allow_nan=False) for value in every]
        return {"name": name, "shape": leading, "datatype": "BYTES", "data": texts}
    return {"name": name, "shape": [*leading, *sizes], "datatype": datatype, "data": level}


def datatype_of(schema: dict[str, Any]) -> str | None:
    """The datatype of a value with this schema; None for what is no scalar."""
    return FORMATS.get(str(schema.get("format")), SCALARS.get(str(schema.get("type"))))


def _size(schema: dict[str, Any], arrays: list[Any]) -> int | None:
    """How long all `arrays` of this schema are; None where they may differ."""
    least: int | None = schema.get("minItems")
    if least is not None and least == schema.get("maxItems"):
        return least
    lengths = {*map(len, arrays)} if "x-dimension" in schema else set()
    return lengths.pop() if len(lengths) == 1 else None


def _table(
    name: str, item: dict[str, Any], tables: list[list[dict[str, Any]]], ragged: bool
) -> list[dict[str, Any]]:
    """One output per property of a table's rows; see `tensor_answer`."""
    counts, rows = [len(rows) for rows in tables], list(chain.from_iterable(tables))
    even = not ragged and len(set(counts)) == 1
    leading = [len(tables), counts[0]] if even else [len(rows)]
    shared = {key: kind for key, kind in item["properties"].items() if all(key in row for row in rows)}
    columns = [_output(key, kind, [row[key] for row in rows], leading) for key, kind in shared.items()]
    return columns if even else [_output(name, {"type": "integer"}, counts, [len(counts)]), *columns]
