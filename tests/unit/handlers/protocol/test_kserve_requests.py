"""KServe v2 requests as a whole: what is read, and which form is refused."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from handlers.protocol.errors import BadRequest, RequestError
from handlers.protocol.kserve import DTYPES, read_tensors, split_binary
from tests.support.kserve_tensors import in_front, read, tensor


def test_request_gives_instances_parameters_and_id() -> None:
    """A request gives one dict per instance, its own parameters, and its id."""
    parameters = {"top_k": 3, "priority": 1, "timeout": 9, "binary_data_output": True}
    sequence = {"sequence_id": 1, "sequence_start": True, "sequence_end": False}
    pixels = {
        "name": "pixels",
        "shape": [2, 1, 2],
        "datatype": "UINT8",
        "data": [1, 2, 3, 4],
        "parameters": {"content_type": "np"},
    }
    labels = {"name": "labels", "shape": [2], "datatype": "BYTES", "data": ["one", "two"]}
    outputs = [{"name": "class", "parameters": {"binary_data": False}}]
    request = read_tensors(
        {"id": "7", "parameters": parameters | sequence, "inputs": [pixels, labels], "outputs": outputs}
    )

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
def test_each_datatype_is_read_from_json_and_from_little_endian_bytes(
    datatype: str, values: list, bytes_: bytes
) -> None:
    for elements in (read([2], datatype, values), read([2], datatype, binary=bytes_)):
        assert [element.item() for element in elements] == values
        assert [(element.shape, element.dtype) for element in elements] == [((), DTYPES[datatype])] * 2


def test_half_precision_comes_as_binary_data_only() -> None:
    (element,) = read([1, 2], "FP16", binary=b"\x00\x3c\x00\xc1")

    assert (element.dtype, element.tolist()) == (np.float16, [1.0, -2.5])
    with pytest.raises(BadRequest, match="FP16, which JSON has no form for, must be binary data"):
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
    [
        *(([2], ["a", "ü"]), ([2, 1], ["a", "ü"]), ([2, 1], [["a"], ["ü"]])),
        *(([-1], ["a", "ü"]), (-1, ["a", "ü"])),
    ],
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
    assert [(one["a"].tolist(), one["b"].tolist(), one["c"]) for one in instances] == [
        ([1], 8, b""),
        ([2], 9, b"xyz"),
    ]


def test_json_alone_may_be_the_whole_body() -> None:
    assert split_binary(b"{}", "2") == (b"{}", b"")


@pytest.mark.parametrize("header", ["", "x", "-1", "+1", "1.0", "1_0", "0", "7", "٣", "9" * 5000, "nan"])
def test_invalid_header_length_is_refused_with_the_bounds(header: str) -> None:
    """A header length that does not lie within the body is refused with the bounds."""
    with pytest.raises(BadRequest, match="must be the JSON's bytes, 1 to 6, not") as refused:
        split_binary(b"{}abcd", header)

    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": []}, "list of at least one tensor"),
        ({"inputs": None}, "list of at least one tensor"),
        ({"inputs": {"x": 1}}, "list of at least one tensor"),
        ({"inputs": [3]}, "list of at least one tensor"),
        (
            {"instances": [], "model": "m"},
            "both 'inputs' and 'instances'",
        ),
        ({"id": 3}, "'id' must be a string"),
        ({"outputs": {}}, "'outputs' must be a list"),
        ({"outputs": ["y"]}, "'outputs' must be a list"),
        ({"outputs": [{"name": 3}]}, "'outputs' must be a list"),
        ({"outputs": [{"name": "y", "parameters": []}]}, "output 'y': 'parameters' must be an object"),
        ({"outputs": [{"name": "y", "parameters": {"classification": 2}}]}, "classification is not supp"),
        ({"outputs": [{"name": "y", "parameters": {"shared_memory_region": "a"}}]}, "leave it out"),
        ({"parameters": []}, "'parameters' must be an object"),
        ({"parameters": "top_k"}, "'parameters' must be an object"),
        (
            {"inputs": [tensor([1], "INT8", [1]), tensor([1], "INT8", [1])]},
            r"inputs\[1\]: 'name' must be a string that no other",
        ),
        ({"inputs": [{**tensor([1], "INT8", [1]), "name": 3}]}, r"inputs\[0\]: 'name'"),
        ({"inputs": [{**tensor([1], "INT8", [1]), "name": ["x"]}]}, r"inputs\[0\]: 'name'"),
        ({"inputs": [{"shape": [1], "datatype": "INT8", "data": [1]}]}, r"inputs\[0\]: 'name'"),
        (
            {"inputs": [tensor([1], "INT8", [1], dtype="b")]},
            "input 'x' has unknown keys: 'dtype'; known: name, shape, datatype, data",
        ),
        ({"inputs": [tensor([1], "INT8", [1]) | {"": 1}]}, "input 'x' has unknown keys: ''; known: name"),
        ({"inputs": [tensor([1], "INT8", [1], parameters=[1])]}, "input 'x': 'parameters' must be an object"),
        (
            {"inputs": [tensor([1], "INT8", [1], parameters={"binary_data_size": 1})]},
            "either as 'data' or as binary data",
        ),
        ({"inputs": [tensor([1], "INT8")]}, "either as 'data' or as binary data"),
        (
            {"inputs": [tensor([2], "INT8", [1, 2]), {**tensor([1, 2], "INT8", [1, 2]), "name": "y"}]},
            r"input 'y' has 1 instances \(its first dimension\), the first input 2",
        ),
        (
            {"inputs": [tensor([1], "INT8", [1]), {**tensor([2], "INT8", [1, 2]), "name": "y"}]},
            "input 'y' has 2 instances",
        ),
    ],
)
def test_a_request_of_another_form_is_refused_and_told_the_right_one(change: dict, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read_tensors({"inputs": [tensor([1], "INT8", [1])], **change})


@pytest.mark.parametrize("change", [{"n" * 5000: 1}, {"name": "n" * 5000, "data": [0.5]}])
def test_a_long_name_is_cut_short_in_the_message(change: dict) -> None:
    with pytest.raises(BadRequest, match="n" * 40) as refused:
        read_tensors({"inputs": [{**tensor([1], "INT8", [1]), **change}]})

    assert len(str(refused.value)) < 300


def test_a_body_without_inputs_is_refused() -> None:
    with pytest.raises(BadRequest, match="'inputs' must be a list"):
        read_tensors({"id": "7"})


def test_binary_data_that_no_input_claims_is_refused() -> None:
    with pytest.raises(BadRequest, match="2 bytes of binary data belong to no input"):
        read_tensors({"inputs": [tensor([1], "INT8", parameters={"binary_data_size": 1})]}, b"\x01\x02\x03")


def test_a_body_of_random_junk_is_read_or_refused_and_never_breaks() -> None:
    random = np.random.default_rng(1)
    junk = [
        None,
        True,
        0,
        -1,
        1,
        2,
        1.5,
        math.nan,
        10**400,
        "",
        "x",
        "FP32",
        "BYTES",
        "\ud800",
        [],
        [1],
        [[1]],
        [-1],
        ["a"],
        {},
        {"x": 1},
    ]
    keys = ["name", "shape", "datatype", "data", "parameters", "inputs", "id", "binary_data_size"]
    read_ones, words = 0, []
    for _ in range(5000):
        one = tensor([2], str(random.choice(list(DTYPES))), [1, 0])
        for _ in range(random.integers(0, 3)):
            one[str(random.choice(keys))] = junk[random.integers(len(junk))]
        body = {
            "inputs": [one],
            **({str(random.choice(keys)): junk[random.integers(len(junk))]} if random.random() < 0.2 else {}),
        }
        try:
            read_ones += len(read_tensors(body, b"\x01" * int(random.integers(0, 3))).instances) > 0
        except RequestError as refusal:
            words.append(str(refusal))

    assert read_ones > 100
    assert len(words) > 100
    assert max(map(len, words)) < 500
