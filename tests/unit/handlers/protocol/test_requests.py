"""Requests as TorchServe hands them over, and what is refused."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from handlers.inputs.payloads import bytes_of, numbers_of, only_key
from handlers.protocol.errors import BadRequest, RequestError, TooLarge
from handlers.protocol.options import Choice, Flag, Mask, Number
from handlers.protocol.requests import MAX_INSTANCES, Request, read_call, read_request

OPTIONS = {"top_k": Number(int, 1, 10, ""), "confidence_threshold": Number(float, 0, 1, "")}


def read(row: dict, headers: dict[str, str], options: dict) -> Request:
    return read_request(row, read_call(headers, options), options)


def payloads(request: Request) -> list[object]:
    return [one.payload for one in request.instances]


@pytest.mark.parametrize(
    "row", [{"body": b"\x89PNG"}, {"data": bytearray(b"\x89PNG")}, {"anything": b"\x89PNG"}]
)
def test_the_payload_is_the_body_or_the_one_form_field_whatever_its_name(row: dict) -> None:
    assert payloads(read(row, {}, OPTIONS)) == [b"\x89PNG"]


@pytest.mark.parametrize("payload", [b"", 0, [], "", False])
def test_an_empty_or_zero_payload_is_a_payload_and_not_a_missing_one(payload: object) -> None:
    assert payloads(read({"body": payload}, {}, OPTIONS)) == [payload]


@pytest.mark.parametrize(
    ("row", "headers"),
    [
        ({"body": b"x"}, {"top-k": "3"}),
        ({"body": b"x"}, {"top_k": "3"}),
        ({"data": b"x", "top_k": b"3"}, {}),
        ({"body": {"image": "eA==", "top_k": 3}}, {}),
        ({"body": b'{"image": "eA==", "top_k": 3}'}, {}),
    ],
)
def test_an_option_comes_as_header_form_field_or_json_key(row: dict, headers: dict) -> None:
    assert read(row, headers, OPTIONS).instances[0].options == {"top_k": 3}


@pytest.mark.parametrize("value", ["0", "11", "3.5", "many", "", "1e999", True, None, [3], 2.5])
def test_an_option_out_of_its_bounds_is_refused_with_the_bounds(value: object) -> None:
    with pytest.raises(BadRequest, match="top_k must be a whole number from 1 to 10"):
        read({"body": {"image": "eA==", "top_k": value}}, {}, OPTIONS)


@pytest.mark.parametrize("value", ["nan", "-0.1", "inf", "1.01"])
def test_a_threshold_that_is_no_number_within_0_and_1_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="confidence_threshold must be a number from 0 to 1"):
        read({"body": b"x"}, {"confidence_threshold": value}, OPTIONS)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "has no body"),
        ({"a": b"1", "b": b"2"}, "the fields 'a', 'b'; send one payload"),
        ({"body": b"{"}, "can't be parsed"),
        ({"body": b"[" * 100_000}, "can't be parsed"),
        ({"body": {"instances": []}}, "at least one element"),
        ({"body": {"instances": 3}}, "must be a list"),
        ({"body": {"instances": [1], "other": 2}}, "unknown keys beside 'instances': 'other'"),
    ],
)
def test_request_without_exactly_one_payload_is_refused(row: dict, words: str) -> None:
    """A request without exactly one payload is refused and says what to send."""
    with pytest.raises(BadRequest, match=words):
        read(row, {}, OPTIONS)


def test_instances_keep_their_order() -> None:
    request = read({"body": {"instances": [[1], [2]]}}, {}, OPTIONS)

    assert payloads(request) == [[1], [2]]
    assert [one.position for one in request.instances] == [0, 1]
    assert request.protocol == "v1"


def test_more_instances_than_the_limit_are_too_large() -> None:
    with pytest.raises(TooLarge, match="send at most 10,000"):
        read({"body": {"instances": [0] * (MAX_INSTANCES + 1)}}, {}, OPTIONS)


def test_base64_is_read_with_and_without_a_data_url_in_front() -> None:
    text = base64.b64encode(b"\x00\xffpixels").decode()

    assert bytes_of(text) == bytes_of("data:image/png;base64," + text) == b"\x00\xffpixels"


@pytest.mark.parametrize("payload", ["not base64!", {"b64": 1}, 3, None])
def test_what_is_neither_bytes_nor_base64_is_refused(payload: object) -> None:
    with pytest.raises(BadRequest):
        bytes_of(payload)


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadRequest, match="unknown keys: 'obs'; known: observation"):
        only_key({"obs": 1}, "observation")


@pytest.mark.parametrize(
    "value",
    [
        "x",
        None,
        [1, 2],
        [[1, 2, 3]],
        [1, "2", 3],
        [1, True, 3],
        [1, None, 3],
        [1, float("nan"), 3],
        [1, float("inf"), 3],
        [1, 10**400, 3],
    ],
)
def test_observation_of_wrong_shape_or_not_finite_is_refused(value: object) -> None:
    """An observation of another shape, or with numbers that are not finite, is refused."""
    with pytest.raises(BadRequest, match="observation"):
        numbers_of(value, (3,), "observation")


def test_numbers_come_in_row_order() -> None:
    assert numbers_of(json.loads("[[1, 2], [3, 4.5]]"), (2, 2), "x").tolist() == [[1, 2], [3, 4.5]]


def test_an_option_of_one_instance_goes_before_the_requests_own() -> None:
    body = {"instances": [{"image": "eA==", "top_k": 2}, {"image": "eA=="}], "top_k": 5}

    assert [one.options["top_k"] for one in read({"body": body}, {"top_k": "9"}, OPTIONS).instances] == [2, 5]


def test_a_tensors_rows_are_the_instances_and_parameters_are_options() -> None:
    body = {
        "id": "a",
        "inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}],
        "parameters": {"top_k": 3},
    }

    request = read({"body": body}, {}, OPTIONS)

    assert request.tensors
    assert (request.protocol, request.tensors.request_id) == ("v2", "a")
    assert [one.payload.tolist() for one in request.instances] == [[1, 2, 3], [4, 5, 6]]
    assert [one.options for one in request.instances] == [{"top_k": 3}, {"top_k": 3}]


def test_an_option_as_a_tensor_counts_row_by_row() -> None:
    inputs = [
        {"name": "anything", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
        {"name": "top_k", "shape": [2], "datatype": "INT64", "data": [4, 7]},
        {
            "name": "allowed",
            "shape": [2, 3],
            "datatype": "BOOL",
            "data": [True, False, True, True, True, True],
        },
    ]

    instances = read({"body": {"inputs": inputs}}, {}, {**OPTIONS, "allowed": Mask(3, "")}).instances

    assert [one.options for one in instances] == [
        {"top_k": 4, "allowed": (True, False, True)},
        {"top_k": 7, "allowed": (True,) * 3},
    ]
    assert [one.payload["data"].tolist() for one in instances] == [[1, 2], [3, 4]]


def test_an_unknown_parameter_is_ignored_and_named() -> None:
    body = {
        "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}],
        "parameters": {"top_p": 3, "top_k": 2, "priority": 1, "content_type": "np"},
    }

    request = read({"body": body}, {}, OPTIONS)

    assert request.tensors
    assert request.tensors.ignored == ("content_type", "top_p")
    assert request.instances[0].options == {"top_k": 2}


@pytest.mark.parametrize("name", ["topk", "top-k", "Top_K", "top_kk", "topK ", "top.k"])
def test_a_misspelt_parameter_is_refused_with_the_right_name(name: str) -> None:
    """An option of ours that is ignored would be an answer to another question."""
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}

    with pytest.raises(BadRequest, match=f"no parameter '{name}'; did you mean top_k"):
        read({"body": {"inputs": [tensor], "parameters": {name: 3}}}, {}, OPTIONS)


@pytest.mark.parametrize(
    ("body", "headers", "is_v2"),
    [
        ({"inputs": []}, {}, True),
        (b'{"inputs": 3}', {}, True),
        (b"{", {"inference-header-content-length": "1"}, True),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]}, {"top_k": "x"}, True),
        ({"instances": []}, {}, False),
        (b"{", {}, False),
    ],
)
def test_a_refusal_knows_whether_its_call_was_v2(body: Any, headers: dict[str, str], is_v2: bool) -> None:
    """Clients of that protocol read the words of an error under a key of its own."""
    with pytest.raises(RequestError) as refused:
        read({"body": body}, headers, OPTIONS)

    assert refused.value.is_v2 == is_v2


@pytest.mark.parametrize("value", [[True, False, 1], [1, 0, 1], "1,0,1", "[true, false, true]", b"1,0,1"])
def test_a_mask_is_a_list_of_truths_or_its_text(value: object) -> None:
    assert Mask(3, "").read("action_mask", value) == (True, False, True)


@pytest.mark.parametrize(
    "value",
    [
        [1, 0],
        [0, 0, 0],
        [1, 2, 0],
        [1, None, 0],
        "1,0",
        "yes",
        "[" * 100_000,
        3,
        None,
        {},
        [[1], [0], [1]],
        [1.5, 0, 1],
    ],
)
def test_a_wrong_mask_is_refused_by_name(value: object) -> None:
    with pytest.raises(BadRequest, match="action_mask"):
        Mask(3, "").read("action_mask", value)


@pytest.mark.parametrize(
    ("value", "truth"), [(True, True), (False, False), ("true", True), ("FALSE", False), (b"true", True)]
)
def test_a_flag_is_a_truth_or_its_word(value: object, truth: bool) -> None:
    assert Flag("").read("deterministic", value) is truth


@pytest.mark.parametrize("value", [1, 0, None, "yes", "", [], {}])
def test_a_wrong_flag_is_refused_by_name(value: object) -> None:
    with pytest.raises(BadRequest, match="deterministic must be true or false"):
        Flag("").read("deterministic", value)


def test_a_choice_is_one_of_its_words() -> None:
    assert Choice(("json", "png"), "").read("format", "PNG") == "png"
    with pytest.raises(BadRequest, match="format must be json or png, not 'gif'"):
        Choice(("json", "png"), "").read("format", "gif")


@pytest.mark.parametrize(
    ("row", "dtype"), [(np.array([1, 2], np.int32), "i"), (np.array([1.5, 2], np.float32), "f")]
)
def test_the_row_of_a_tensor_is_taken_as_it_is(row: np.ndarray, dtype: str) -> None:
    assert numbers_of(row, (2,), "x").dtype.kind == dtype


@pytest.mark.parametrize(
    "row", [np.array([1, 2, 3]), np.array([np.nan, 1]), np.array([np.inf, 1]), np.array([True, False])]
)
def test_tensor_row_of_wrong_shape_or_not_finite_is_refused(row: np.ndarray) -> None:
    """A tensor's row of another shape, or with numbers that are not finite, is refused."""
    with pytest.raises(BadRequest, match="observation"):
        numbers_of(row, (2,), "observation")
