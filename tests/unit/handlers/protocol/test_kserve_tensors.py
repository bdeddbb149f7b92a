"""Tensors of KServe v2 requests: shapes, values and binary data that do not fit are refused."""

import math
import struct
from typing import Any

import numpy as np
import pytest

from handlers.protocol.errors import BadRequest, TooLarge
from handlers.protocol.kserve import DTYPES, read_tensors
from tests.support.kserve_tensors import in_front, read, tensor


@pytest.mark.parametrize(
    "shape",
    [
        *(None, 2, -1, "2", {"0": 2}, [], [None], [[2]], [2.0], [True, 2], [2, "1"]),
        *(
            [0],
            [0, 10**30],
            [2, 0],
            [-1],
            [-1, 2],
            [2, -1],
            [2**31],
            [10**400],
            [2, *[1] * 32],
            [1] * 100_000,
        ),
    ],
)
def test_a_shape_that_is_no_list_of_positive_numbers_is_refused(shape: Any) -> None:
    with pytest.raises(
        BadRequest, match="'shape' must be a list of 1 to 32 whole numbers from 1 to 2147483647"
    ):
        read(shape, "INT8", [1, 2])


@pytest.mark.parametrize("shape", [[-1, 1], [-1, -1], -2, [-2], [0], None])
def test_only_a_lone_minus_one_leaves_the_number_of_strings_open(shape: Any) -> None:
    with pytest.raises(BadRequest, match="'shape' must be a list"):
        read(shape, "BYTES", ["a"])


def test_no_strings_at_all_are_no_request() -> None:
    with pytest.raises(BadRequest, match="'shape' must be a list"):
        read(-1, "BYTES", [])


@pytest.mark.parametrize(
    ("shape", "data", "words"),
    [
        ([2, 2], [1, 2, 3], r"the shape \[2, 2\] has 4 values, but 3 were sent"),
        ([1], [], r"the shape \[1\] has 1 values, but 0 were sent"),
        ([2, 2], [[1, 2], [3, 4, 5]], "has 4 values, but 5 were sent"),
        ([1, 2**31 - 1, 2**31 - 1], [1, 2], "has 4,611,686,014,132,420,609 values, but 2 were sent"),
        ([1] + [2**31 - 1] * 31, [1], "values, but 1 were sent"),
    ],
)
def test_a_shape_that_its_values_don_t_fill_is_refused_with_both_counts(
    shape: list, data: list, words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        read(shape, "INT8", data)


@pytest.mark.parametrize("data", [[[1], [2]], [1, [2]], [[1], 2], [[[1]], [[2]]]])
def test_nesting_deeper_than_the_shape_or_uneven_is_refused(data: list) -> None:
    with pytest.raises(
        BadRequest, match="must hold whole numbers, flat or nested like its shape, not deeper lists"
    ):
        read([2], "INT32", data)


@pytest.mark.parametrize("datatype", ["UINT8", "INT64", "FP32", "BOOL", "BYTES"])
@pytest.mark.parametrize("shape", [[1], [1] * 32])
def test_endless_nesting_is_refused_without_recursion(datatype: str, shape: list) -> None:
    data: list = [1]
    for _ in range(100_000):
        data = [data]

    with pytest.raises(BadRequest, match="deeper lists"):
        read(shape, datatype, data)


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("UINT8", [1, True], "whole numbers, .* not true or false"),
        ("INT64", [1, "2"], "whole numbers, .* not strings"),
        ("INT64", [1, None], "whole numbers, .* not null"),
        ("INT64", [1, {}], "whole numbers, .* not objects"),
        ("INT64", [1, 2.0], "whole numbers, .* not decimal numbers"),
        ("UINT8", [1, 2.5], "whole numbers, .* not decimal numbers"),
        ("UINT8", [1, math.nan], "whole numbers, .* not decimal numbers"),
        ("FP32", [1, True], "decimal numbers or whole numbers, .* not true or false"),
        ("FP64", [0.5, "1"], "decimal numbers or whole numbers, .* not strings"),
        ("FP32", [0.5, None], "not null"),
        ("BOOL", [True, 1], "true or false, .* not whole numbers"),
        ("BYTES", ["a", 1], "strings, .* not whole numbers"),
        ("BYTES", ["a", None], "strings, .* not null"),
        ("INT64", "12", "whole numbers, .* not strings"),
        ("INT64", 12, "'data' must be a list"),
        ("BYTES", {"b64": "x"}, "'data' must be a list"),
        ("FP32", [1, math.nan], "finite numbers within FP32"),
        ("FP64", [1, math.inf], "finite numbers within FP64"),
        ("FP64", [1, -math.inf], "finite numbers within FP64"),
        ("FP32", [1, 1e39], "finite numbers within FP32"),
        ("FP32", [1, 10**39], "finite numbers within FP32"),
        ("FP32", [1, 10**399], "out of the range of FP32"),
        ("FP64", [1, 10**399], "out of the range of FP64"),
        ("UINT8", [1, 10**399], "out of the range of UINT8"),
        ("INT64", [1, 10**399], "out of the range of INT64"),
        ("BF16", [1, 2], "'datatype' must be one of BOOL, UINT8, .* BYTES"),
        ("fp32", [1, 2], "'datatype' must be one of"),
        (None, [1, 2], "'datatype' must be one of"),
        (["FP32"], [1, 2], "'datatype' must be one of"),
    ],
)
def test_a_value_that_its_datatype_doesn_t_have_is_refused(datatype: Any, data: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read([2], datatype, data)


@pytest.mark.parametrize("name", [name for name in DTYPES if "INT" in name])
def test_integer_bounds_of_each_datatype(
    name: str,
) -> None:
    """An integer just outside its datatype is refused, and the last one inside is read."""
    limits = np.iinfo(DTYPES[name])

    assert [element.item() for element in read([2], name, [int(limits.min), int(limits.max)])] == [
        limits.min,
        limits.max,
    ]
    for outside in (int(limits.min) - 1, int(limits.max) + 1):
        with pytest.raises(BadRequest, match=f"out of the range of {name}"):
            read([2], name, [0, outside])


@pytest.mark.parametrize(
    ("datatype", "binary", "words"),
    [
        ("INT16", b"\x00" * 3, "values of 2 bytes each"),
        ("INT16", b"\x00" * 6, "has 2 values, but 3 were sent"),
        ("INT16", b"", "has 2 values, but 0 were sent"),
        ("BOOL", b"\x01\x02", "BOOL is 0 or 1"),
        ("FP32", struct.pack("<2f", 1, math.nan), "finite numbers within FP32"),
        ("FP16", struct.pack("<2e", 1, -math.inf), "finite numbers within FP16"),
        ("BYTES", in_front(b"a"), "has 2 values, but 1 were sent"),
        ("BYTES", in_front(b"a", b"b", b"c"), "has 2 values, but 3 were sent"),
        ("BYTES", in_front(b"a", b"b")[:-1], "string 1 is cut off"),
        ("BYTES", in_front(b"a", b"b") + b"\x00\x00\x00", "string 2 is cut off"),
        ("BYTES", b"\xff\xff\xff\xff", "string 0 is cut off"),
    ],
)
def test_binary_data_that_doesn_t_fill_its_shape_is_refused(datatype: str, binary: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read([2], datatype, binary=binary)


@pytest.mark.parametrize("size", [3, -1, 2.0, "2", True, [2], 10**30])
def test_a_binary_data_size_that_is_no_number_of_bytes_at_hand_is_refused(size: Any) -> None:
    with pytest.raises(BadRequest, match="2 bytes are left behind the JSON"):
        read_tensors({"inputs": [tensor([2], "INT8", parameters={"binary_data_size": size})]}, b"\x01\x02")


def test_several_strings_per_instance_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"BYTES must have the shape \[N\] or \[N, 1\]"):
        read([1, 2], "BYTES", ["a", "b"])


@pytest.mark.parametrize(
    ("shape", "datatype", "data", "binary"),
    [
        ([10_001], "UINT8", [0] * 10_001, None),
        ([10**9, 10**9], "UINT8", [0], None),
        (-1, "BYTES", ["a"] * 10_001, None),
        ([-1], "BYTES", None, in_front(b"") * 10_001),
    ],
)
def test_more_instances_than_the_limit_are_too_large(
    shape: Any, datatype: str, data: Any, binary: bytes | None
) -> None:
    with pytest.raises(TooLarge, match="instances in one request; send at most 10,000"):
        read(shape, datatype, data, binary)


def test_strings_beyond_the_limit_are_not_even_read() -> None:
    with pytest.raises(TooLarge):
        read(-1, "BYTES", binary=in_front(b"") * 10_001 + b"\xff\xff\xff\xff")


def test_as_many_instances_as_the_limit_are_read() -> None:
    assert (
        len(read([10_000], "UINT8", [0] * 10_000))
        == len(read(-1, "BYTES", binary=in_front(b"") * 10_000))
        == 10_000
    )
