"""The part of the corpus `bad_inputs` in KServe's protocols, versions 1 and 2."""

import json
from collections.abc import Iterator
from typing import Any

from tests.support.bad_json import both
from tests.support.good_inputs import instance, tensor_of
from tests.support.sent_requests import ALL, BINARY, IMAGES, JSON, POLICY, Bad

WRONG_SHAPES: tuple[Any, ...] = (
    *(None, [], "1,4", [1] * 33),
    *([0, 4], [-1, 4], [1.5, 4], [True, 4], [[1], 4], [1, "4"], [1, None]),
    *([1, 5], [2, 4], [1, 1 << 31], [1, 1 << 70]),
)
WRONG_DATA: tuple[Any, ...] = (
    *(None, {}, 3, "0,0,0,0", [], [[]], [0, 0, 0]),
    *([[[0, 0, 0, 0]]], [[0, 0], [0]], [0, 0, 0, "0"], [0, 0, 0, True], [0, 0, 0, None]),
)
OUT_OF_RANGE = (
    ("UINT8", 256),
    ("UINT8", -1),
    ("INT8", 128),
    ("INT64", 1 << 63),
    ("UINT64", 1 << 64),
    ("INT32", 0.5),
    ("BOOL", 1),
)


def bad() -> Iterator[Bad]:
    """All of them."""
    yield from _version_1()
    yield from _version_2()


def v2(
    label: str, kinds: frozenset[str] = ALL, status: int = 400, kind: str = "BadRequest", **other: Any
) -> Iterator[Bad]:
    """A request of one tensor with these values, None to leave one out; on image kinds the tensor is one
    of pixels.
    """
    for one in sorted(kinds):
        tensor = {key: value for key, value in tensor_of(one, **other).items() if value is not None}
        yield Bad(
            f"{label}, v2, {one}",
            json.dumps({"inputs": [tensor]}).encode(),
            (JSON,),
            frozenset({one}),
            status=status,
            type=kind,
        )


def _version_1() -> Iterator[Bad]:
    for value in ("null", "{}", '""', "[]", "3", '"text"', "true", "NaN"):
        yield from both(f"instances {value}", f'{{"instances": {value}}}')
    yield from both("10,001 instances", json.dumps({"instances": [0] * 10_001}), ALL, 413, "TooLarge")
    for kind in sorted(ALL):
        kinds, one = frozenset({kind}), instance(kind)
        yield Bad(
            f"a good and a bad instance, {kind}", f'{{"instances": [{one}, null]}}'.encode(), (JSON,), kinds
        )
        yield Bad(
            f"a bad and a good instance, {kind}", f'{{"instances": [{{}}, {one}]}}'.encode(), (JSON,), kinds
        )
        yield Bad(
            f"instances in an instance, {kind}",
            f'{{"instances": [{{"instances": [{one}]}}]}}'.encode(),
            (JSON,),
            kinds,
        )
        yield Bad(
            f"an unknown key beside instances, {kind}",
            f'{{"instances": [{one}], "signature_name": "x"}}'.encode(),
            (JSON,),
            kinds,
        )
        yield Bad(
            f"instances and inputs, {kind}",
            f'{{"instances": [{one}], "inputs": []}}'.encode(),
            (JSON,),
            kinds,
        )


def _version_2() -> Iterator[Bad]:
    for value in ("null", "{}", '""', "[]", "3", "[3]", "[null]", "[{}]", "[[]]"):
        yield from both(f"inputs {value}", f'{{"inputs": {value}}}')
    for shape in WRONG_SHAPES:
        yield from v2(f"shape {str(shape)[:20]}", shape=shape)
    yield from v2("a shape of four billion values", shape=[1, 1 << 16, 1 << 16], data=[0])
    many = [{"name": str(index), "shape": [1], "datatype": "BYTES", "data": [""]} for index in range(101)]
    yield from both("101 inputs", json.dumps({"inputs": many}), ALL, 413, "TooLarge")
    yield from v2("more instances than the limit", shape=[10_001, 4], data=[0], status=413, kind="TooLarge")
    for datatype in (None, "", "fp32", "FP8", "BF16", "FP16", "STRING", 3, ["FP32"]):
        yield from v2(f"datatype {datatype}", datatype=datatype)
    for data in WRONG_DATA:
        yield from v2(f"data {str(data)[:20]}", POLICY, data=data)
    for number in ("NaN", "-Infinity", "1e39", "9" * 400):
        body = json.dumps({"inputs": [tensor_of("policy", data=[0, 0, 0, "?"])]}).replace('"?"', number)
        yield Bad(f"{number[:10]} in a tensor", body.encode(), (JSON,), POLICY)
    for datatype, number in OUT_OF_RANGE:
        yield from v2(f"{number} as {datatype}", POLICY, datatype=datatype, data=[0, 0, 0, number])
    yield from v2("truths for an observation", POLICY, datatype="BOOL", data=[True, False, True, False])
    yield from v2("texts for an observation", POLICY, datatype="BYTES", shape=[1], data=["a"])
    yield from v2("an unknown key in a tensor", dtype="FP32")
    yield from v2("no name", name=None)
    yield from v2("a number as name", name=3)
    yield from v2("parameters that are a list", parameters=[])
    yield from v2("binary data that isn't there", data=None, parameters={"binary_data_size": 16})
    yield from v2("values twice", parameters={"binary_data_size": 16})
    yield from _version_2_images()
    yield from _version_2_bodies()
    yield from _binary()


def _version_2_images() -> Iterator[Bad]:
    for shape in ([1, 8], [1, 2, 2, 2], [1, 4, 2, 1, 1]):
        yield from v2(f"pixels of shape {shape}", IMAGES, shape=shape, data=[0] * 8)
    for datatype, value in (("FP32", 0.5), ("BOOL", True)):
        yield from v2(
            f"pixels that are {datatype}", IMAGES, shape=[1, 2, 4], datatype=datatype, data=[value] * 8
        )
    yield from v2("pixels above 255", IMAGES, shape=[1, 2, 2], datatype="INT32", data=[0, 0, 0, 256])
    yield from v2("pixels below 0", IMAGES, shape=[1, 2, 2], datatype="INT8", data=[0, 0, 0, -1])
    yield from v2("base64 of no image", IMAGES, shape=[1], datatype="BYTES", data=["aGVsbG8="])
    yield from v2("text of no base64", IMAGES, shape=[1], datatype="BYTES", data=["not base64!"])
    yield from v2(
        "two texts for one instance", IMAGES, shape=[1, 2], datatype="BYTES", data=["aGVsbG8=", "aGVsbG8="]
    )


def _version_2_bodies() -> Iterator[Bad]:
    for kind in sorted(ALL):
        kinds, tensor = frozenset({kind}), tensor_of(kind)
        two = {"name": "y", "shape": [2], "datatype": "INT32", "data": [1, 1]}
        for name, body in {
            "two inputs of one name": {"inputs": [tensor, tensor]},
            "two inputs that are no option": {"inputs": [tensor, {**tensor, "name": "y"}]},
            "inputs of different numbers of instances": {"inputs": [tensor, two]},
            "an unknown key beside inputs": {"inputs": [tensor], "instances": []},
            "an unknown output": {"inputs": [tensor], "outputs": [{"name": "nothing"}]},
            "outputs that are names alone": {"inputs": [tensor], "outputs": ["action"]},
            "parameters that are a text": {"inputs": [tensor], "parameters": "top_k=1"},
            "an id that is a number": {"inputs": [tensor], "id": 7},
            "outputs that are an object": {"inputs": [tensor], "outputs": {}},
            "an id that is longer than an answer": {"inputs": [tensor], "id": "x" * 7_000_000},
        }.items():
            refused: dict[str, Any] = {"status": 413, "type": "TooLarge"} if "longer" in name else {}
            yield Bad(f"{name}, {kind}", json.dumps(body).encode(), (JSON,), kinds, **refused)


def _binary() -> Iterator[Bad]:
    """Tensor data behind the JSON, and lies about its length."""
    yield from _header_lengths()
    for name, size, data in (
        ("more", 20, bytes(16)),
        ("less", 12, bytes(16)),
        ("right, and four bytes more behind", 16, bytes(20)),
        ("none", 0, b""),
        ("minus one", -1, bytes(16)),
        ("a fraction", 16.0, bytes(16)),
        ("a text", "16", bytes(16)),
        ("more than there is memory", 1 << 60, bytes(16)),
        ("NaN in its data", 16, b"\xff" * 16),
        ("three quarters of a number", 15, bytes(15)),
    ):
        content, head = binary_body(size, data)
        yield Bad(f"binary size: {name}", content, ((BINARY, str(head)),))
    strings = {
        "cut off": b"\4\0\0\0ab",
        "of four billion bytes": b"\xff" * 8,
        "without a length": b"\0",
        "of no image": b"\5\0\0\0hello",
    }
    for name, data in strings.items():
        content, head = binary_body(len(data), data, datatype="BYTES", shape=[1])
        yield Bad(f"a binary string {name}", content, ((BINARY, str(head)),))
    content, head = binary_body(4, b"\2\0\1\1", datatype="BOOL")
    yield Bad("a binary truth that is 2", content, ((BINARY, str(head)),))


def _header_lengths() -> Iterator[Bad]:
    whole, length = binary_body(16, bytes(16))
    near = (str(length - 1), str(length + 1))
    wrong = ("", "0", "-1", "x", "1e3", *near, str(10**30), "\u0663", "+90", "9" * 5000)
    for text in wrong:
        yield Bad(f"header length {text[:10]!r}", whole, ((BINARY, text.encode().decode("latin-1")),))
    yield Bad(
        "header length, but no binary data",
        json.dumps({"inputs": [tensor_of("policy")]}).encode(),
        ((BINARY, "5"),),
    )


def binary_body(size: Any, data: bytes, **other: Any) -> tuple[bytes, int]:
    """(a request with a tensor that says `size` for the bytes of its data, the length of the JSON)."""
    parameters = {"binary_data_size": size}
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": parameters, **other}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + data, len(head)
