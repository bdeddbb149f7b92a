"""Tensors of KServe v2 requests."""

import struct
from typing import Any

from handlers.protocol.kserve import read_tensors


def tensor(shape: Any, datatype: Any, data: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "shape": shape,
        "datatype": datatype,
        **({} if data is None else {"data": data}),
        **more,
    }


def read(shape: Any, datatype: Any, data: Any = None, binary: bytes | None = None) -> list[Any]:
    """The elements of a request with the one input x, its values in the JSON or behind it."""
    more = {} if binary is None else {"parameters": {"binary_data_size": len(binary)}}
    return [
        one["x"]
        for one in read_tensors({"inputs": [tensor(shape, datatype, data, **more)]}, binary or b"").instances
    ]


def in_front(*strings: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(string)) + string for string in strings)
