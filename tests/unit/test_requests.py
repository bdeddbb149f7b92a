"""Requests as TorchServe hands them over, and what is refused."""

import base64
import json

import pytest

from bundle_errors import NotUnderstood, TooLarge
from bundle_requests import MAX_INSTANCES, Option, bytes_of, flat_numbers, only_key, read_request

OPTIONS = {"top_k": Option(int, 1, 10), "confidence_threshold": Option(float, 0, 1)}


@pytest.mark.parametrize("row", [{"body": b"\x89PNG"}, {"data": bytearray(b"\x89PNG")}, {"anything": b"\x89PNG"}])
def test_the_payload_is_the_body_or_the_one_form_field_whatever_its_name(row: dict) -> None:
    assert read_request(row, {}, OPTIONS).instances == [b"\x89PNG"]


@pytest.mark.parametrize("payload", [b"", 0, [], "", False])
def test_an_empty_or_zero_payload_is_a_payload_and_not_a_missing_one(payload: object) -> None:
    assert read_request({"body": payload}, {}, OPTIONS).instances == [payload]


@pytest.mark.parametrize(
    ("row", "headers"),
    [
        ({"body": b"x"}, {"Top-K": "3"}),
        ({"body": b"x"}, {"top_k": "3"}),
        ({"data": b"x", "top_k": b"3"}, {}),
        ({"body": {"image": "eA==", "top_k": 3}}, {}),
        ({"body": b'{"image": "eA==", "top_k": 3}'}, {}),
    ],
)
def test_an_option_comes_as_header_form_field_or_json_key(row: dict, headers: dict) -> None:
    assert read_request(row, headers, OPTIONS).options == {"top_k": 3}


@pytest.mark.parametrize("value", ["0", "11", "3.5", "many", "", "1e999", True, None, [3], 2.5])
def test_an_option_out_of_its_bounds_is_refused_with_the_bounds(value: object) -> None:
    with pytest.raises(NotUnderstood, match="top_k must be a whole number from 1 to 10"):
        read_request({"body": {"image": "eA==", "top_k": value}}, {}, OPTIONS)


@pytest.mark.parametrize("value", ["nan", "-0.1", "inf", "1.01"])
def test_a_threshold_that_is_no_number_within_0_and_1_is_refused(value: str) -> None:
    with pytest.raises(NotUnderstood, match="confidence_threshold must be a number from 0 to 1"):
        read_request({"body": b"x"}, {"confidence_threshold": value}, OPTIONS)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "has no body"),
        ({"a": b"1", "b": b"2"}, "the fields a, b; send one payload"),
        ({"body": b"{"}, "can't be parsed"),
        ({"body": b"[" * 100_000}, "can't be parsed"),
        ({"body": {"instances": []}}, "at least one element"),
        ({"body": {"instances": 3}}, "must be a list"),
        ({"body": {"instances": [1], "other": 2}}, "unknown keys beside 'instances': other"),
    ],
)
def test_a_request_without_exactly_one_payload_is_refused_and_told_what_to_send(row: dict, words: str) -> None:
    with pytest.raises(NotUnderstood, match=words):
        read_request(row, {}, OPTIONS)


def test_instances_are_answered_as_predictions_in_their_order() -> None:
    request = read_request({"body": {"instances": [[1], [2]]}}, {}, OPTIONS)

    assert request.instances == [[1], [2]]
    assert request.answer(["one", "two"]) == {"predictions": ["one", "two"]}


def test_more_instances_than_the_limit_are_too_large() -> None:
    with pytest.raises(TooLarge, match="send at most 10,000"):
        read_request({"body": {"instances": [0] * (MAX_INSTANCES + 1)}}, {}, OPTIONS)


def test_base64_is_read_with_and_without_a_data_url_in_front() -> None:
    text = base64.b64encode(b"\x00\xffpixels").decode()

    assert bytes_of(text) == bytes_of("data:image/png;base64," + text) == b"\x00\xffpixels"


@pytest.mark.parametrize("payload", ["not base64!", {"b64": 1}, 3, None])
def test_what_is_neither_bytes_nor_base64_is_refused(payload: object) -> None:
    with pytest.raises(NotUnderstood):
        bytes_of(payload)


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotUnderstood, match="unknown keys: obs; known: observation"):
        only_key({"obs": 1}, "observation")


@pytest.mark.parametrize(
    "value",
    ["x", None, [1, 2], [[1, 2, 3]], [1, "2", 3], [1, True, 3], [1, None, 3], [1, float("nan"), 3], [1, float("inf"), 3], [1, 10**400, 3]],
)
def test_an_observation_of_another_shape_or_without_finite_numbers_is_refused(value: object) -> None:
    with pytest.raises(NotUnderstood, match="observation"):
        flat_numbers(value, (3,), "observation")


def test_numbers_come_in_row_order() -> None:
    assert flat_numbers(json.loads("[[1, 2], [3, 4.5]]"), (2, 2), "x") == [1, 2, 3, 4.5]
