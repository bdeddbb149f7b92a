"""Hypothesis strategies: values, options, tensors and whole documents, valid and invalid; damaged files.

Each test runs the same few hundred examples every time. With `MARINA_EXAMPLES=20000` before `pytest
tests/unit/handlers/protocol/test_request_properties.py` it runs that many random ones; a failure is printed
with the decorator that reproduces it.
"""

import json
import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from handlers.protocol.kserve import DTYPES
from handlers.protocol.options import Choice, Flag, Mask, Number, Option
from tests.support.picture_files import drawn, encoded

MANY = int(os.environ.get("MARINA_EXAMPLES", "0"))


def tried(few: int) -> settings:
    """So many examples, the same at each run, unless MARINA_EXAMPLES says otherwise."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(
        max_examples=MANY or few,
        derandomize=not MANY,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=slow,
    )


def cells(texts: list[str]) -> st.SearchStrategy[Any]:
    """What a caller may send in the place of a table's cell; `texts` are near to sound ones."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=12),
        st.sampled_from(texts),
        st.lists(st.integers(), max_size=2),
        st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    )


OPTIONS: dict[str, Option] = {
    "top_k": Number(int, 1, 10, ""),
    "confidence_threshold": Number(float, 0, 1, ""),
    "seed": Number(int, 0, 2**63 - 1, ""),
    "deterministic": Flag(""),
    "action_mask": Mask(2, ""),
    "format": Choice(("json", "png"), ""),
}
KEYS = (
    "data",
    "image",
    "b64",
    "observation",
    "instances",
    "inputs",
    "parameters",
    "id",
    "outputs",
    "binary_data_size",
    *OPTIONS,
)
TENSOR_KEYS = ("name", "shape", "datatype", "data", "parameters")

numbers = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.sampled_from(
        [10**400, -(10**400), 2**31, 2**63, 2**64, 1e39, 1e308, float("nan"), float("inf"), -0.0, 5e-324]
    ),
    st.floats(),
)
words = st.one_of(
    st.sampled_from(
        ["", "aGVsbG8=", "data:image/png;base64,", "true", "1", "0,1", "[1,0]", "nan", "x", *DTYPES]
    ),
    st.text(max_size=8),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, words, st.characters(categories=["Cs"]))
keys = st.one_of(st.sampled_from([*KEYS, *TENSOR_KEYS]), st.text(max_size=3))
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
four = st.lists(st.floats(-5, 5) | numbers, min_size=4, max_size=4)


def either(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what it should be, sometimes anything."""
    return st.integers(0, 9).flatmap(lambda chance: values if chance == 9 else right)


@st.composite
def tensors(draw: Callable[..., Any]) -> dict[str, Any]:
    """A tensor of KServe v2 that is right, or wrong in one key."""
    datatype, shape = (
        draw(st.sampled_from(sorted(DTYPES))),
        draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)),
    )
    shape = shape[:1] if datatype == "BYTES" else shape
    one = {"b": st.booleans(), "O": words, "f": st.integers(-9, 9) | st.floats(-9, 9) | numbers}.get(
        DTYPES[datatype].kind, st.integers(0, 127)
    )
    count = int(np.prod(shape))
    name = draw(st.sampled_from(["x", "y", "top_k", "action_mask"]))
    tensor = {
        "name": name,
        "shape": shape,
        "datatype": datatype,
        "data": draw(st.lists(one, min_size=count, max_size=count)),
    }
    if draw(st.integers(0, 3)) == 3:
        tensor[draw(st.sampled_from(["name", "shape", "datatype", "data", "data", "parameters", "more"]))] = (
            draw(values)
        )
    if draw(st.integers(0, 3)) == 3:
        del tensor["data"]
        tensor["parameters"] = {
            "binary_data_size": draw(st.just(count * DTYPES[datatype].itemsize) | st.integers(-1, 40))
        }
    return tensor


requests_v2 = st.fixed_dictionaries(
    {
        "inputs": either(
            st.lists(tensors(), min_size=1, max_size=2, unique_by=lambda tensor: str(tensor["name"]))
        )
    },
    optional={
        "parameters": either(st.just({"top_k": 3})),
        "id": either(words),
        "outputs": either(st.just([])),
    },
)
own = st.fixed_dictionaries(
    {"observation": either(four)},
    optional={"deterministic": either(st.just(True)), "action_mask": either(st.just([1, 0])), "x": leaves},
)
requests_v1 = st.fixed_dictionaries(
    {"instances": either(st.lists(own | four, min_size=1, max_size=4))},
    optional={"deterministic": either(st.just("true")), "x": leaves},
)
documents: st.SearchStrategy[Any] = st.one_of(values, own, four, requests_v1, requests_v2)

option_values = st.one_of(
    st.integers(0, 11)
    | st.floats(0, 1)
    | st.booleans()
    | st.lists(st.sampled_from([0, 1, True, False]), max_size=3),
    st.sampled_from(
        [
            "TRUE",
            "false",
            "JSON",
            "png",
            "0,1",
            "[true, false]",
            " 7 ",
            "0.25",
            "1e-3",
            b"3",
            b"true",
            b"\xff",
        ]
    ),
    values | words | st.binary(max_size=6),
)


def as_json(value: Any) -> bytes:
    """JSON as Python writes it: with NaN, and with surrogates escaped."""
    return json.dumps(value).encode()


FILES = [
    *(encoded(drawn(21, 17), form) for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")),
    encoded(drawn(21, 17), "JPEG", progressive=True),
    encoded(drawn(21, 17, "CMYK"), "JPEG"),
    *(encoded(drawn(21, 17, mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
    encoded(drawn(21, 17), "PNG", transparency=(1, 2, 3), pnginfo=None),
    encoded(drawn(21, 17), "GIF", save_all=True, append_images=[drawn(21, 17).rotate(90)], transparency=1),
    encoded(drawn(21, 17), "WEBP", lossless=True, save_all=True, append_images=[drawn(21, 17).rotate(90)]),
    *(
        encoded(drawn(21, 17, mode), "TIFF")
        for mode in ("1", "P", "LA", "RGBA", "CMYK", "F", "I", "I;16", "YCbCr")
    ),
    *(
        encoded(drawn(21, 17), "TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ),
    encoded(drawn(21, 17, "1"), "TIFF", compression="group4"),
    *(encoded(drawn(21, 17, mode), "BMP") for mode in ("1", "P", "RGBA")),
]
for _form in ("JPEG", "PNG", "WEBP", "TIFF"):
    _exif = Image.Exif()
    _exif[274], _exif[282], _exif.get_ifd(0x8769)[37510] = 6, 72.0, b"hello"
    FILES.append(encoded(drawn(21, 17), _form, exif=_exif))


def mended(data: bytes) -> bytes:
    """A PNG whose chunks have their right checksums again, so that what is wrong with them is read."""
    out, start = bytearray(data[:8]), 8
    while start + 12 <= len(data) and (
        end := start + 8 + int.from_bytes(data[start : start + 4], "big")
    ) + 4 <= len(data):
        out += data[start:end] + zlib.crc32(data[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
    return bytes(out) + data[start:]


@st.composite
def damaged(draw: Callable[..., Any], whole: st.SearchStrategy[bytes]) -> bytes:
    """Some bytes overwritten, cut out, put in, or repeated; most often near the beginning, where the
    headers are.
    """
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(8, 120) | st.integers(0, len(data)))
        new = draw(
            st.sampled_from([b"\0", b"\xff", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
            | st.binary(max_size=4)
        )
        how = draw(st.integers(0, 9))
        if how == 9:
            del data[place:]
        elif how == 8:
            data[place : place + draw(st.integers(0, 8))] = new
        else:
            data[place : place + len(new)] = new
    return mended(bytes(data)) if data[:4] == b"\x89PNG" and draw(st.booleans()) else bytes(data)


pictures = damaged(st.sampled_from(FILES))
