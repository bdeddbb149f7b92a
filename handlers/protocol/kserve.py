"""Requests in KServe's v2 protocol (Open Inference Protocol): named tensors with N rows -> N instances.

    {"inputs": [{"name", "shape": [N, ...], "datatype", "data"}], "outputs": [{"name"}], "parameters", "id"}
        data flat in row order, or nested

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; for values as bytes behind
the JSON triton-inference-server/server, docs/protocol/extension_binary_data.md. What is not covered: BF16,
shared memory. Answers are in `tensor_answers`.
"""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadRequest, TooLarge, quoted

BINARY_HEADER = "inference-header-content-length"  # the JSON's bytes, in front of binary tensor data
EXTENSIONS = frozenset(
    {"binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout"}
)
REFUSED = frozenset({"classification", "shared_memory_region"})  # parameters of an output
TENSOR_KEYS = ("name", "shape", "datatype", "data", "parameters")
MAX_DIMENSIONS, MAX_SIZE = 32, 2**31 - 1
MAX_INPUTS = 100  # more than any graph has; 300,000 fit into a body and would take seconds

NAMES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
)
DTYPES = dict(
    zip(
        NAMES,
        map(np.dtype[Any], ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "O")),
        strict=True,
    )
)
# by the dtype's kind
JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}, "O": {str}}
IN_WORDS = {
    int: "whole numbers",
    float: "decimal numbers",
    bool: "true or false",
    str: "strings",
    dict: "objects",
    list: "deeper lists",
}


@dataclass(frozen=True)
class TensorRequest:
    """A v2 request: one dict per instance (name of the input -> its element), parameters without the
    extensions' own, id, the names of the outputs that it asks for, all where it names none, and of the
    parameters that nobody knows.

    An element is an array of the input's datatype and of its shape without the first dimension (0-d where the
    shape is [N]); of BYTES it is the string that the JSON had, or the bytes that came as binary data.
    """

    instances: list[dict[str, Any]]
    parameters: dict[str, Any]
    request_id: str | None
    outputs: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def read_tensors(body: dict[str, Any], binary: bytes = b"", most: int = 10_000) -> TensorRequest:
    """The instances of a request, whose JSON is `body` and whose binary tensor data is `binary`.

    Keys that the protocol doesn't know are ignored beside "inputs". Raises BadRequest for whatever else is
    not exactly a v2 request with finite values within their datatypes, and TooLarge for more than `most`
    instances or MAX_INPUTS inputs. Nothing is allocated for a shape that the values don't fill.
    """
    if "instances" in body:
        raise BadRequest("the request has both 'inputs' and 'instances'; send one of them")
    parameters = _parameters(body, "the request")
    inputs, request_id = body.get("inputs"), body.get("id")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(tensor, dict) for tensor in inputs):
        raise BadRequest(
            '\'inputs\' must be a list of at least one tensor {"name", "shape", "datatype", "data"}'
        )
    if not isinstance(request_id, str | None):
        raise BadRequest("'id' must be a string; it may be left out")
    outputs = _asked_outputs(body.get("outputs"))
    if len(inputs) > MAX_INPUTS:
        raise TooLarge(
            f"{len(inputs):,} inputs; send at most {MAX_INPUTS}, and many instances as the first dimension "
            "of each"
        )
    rest = memoryview(binary)
    columns: dict[str, list[Any]] = {}
    for index, tensor in enumerate(inputs):
        name = tensor.get("name")
        if not isinstance(name, str) or name in columns:
            raise BadRequest(f"inputs[{index}]: 'name' must be a string that no other input has")
        where = f"input {name[:40]!r}"
        chunk, rest = _split_chunk(tensor, rest, where)
        columns[name] = _rows(tensor, chunk, where, most)
        if len(columns[name]) != (count := len(columns[inputs[0]["name"]])):
            raise BadRequest(
                f"{where} has {len(columns[name]):,} instances (its first dimension), the first input "
                f"{count:,}"
            )
    if rest:
        raise BadRequest(
            f"{len(rest):,} bytes of binary data belong to no input; say each size in "
            "parameters.binary_data_size"
        )
    instances = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    parameters = {key: value for key, value in parameters.items() if key not in EXTENSIONS}
    return TensorRequest(instances, parameters, request_id, outputs)


def split_binary(body: bytes, header_length: str) -> tuple[bytes, bytes]:
    """The JSON and the binary tensor data of a body; `header_length` is the header
    inference-header-content-length.

    Raises BadRequest where the header is not a number of bytes within the body.
    """
    text = header_length.strip()
    length = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    if not 0 < length <= len(body):
        raise BadRequest(
            f"inference-header-content-length must be the JSON's bytes, 1 to {len(body)}, not {text[:40]!r}"
        )
    return body[:length], body[length:]


def _asked_outputs(asked: Any) -> tuple[str, ...]:
    """The names of the outputs that are asked for, each once."""
    refusal = BadRequest("'outputs' must be a list of {\"name\": ...}; without it all outputs are answered")
    if not isinstance(asked, list | None):
        raise refusal
    names: dict[str, None] = {}
    for output in asked or ():
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str):
            raise refusal
        # whoever asks for these reads the answer elsewhere, or as something else
        for key in REFUSED & _parameters(output, f"output {name[:40]!r}").keys():
            raise BadRequest(f"output {name[:40]!r}: the parameter {key} is not supported; leave it out")
        names[name] = None
    return tuple(names)


def _parameters(given: dict[str, Any], where: str) -> dict[str, Any]:
    """What `given` has under "parameters"."""
    parameters = given.get("parameters")
    if not isinstance(parameters, dict | None):
        raise BadRequest(f"{where}: 'parameters' must be an object")
    return parameters or {}


def _split_chunk(
    tensor: dict[str, Any], rest: memoryview, where: str
) -> tuple[memoryview | None, memoryview]:
    """The binary data of one input, None where its values are in the JSON; and the data of the inputs
    behind it.
    """
    unknown = sorted(str(key) for key in tensor if key not in TENSOR_KEYS)
    if unknown:
        raise BadRequest(f"{where} has unknown keys: {quoted(unknown)}; known: {', '.join(TENSOR_KEYS)}")
    size = _parameters(tensor, where).get("binary_data_size")
    if (size is None) == (tensor.get("data") is None):
        raise BadRequest(
            f"{where}: send its values either as 'data' or as binary data with parameters.binary_data_size"
        )
    if size is None:
        return None, rest
    if type(size) is not int or not 0 <= size <= len(rest):
        found = (
            f"{len(rest):,} bytes are left behind the JSON, whose length the header "
            "inference-header-content-length says"
        )
        raise BadRequest(f"{where}: binary_data_size must be its number of bytes; {found}")
    return rest[:size], rest[size:]


def _rows(tensor: dict[str, Any], chunk: memoryview | None, where: str, most: int) -> list[Any]:
    """The elements of one input, one per instance; `chunk` is its binary data."""
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise BadRequest(f"{where}: 'datatype' must be one of {', '.join(NAMES)}")
    # as many as there are: what TorchServe's own examples send
    free = datatype == "BYTES" and shape in (-1, [-1])
    depth = 1 if free else len(_sizes(shape, where, most))
    array = (
        _from_json(tensor["data"], datatype, depth, where)
        if chunk is None
        else _from_binary(chunk, datatype, most, where)
    )
    sizes = _sizes([len(array)] if free else shape, where, most)
    if len(array) != math.prod(sizes):
        raise BadRequest(
            f"{where}: the shape {sizes} has {math.prod(sizes):,} values, but {len(array):,} were sent"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequest(
            f"{where} must hold finite numbers within {datatype}; NaN, infinity and larger ones are refused"
        )
    if datatype == "BYTES" and sizes[0] != len(array):
        raise BadRequest(
            f"{where}: BYTES must have the shape [N] or [N, 1], one file or text per instance, not {sizes}"
        )
    rows = array.reshape(sizes)
    return list(array) if datatype == "BYTES" else [rows[index, ...] for index in range(sizes[0])]


def _sizes(shape: Any, where: str, most: int) -> list[int]:
    """The dimensions of a shape with at least one instance and one value."""
    few = isinstance(shape, list) and 0 < len(shape) <= MAX_DIMENSIONS
    if not few or not all(type(size) is int and 0 < size <= MAX_SIZE for size in shape):
        wanted = f"a list of 1 to {MAX_DIMENSIONS} whole numbers from 1 to {MAX_SIZE}"
        raise BadRequest(f"{where}: 'shape' must be {wanted}, the first of which is the number of instances")
    if shape[0] > most:
        raise TooLarge(f"{shape[0]:,} instances in one request; send at most {most:,}")
    return list(shape)


def _from_json(data: Any, datatype: str, depth: int, where: str) -> NDArray[Any]:
    """The values of a list, flat or nested up to `depth` levels, in row order; a string stands for a list
    of one.
    """
    dtype = DTYPES[datatype]
    flat: list[Any] = [data] if isinstance(data, str) else data
    if not isinstance(flat, list) or datatype == "FP16":
        raise BadRequest(
            f"{where}: 'data' must be a list; FP16, which JSON has no form for, must be binary data"
        )
    while (types := set(map(type, flat))) == {list} and depth > 1:
        flat, depth = list(chain.from_iterable(flat)), depth - 1
    wanted = JSON_TYPES[dtype.kind]
    if not types <= wanted:
        words = [
            " or ".join(sorted(IN_WORDS.get(one, "null") for one in kinds))
            for kinds in (wanted, types - wanted)
        ]
        raise BadRequest(
            f"{where}: 'data' must hold {words[0]}, flat or nested like its shape, not {words[1]}"
        )
    try:
        if datatype == "UINT8":  # pixels: bytearray checks them as numpy does and is eight times as fast
            return np.frombuffer(bytearray(flat), dtype)
        with np.errstate(over="ignore"):  # becomes infinity, which is refused
            return np.array(flat, dtype)
    except (OverflowError, ValueError):
        raise BadRequest(f"{where}: a number is out of the range of {datatype}") from None


def _from_binary(chunk: memoryview, datatype: str, most: int, where: str) -> NDArray[Any]:
    """The values of little-endian binary data, as an array of its own; of BYTES, at most one more than
    `most`.
    """
    dtype, start = DTYPES[datatype], 0
    strings: list[bytes] = []
    if datatype != "BYTES":
        if len(chunk) % dtype.itemsize or (datatype == "BOOL" and (np.frombuffer(chunk, np.uint8) > 1).any()):
            raise BadRequest(
                f"{where}: its binary data must be values of {dtype.itemsize} bytes each; BOOL is 0 or 1"
            )
        return np.frombuffer(chunk, dtype.newbyteorder("<")).astype(dtype)
    while start < len(chunk) and len(strings) <= most:
        first = start + 4
        start = first + int.from_bytes(chunk[start:first], "little")
        if start > len(chunk):
            raise BadRequest(
                f"{where}: string {len(strings)} is cut off; each has its length in front, 4 bytes, "
                "little-endian"
            )
        strings.append(bytes(chunk[first:start]))
    return np.array(strings, dtype)
