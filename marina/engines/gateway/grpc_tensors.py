"""Tensors of the Open Inference Protocol's gRPC messages <-> bytes and JSON."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from handlers.protocol.errors import BadRequest
from handlers.protocol.kserve import DTYPES
from marina.engines.gateway.open_inference import tensor_bytes

# datatype -> the field of a message that holds its values
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def input_bytes(tensor: Any) -> bytes:
    """The values of an input, little-endian. Raises BadRequest where they stand in another type's field."""
    where, field = f"input {tensor.name[:40]!r}", CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadRequest(
            f"{where}: there is no field for values of {tensor.datatype[:20]!r}; send raw_input_contents"
        )
    values = getattr(tensor.contents, field)
    others = [other.name for other, _ in tensor.contents.ListFields() if other.name != field]
    if others:
        raise BadRequest(f"{where}: {tensor.datatype} belongs into {field}, not into {others[0]}")
    if field == "bytes_contents":
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    try:
        return np.array(values, DTYPES[tensor.datatype].newbyteorder("<")).tobytes()
    except OverflowError:
        raise BadRequest(f"{where}: a number is out of the range of {tensor.datatype}") from None


def output_tensor(response: Any, output: Mapping[str, Any], as_bytes: bool) -> None:
    """Add an output in its JSON form to the response, its values as raw bytes or in its type's field."""
    added = response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
    if as_bytes:
        response.raw_output_contents.append(tensor_bytes(output))
        return
    values = output["data"]
    if output["datatype"] == "BYTES":
        values = [text.encode() for text in values]
    getattr(added.contents, CONTENTS[output["datatype"]]).extend(values)
