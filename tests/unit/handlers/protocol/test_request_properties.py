"""Any request is read or refused: property tests (`tests/support/strategies.py` says how many examples)."""

from contextlib import suppress
from typing import Any

import jsonschema
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handlers.inputs.images import ImageInput, open_image, prepare, view_of
from handlers.inputs.payloads import bytes_of, numbers_of
from handlers.protocol.errors import BadRequest, RequestError
from handlers.protocol.kserve import DTYPES, read_tensors, split_binary
from handlers.protocol.requests import read_call, read_request
from tests.support.strategies import (
    OPTIONS,
    as_json,
    damaged,
    documents,
    four,
    keys,
    leaves,
    option_values,
    pictures,
    requests_v2,
    tried,
    values,
    words,
)

rows = st.one_of(
    st.builds(
        lambda value: {"body": value},
        documents
        | st.builds(as_json, documents)
        | st.binary(max_size=40)
        | damaged(st.builds(as_json, documents)),
    ),
    st.dictionaries(
        keys,
        documents | st.builds(lambda value: bytearray(as_json(value)), documents) | st.binary(max_size=9),
        max_size=3,
    ),
)
headers = st.dictionaries(
    st.sampled_from([*OPTIONS, "top-k", "inference-header-content-length", "host"]),
    words | st.integers(-1, 99).map(str),
    max_size=2,
)


@tried(300)
@given(row=rows, sent=headers)
def test_any_row_becomes_instances_with_checked_options_or_is_refused(row: dict, sent: dict) -> None:
    try:
        request = read_request(row, read_call(sent, OPTIONS), OPTIONS)
    except RequestError:
        return

    assert request.instances
    assert [one.position for one in request.instances] == list(range(len(request.instances)))
    for one in request.instances:
        for name, value in one.options.items():
            jsonschema.validate(list(value) if isinstance(value, tuple) else value, OPTIONS[name].schema())


@tried(250)
@given(name=st.sampled_from(sorted(OPTIONS)), value=option_values)
def test_an_option_is_within_its_own_schema_or_refused_by_its_name(name: str, value: Any) -> None:
    try:
        read = OPTIONS[name].read(name, value)
    except BadRequest as error:
        named = name in str(error)
    else:
        named = True
        jsonschema.validate(list(read) if isinstance(read, tuple) else read, OPTIONS[name].schema())

    assert named


@tried(300)
@given(
    body=requests_v2,
    binary=st.just(b"") | st.just(b"") | st.binary(max_size=40),
    most=st.sampled_from([3, 3, 3, 1]),
)
def test_a_tensor_request_becomes_rows_of_its_type_and_shape_or_is_refused(
    body: dict, binary: bytes, most: int
) -> None:
    try:
        request = read_tensors(body, binary, most)
    except RequestError:
        return

    assert 1 <= len(request.instances) <= most
    for tensor in body["inputs"]:
        rows_ = [one[tensor["name"]] for one in request.instances]
        if tensor["datatype"] == "BYTES":
            assert all(isinstance(row, str | bytes) for row in rows_)
        else:
            assert {(row.dtype, row.shape) for row in rows_} == {
                (DTYPES[tensor["datatype"]], tuple(tensor["shape"][1:]))
            }
            assert all(np.isfinite(row).all() for row in rows_)


@tried(200)
@given(body=st.binary(max_size=30), length=words | st.integers(-2, 40).map(str))
def test_a_body_is_parted_where_its_header_says_or_refused(body: bytes, length: str) -> None:
    try:
        head, rest = split_binary(body, length)
    except BadRequest:
        return

    assert head + rest == body
    assert len(head) == int(length)


@tried(300)
@given(value=values | four | st.lists(four, max_size=3), shape=st.sampled_from([(), (4,), (2, 4), (0,)]))
def test_numbers_have_the_declared_shape_or_are_refused(value: Any, shape: tuple[int, ...]) -> None:
    """Numbers have the declared shape and are finite, or are refused."""
    try:
        found = numbers_of(value, shape, "x")
    except BadRequest:
        return

    assert found.shape == shape
    assert all(abs(number) < float("inf") for number in found.flatten().tolist())


@tried(200)
@given(value=leaves | st.binary(max_size=9) | st.text("ABCabc+/=-_ \n,:é", max_size=9))
def test_text_becomes_bytes_or_is_refused(value: Any) -> None:
    with suppress(BadRequest):
        assert isinstance(bytes_of(value), bytes)


INPUTS = [
    ImageInput(16, 16, "L", "ink"),
    ImageInput(32, 40, "RGB", "letterbox"),
    ImageInput(16, 24, "L", "letterbox", max_pixels=300),
    ImageInput(24, 32, "RGB", "crop", resize=32),
    ImageInput(24, 32, "L", "stretch", interpolation="bicubic", max_bytes=900),
]


@tried(700)
@given(data=pictures | st.binary(max_size=60), config=st.sampled_from(INPUTS))
def test_a_damaged_picture_becomes_the_declared_tensor_or_is_refused(data: bytes, config: ImageInput) -> None:
    try:
        image = open_image(data, config.mode, config.max_bytes, config.max_pixels)
        tensor = prepare(image, config)
    except RequestError:
        return

    assert image.mode == config.mode
    assert image.width * image.height <= config.max_pixels
    assert (tensor.dtype, tuple(tensor.shape)) == (
        np.uint8,
        (3 if config.mode == "RGB" else 1, config.height, config.width),
    )
    left, top, right, bottom = view_of(image, config)
    assert left < right
    assert top < bottom


@tried(200)
@given(
    pixels=st.integers(1, 70).flatmap(
        lambda side: st.tuples(st.just(side), st.binary(min_size=side, max_size=side))
    ),
    config=st.sampled_from(INPUTS),
)
def test_picture_of_any_size_becomes_the_declared_tensor(
    pixels: tuple[int, bytes], config: ImageInput
) -> None:
    """A picture of any proportions becomes the declared tensor, or is refused."""
    side, row = pixels
    for shape in ((1, side), (side, 1), (2, side)):
        image = Image.fromarray(np.resize(np.frombuffer(row, np.uint8), shape)).convert(config.mode)
        try:
            tensor = prepare(image, config)
        except BadRequest:
            continue

        assert tuple(tensor.shape) == (3 if config.mode == "RGB" else 1, config.height, config.width)
