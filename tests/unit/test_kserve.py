"""KServe v2 requests: tensors in, and what is refused."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
import torch

from bundle_errors import NotUnderstood, Refusal, TooLarge
from bundle_kserve import DTYPES, read_tensors, split_binary


def tensor(shape: Any, datatype: Any, data: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": shape, "datatype": datatype, **({} if data is None else {"data": data}), **more}


def read(shape: Any, datatype: Any, data: Any = None, binary: bytes | None = None) -> list[Any]:
    """The elements of a request with the one input x, its values in the JSON or behind it."""
    more = {} if binary is None else {"parameters": {"binary_data_size": len(binary)}}
    return [one["x"] for one in read_tensors({"inputs": [tensor(shape, datatype, data, **more)]}, binary or b"").instances]


def in_front(*strings: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(string)) + string for string in strings)


def test_a_request_gives_one_dict_per_instance_its_own_parameters_and_its_id() -> None:
    parameters = {"top_k": 3, "priority": 1, "timeout": 9, "binary_data_output": True}
    sequence = {"sequence_id": 1, "sequence_start": True, "sequence_end": False}
    pixels = {"name": "pixels", "shape": [2, 1, 2], "datatype": "UINT8", "data": [1, 2, 3, 4], "parameters": {"content_type": "np"}}
    labels = {"name": "labels", "shape": [2], "datatype": "BYTES", "data": ["one", "two"]}
    outputs = [{"name": "class", "parameters": {"binary_data": False}}]
    request = read_tensors({"id": "7", "parameters": parameters | sequence, "inputs": [pixels, labels], "outputs": outputs})

    assert request.request_id == "7"
    assert request.parameters == {"top_k": 3}
    assert [list(instance) for instance in request.instances] == [["pixels", "labels"]] * 2
    assert [instance["labels"] for instance in request.instances] == ["one", "two"]
    assert [instance["pixels"].tolist() for instance in request.instances] == [[[1, 2]], [[3, 4]]]


def test_id_parameters_and_outputs_may_be_absent_or_null() -> None:
    inputs = [tensor([1], "INT8", [1])]
    request = read_tensors({"inputs": inputs})

    assert request == read_tensors({"inputs": inputs, "id": None, "parameters": None, "outputs": None})
    assert (request.request_id, request.parameters) == (None, {})


@pytest.mark.parametrize(
    ("datatype", "values", "bytes_"),
    [
        ("BOOL", [True, False], b"\x01\x00"),
        ("UINT8", [0, 255], b"\x00\xff"),
        ("UINT16", [1, 65535], b"\x01\x00\xff\xff"),
        ("UINT32", [1, 2**32 - 1], b"\x01\x00\x00\x00\xff\xff\xff\xff"),
        ("UINT64", [1, 2**64 - 1], b"\x01\x00\x00\x00\x00\x00\x00\x00" + b"\xff" * 8),
        ("INT8", [-128, 127], b"\x80\x7f"),
        ("INT16", [-2, 258], b"\xfe\xff\x02\x01"),
        ("INT32", [-2, 258], b"\xfe\xff\xff\xff\x02\x01\x00\x00"),
        ("INT64", [-(2**63), 2**63 - 1], b"\x00" * 7 + b"\x80" + b"\xff" * 7 + b"\x7f"),
        ("FP32", [1, -2.5], b"\x00\x00\x80\x3f\x00\x00\x20\xc0"),
        ("FP64", [1, -2.5], b"\x00\x00\x00\x00\x00\x00\xf0\x3f\x00\x00\x00\x00\x00\x00\x04\xc0"),
    ],
)
def test_each_datatype_is_read_from_json_and_from_little_endian_bytes(datatype: str, values: list, bytes_: bytes) -> None:
    for elements in (read([2], datatype, values), read([2], datatype, binary=bytes_)):
        assert [element.item() for element in elements] == values
        assert [(element.shape, element.dtype) for element in elements] == [((), DTYPES[datatype])] * 2


def test_half_precision_comes_as_binary_data_only() -> None:
    (element,) = read([1, 2], "FP16", binary=b"\x00\x3c\x00\xc1")

    assert (element.dtype, element.tolist()) == (np.float16, [1.0, -2.5])
    with pytest.raises(NotUnderstood, match="FP16, which JSON has no form for, must be binary data"):
        read([1, 2], "FP16", [1.0, -2.5])


def test_flat_nested_and_binary_forms_of_any_array_give_the_same_elements() -> None:
    random = np.random.default_rng(0)
    names = [name for name in DTYPES if name not in {"BYTES", "FP16"}]
    for _ in range(300):
        name = random.choice(names)
        shape = random.integers(1, 5, random.integers(1, 6)).tolist()
        drawn = random.standard_normal(shape) * 50
        array = (abs(drawn) if name.startswith("U") else drawn).astype(DTYPES[name])
        partly = array.reshape(shape[0], -1).tolist() if len(shape) > 1 else array.tolist()
        forms = [
            read(shape, name, json.loads(json.dumps(array.ravel().tolist()))),
            read(shape, name, json.loads(json.dumps(array.tolist()))),
            read(shape, name, partly),
            read(shape, name, binary=array.astype(array.dtype.newbyteorder("<")).tobytes()),
        ]

        for elements in forms:
            assert len(elements) == shape[0]
            for element, row in zip(elements, array, strict=True):
                assert (element.dtype, element.shape) == (array.dtype, row.shape)
                assert np.array_equal(element, row)
                torch.from_numpy(element)  # warns, and so fails here, where an array can't be written to


@pytest.mark.parametrize(
    ("shape", "data"),
    [([2], ["a", "ü"]), ([2, 1], ["a", "ü"]), ([2, 1], [["a"], ["ü"]]), ([-1], ["a", "ü"]), (-1, ["a", "ü"])],
)
def test_strings_are_one_per_instance_and_stay_strings(shape: Any, data: list) -> None:
    assert read(shape, "BYTES", data) == ["a", "ü"]


@pytest.mark.parametrize("shape", [-1, [-1], [1], [1, 1]])
def test_a_single_string_is_a_list_of_one(shape: Any) -> None:
    assert read(shape, "BYTES", "this year business is good") == ["this year business is good"]


@pytest.mark.parametrize("shape", [[3], [3, 1], [-1], -1])
def test_binary_strings_have_their_length_in_front_and_come_as_bytes(shape: Any) -> None:
    binary = b"\x02\x00\x00\x00\x89P" + b"\x00\x00\x00\x00" + b"\x01\x00\x00\x00\x00"
    elements = read(shape, "BYTES", binary=binary)

    assert elements == [b"\x89P", b"", b"\x00"]
    assert {type(element) for element in elements} == {bytes}


def test_binary_data_is_dealt_out_in_the_order_of_the_inputs() -> None:
    document = {
        "inputs": [
            {"name": "a", "shape": [2, 1], "datatype": "INT16", "parameters": {"binary_data_size": 4}},
            {"name": "b", "shape": [2], "datatype": "INT8", "data": [8, 9]},
            {"name": "c", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}},
        ]
    }
    text = json.dumps(document).encode()
    body, binary = split_binary(text + b"\x01\x00\x02\x00" + in_front(b"", b"xyz"), f" {len(text)} ")
    instances = read_tensors(json.loads(body), binary).instances

    assert (body, len(binary)) == (text, 15)
    assert [(one["a"].tolist(), one["b"].tolist(), one["c"]) for one in instances] == [([1], 8, b""), ([2], 9, b"xyz")]


def test_json_alone_may_be_the_whole_body() -> None:
    assert split_binary(b"{}", "2") == (b"{}", b"")


@pytest.mark.parametrize("header", ["", "x", "-1", "+1", "1.0", "1_0", "0", "7", "٣", "9" * 5000, "nan"])
def test_a_header_that_is_no_length_within_the_body_is_refused_with_the_bounds(header: str) -> None:
    with pytest.raises(NotUnderstood, match="must be the JSON's bytes, 1 to 6, not") as refused:
        split_binary(b"{}abcd", header)

    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": []}, "list of at least one tensor"),
        ({"inputs": None}, "list of at least one tensor"),
        ({"inputs": {"x": 1}}, "list of at least one tensor"),
        ({"inputs": [3]}, "list of at least one tensor"),
        ({"instances": [], "model": "m"}, "unknown keys: instances, model; known: inputs, outputs, id, parameters"),
        ({"id": 3}, "'id' must be a string"),
        ({"outputs": {}}, "'outputs' a list"),
        ({"parameters": []}, "'parameters' must be an object"),
        ({"parameters": "top_k"}, "'parameters' must be an object"),
        ({"inputs": [tensor([1], "INT8", [1]), tensor([1], "INT8", [1])]}, r"inputs\[1\]: 'name' must be a string that no other"),
        ({"inputs": [{**tensor([1], "INT8", [1]), "name": 3}]}, r"inputs\[0\]: 'name'"),
        ({"inputs": [{**tensor([1], "INT8", [1]), "name": ["x"]}]}, r"inputs\[0\]: 'name'"),
        ({"inputs": [{"shape": [1], "datatype": "INT8", "data": [1]}]}, r"inputs\[0\]: 'name'"),
        ({"inputs": [tensor([1], "INT8", [1], dtype="b")]}, "input 'x' has unknown keys: dtype; known: name, shape, datatype, data"),
        ({"inputs": [tensor([1], "INT8", [1], parameters=[1])]}, "input 'x': 'parameters' must be an object"),
        ({"inputs": [tensor([1], "INT8", [1], parameters={"binary_data_size": 1})]}, "either as 'data' or as binary data"),
        ({"inputs": [tensor([1], "INT8")]}, "either as 'data' or as binary data"),
        (
            {"inputs": [tensor([2], "INT8", [1, 2]), {**tensor([1, 2], "INT8", [1, 2]), "name": "y"}]},
            r"input 'y' has 1 instances \(its first dimension\), the first input 2",
        ),
        ({"inputs": [tensor([1], "INT8", [1]), {**tensor([2], "INT8", [1, 2]), "name": "y"}]}, "input 'y' has 2 instances"),
    ],
)
def test_a_request_of_another_form_is_refused_and_told_the_right_one(change: dict, words: str) -> None:
    with pytest.raises(NotUnderstood, match=words):
        read_tensors({"inputs": [tensor([1], "INT8", [1])], **change})


@pytest.mark.parametrize("change", [{"n" * 5000: 1}, {"inputs": [{**tensor([1], "INT8", [0.5]), "name": "n" * 5000}]}])
def test_a_long_name_is_cut_short_in_the_message(change: dict) -> None:
    with pytest.raises(NotUnderstood, match="n" * 40) as refused:
        read_tensors({"inputs": [tensor([1], "INT8", [1])], **change})

    assert len(str(refused.value)) < 300


def test_a_body_without_inputs_is_refused() -> None:
    with pytest.raises(NotUnderstood, match="'inputs' must be a list"):
        read_tensors({"id": "7"})


@pytest.mark.parametrize(
    "shape",
    [
        *(None, 2, -1, "2", {"0": 2}, [], [None], [[2]], [2.0], [True, 2], [2, "1"]),
        *([0], [0, 10**30], [2, 0], [-1], [-1, 2], [2, -1], [2**31], [10**400], [2, *[1] * 32], [1] * 100_000),
    ],
)
def test_a_shape_that_is_no_list_of_positive_numbers_is_refused(shape: Any) -> None:
    with pytest.raises(NotUnderstood, match="'shape' must be a list of 1 to 32 whole numbers from 1 to 2147483647"):
        read(shape, "INT8", [1, 2])


@pytest.mark.parametrize("shape", [[-1, 1], [-1, -1], -2, [-2], [0], None])
def test_only_a_lone_minus_one_leaves_the_number_of_strings_open(shape: Any) -> None:
    with pytest.raises(NotUnderstood, match="'shape' must be a list"):
        read(shape, "BYTES", ["a"])


def test_no_strings_at_all_are_no_request() -> None:
    with pytest.raises(NotUnderstood, match="'shape' must be a list"):
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
def test_a_shape_that_its_values_don_t_fill_is_refused_with_both_counts(shape: list, data: list, words: str) -> None:
    with pytest.raises(NotUnderstood, match=words):
        read(shape, "INT8", data)


@pytest.mark.parametrize("data", [[[1], [2]], [1, [2]], [[1], 2], [[[1]], [[2]]]])
def test_nesting_deeper_than_the_shape_or_uneven_is_refused(data: list) -> None:
    with pytest.raises(NotUnderstood, match="must hold whole numbers, flat or nested like its shape, not deeper lists"):
        read([2], "INT32", data)


@pytest.mark.parametrize("datatype", ["UINT8", "INT64", "FP32", "BOOL", "BYTES"])
@pytest.mark.parametrize("shape", [[1], [1] * 32])
def test_endless_nesting_is_refused_without_recursion(datatype: str, shape: list) -> None:
    data: list = [1]
    for _ in range(100_000):
        data = [data]

    with pytest.raises(NotUnderstood, match="deeper lists"):
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
    with pytest.raises(NotUnderstood, match=words):
        read([2], datatype, data)


@pytest.mark.parametrize("name", [name for name in DTYPES if "INT" in name])
def test_a_whole_number_just_outside_of_its_datatype_is_refused_and_the_last_one_inside_is_read(name: str) -> None:
    limits = np.iinfo(DTYPES[name])

    assert [element.item() for element in read([2], name, [int(limits.min), int(limits.max)])] == [limits.min, limits.max]
    for outside in (int(limits.min) - 1, int(limits.max) + 1):
        with pytest.raises(NotUnderstood, match=f"out of the range of {name}"):
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
    with pytest.raises(NotUnderstood, match=words):
        read([2], datatype, binary=binary)


@pytest.mark.parametrize("size", [3, -1, 2.0, "2", True, [2], 10**30])
def test_a_binary_data_size_that_is_no_number_of_bytes_at_hand_is_refused(size: Any) -> None:
    with pytest.raises(NotUnderstood, match="2 bytes are left behind the JSON"):
        read_tensors({"inputs": [tensor([2], "INT8", parameters={"binary_data_size": size})]}, b"\x01\x02")


def test_binary_data_that_no_input_claims_is_refused() -> None:
    with pytest.raises(NotUnderstood, match="2 bytes of binary data belong to no input"):
        read_tensors({"inputs": [tensor([1], "INT8", parameters={"binary_data_size": 1})]}, b"\x01\x02\x03")


def test_several_strings_per_instance_are_refused() -> None:
    with pytest.raises(NotUnderstood, match=r"BYTES must have the shape \[N\] or \[N, 1\]"):
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
def test_more_instances_than_the_limit_are_too_large(shape: Any, datatype: str, data: Any, binary: bytes | None) -> None:
    with pytest.raises(TooLarge, match="instances in one request; send at most 10,000"):
        read(shape, datatype, data, binary)


def test_strings_beyond_the_limit_are_not_even_read() -> None:
    with pytest.raises(TooLarge):
        read(-1, "BYTES", binary=in_front(b"") * 10_001 + b"\xff\xff\xff\xff")


def test_as_many_instances_as_the_limit_are_read() -> None:
    assert len(read([10_000], "UINT8", [0] * 10_000)) == len(read(-1, "BYTES", binary=in_front(b"") * 10_000)) == 10_000


def test_a_body_of_random_junk_is_read_or_refused_and_never_breaks() -> None:
    random = np.random.default_rng(1)
    junk = [None, True, 0, -1, 1, 2, 1.5, math.nan, 10**400, "", "x", "FP32", "BYTES", "\ud800", [], [1], [[1]], [-1], ["a"], {}, {"x": 1}]
    keys = ["name", "shape", "datatype", "data", "parameters", "inputs", "id", "binary_data_size"]
    read_ones, words = 0, []
    for _ in range(5000):
        one = tensor([2], str(random.choice(list(DTYPES))), [1, 0])
        for _ in range(random.integers(0, 3)):
            one[str(random.choice(keys))] = junk[random.integers(len(junk))]
        body = {"inputs": [one], **({str(random.choice(keys)): junk[random.integers(len(junk))]} if random.random() < 0.2 else {})}
        try:
            read_ones += len(read_tensors(body, b"\x01" * int(random.integers(0, 3))).instances) > 0
        except Refusal as refusal:
            words.append(str(refusal))

    assert read_ones > 100
    assert len(words) > 100
    assert max(map(len, words)) < 500
