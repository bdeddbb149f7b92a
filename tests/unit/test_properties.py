"""Whatever is sent, it is read or refused, and a bad request fails alone: properties, tried on many inputs.

Each test tries the same few hundred inputs at every run. `MARINA_EXAMPLES=20000 pytest tests/unit/test_properties.py` tries so
many per test, other ones each time; what it finds is printed with the decorator that repeats it.
"""

import json
import os
import random
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from ts.context import Context, RequestProcessor

from tests.bad_inputs import bad, corpus, good, refused_in_front
from tests.good_inputs import payload
from tests.picture_files import drawn, encoded
from tests.sent_requests import JSON, Bad, Part, Sent, row_of

from bundle_clips import ClipInput
from bundle_errors import NotUnderstood, Refusal
from bundle_golden import difference
from bundle_handler import BundleHandler
from bundle_images import ImageInput, open_image, prepare, view_of
from bundle_kserve import DTYPES, read_tensors, split_binary
from bundle_options import Choice, Flag, Mask, Number, Option
from bundle_payloads import bytes_of, numbers_of
from bundle_requests import read_call, read_request
from bundle_runtimes import TorchRuntime
from classifier_handler import ClassifierHandler
from detector_handler import DetectorHandler
from policy_handler import PolicyHandler
from segmenter_handler import SegmenterHandler
from video_classifier_handler import VideoClassifierHandler

KINDS = ("classifier", "detector", "segmenter", "policy", "video_classifier")
MANY = int(os.environ.get("MARINA_EXAMPLES", "0"))
CLIENT_ERRORS = {400, 413, 415}


def tried(few: int) -> settings:
    """So many examples, the same at each run, unless MARINA_EXAMPLES says otherwise."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(
        max_examples=MANY or few, derandomize=not MANY, deadline=None, database=None, print_blob=True, suppress_health_check=slow
    )


# --- what is sent -------------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, Option] = {
    "top_k": Number(int, 1, 10, ""),
    "confidence_threshold": Number(float, 0, 1, ""),
    "seed": Number(int, 0, 2**63 - 1, ""),
    "deterministic": Flag(""),
    "action_mask": Mask(2, ""),
    "format": Choice(("json", "png"), ""),
}
KEYS = ("data", "image", "b64", "observation", "instances", "inputs", "parameters", "id", "outputs", "binary_data_size", *OPTIONS)
TENSOR_KEYS = ("name", "shape", "datatype", "data", "parameters")

numbers = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**31, 2**63, 2**64, 1e39, 1e308, float("nan"), float("inf"), -0.0, 5e-324]),
    st.floats(),
)
words = st.one_of(
    st.sampled_from(["", "aGVsbG8=", "data:image/png;base64,", "true", "1", "0,1", "[1,0]", "nan", "x", *DTYPES]), st.text(max_size=8)
)
leaves = st.one_of(st.none(), st.booleans(), numbers, words, st.characters(categories=["Cs"]))
keys = st.one_of(st.sampled_from([*KEYS, *TENSOR_KEYS]), st.text(max_size=3))
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=4), max_leaves=12)
four = st.lists(st.floats(-5, 5) | numbers, min_size=4, max_size=4)


def either(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what it should be, sometimes anything."""
    return st.integers(0, 9).flatmap(lambda chance: values if chance == 9 else right)


@st.composite
def tensors(draw: Callable[..., Any]) -> dict[str, Any]:
    """A tensor of KServe v2 that is right, or wrong in one key."""
    datatype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    shape = shape[:1] if datatype == "BYTES" else shape
    one = {"b": st.booleans(), "O": words, "f": st.integers(-9, 9) | st.floats(-9, 9) | numbers}.get(
        DTYPES[datatype].kind, st.integers(0, 127)
    )
    count = int(np.prod(shape))
    name = draw(st.sampled_from(["x", "y", "top_k", "action_mask"]))
    tensor = {"name": name, "shape": shape, "datatype": datatype, "data": draw(st.lists(one, min_size=count, max_size=count))}
    if draw(st.integers(0, 3)) == 3:
        tensor[draw(st.sampled_from(["name", "shape", "datatype", "data", "data", "parameters", "more"]))] = draw(values)
    if draw(st.integers(0, 3)) == 3:
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": draw(st.just(count * DTYPES[datatype].itemsize) | st.integers(-1, 40))}
    return tensor


requests_v2 = st.fixed_dictionaries(
    {"inputs": either(st.lists(tensors(), min_size=1, max_size=2, unique_by=lambda tensor: str(tensor["name"])))},
    optional={"parameters": either(st.just({"top_k": 3})), "id": either(words), "outputs": either(st.just([]))},
)
own = st.fixed_dictionaries(
    {"observation": either(four)}, optional={"deterministic": either(st.just(True)), "action_mask": either(st.just([1, 0])), "x": leaves}
)
requests_v1 = st.fixed_dictionaries(
    {"instances": either(st.lists(own | four, min_size=1, max_size=4))}, optional={"deterministic": either(st.just("true")), "x": leaves}
)
documents: st.SearchStrategy[Any] = st.one_of(values, own, four, requests_v1, requests_v2)


option_values = st.one_of(
    st.integers(0, 11) | st.floats(0, 1) | st.booleans() | st.lists(st.sampled_from([0, 1, True, False]), max_size=3),
    st.sampled_from(["TRUE", "false", "JSON", "png", "0,1", "[true, false]", " 7 ", "0.25", "1e-3", b"3", b"true", b"\xff"]),
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
    *(encoded(drawn(21, 17, mode), "TIFF") for mode in ("1", "P", "LA", "RGBA", "CMYK", "F", "I", "I;16", "YCbCr")),
    *(encoded(drawn(21, 17), "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
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
    while start + 12 <= len(data) and (end := start + 8 + int.from_bytes(data[start : start + 4], "big")) + 4 <= len(data):
        out += data[start:end] + zlib.crc32(data[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
    return bytes(out) + data[start:]


@st.composite
def damaged(draw: Callable[..., Any], whole: st.SearchStrategy[bytes]) -> bytes:
    """Some bytes overwritten, cut out, put in, or repeated; most often near the beginning, where the headers are."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(8, 120) | st.integers(0, len(data)))
        new = draw(
            st.sampled_from([b"\0", b"\xff", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]) | st.binary(max_size=4)
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

# --- reading ------------------------------------------------------------------------------------------------------------------

rows = st.one_of(
    st.builds(
        lambda value: {"body": value},
        documents | st.builds(as_json, documents) | st.binary(max_size=40) | damaged(st.builds(as_json, documents)),
    ),
    st.dictionaries(keys, documents | st.builds(lambda value: bytearray(as_json(value)), documents) | st.binary(max_size=9), max_size=3),
)
headers = st.dictionaries(
    st.sampled_from([*OPTIONS, "top-k", "inference-header-content-length", "host"]), words | st.integers(-1, 99).map(str), max_size=2
)


@tried(300)
@given(row=rows, sent=headers)
def test_any_row_becomes_instances_with_checked_options_or_is_refused(row: dict, sent: dict) -> None:
    try:
        request = read_request(row, read_call(sent, OPTIONS), OPTIONS)
    except Refusal:
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
    except NotUnderstood as error:
        named = name in str(error)
    else:
        named = True
        jsonschema.validate(list(read) if isinstance(read, tuple) else read, OPTIONS[name].schema())

    assert named


@tried(300)
@given(body=requests_v2, binary=st.just(b"") | st.just(b"") | st.binary(max_size=40), most=st.sampled_from([3, 3, 3, 1]))
def test_a_tensor_request_becomes_rows_of_its_type_and_shape_or_is_refused(body: dict, binary: bytes, most: int) -> None:
    try:
        request = read_tensors(body, binary, most)
    except Refusal:
        return

    assert 1 <= len(request.instances) <= most
    for tensor in body["inputs"]:
        rows_ = [one[tensor["name"]] for one in request.instances]
        if tensor["datatype"] == "BYTES":
            assert all(isinstance(row, str | bytes) for row in rows_)
        else:
            assert {(row.dtype, row.shape) for row in rows_} == {(DTYPES[tensor["datatype"]], tuple(tensor["shape"][1:]))}
            assert all(np.isfinite(row).all() for row in rows_)


@tried(200)
@given(body=st.binary(max_size=30), length=words | st.integers(-2, 40).map(str))
def test_a_body_is_parted_where_its_header_says_or_refused(body: bytes, length: str) -> None:
    try:
        head, rest = split_binary(body, length)
    except NotUnderstood:
        return

    assert head + rest == body
    assert len(head) == int(length)


@tried(300)
@given(value=values | four | st.lists(four, max_size=3), shape=st.sampled_from([(), (4,), (2, 4), (0,)]))
def test_numbers_have_the_shape_that_is_asked_for_and_are_finite_or_are_refused(value: Any, shape: tuple[int, ...]) -> None:
    try:
        found = numbers_of(value, shape, "x")
    except NotUnderstood:
        return

    assert found.shape == shape
    assert all(abs(number) < float("inf") for number in found.flatten().tolist())


@tried(200)
@given(value=leaves | st.binary(max_size=9) | st.text("ABCabc+/=-_ \n,:é", max_size=9))
def test_text_becomes_bytes_or_is_refused(value: Any) -> None:
    with suppress(NotUnderstood):
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
    except Refusal:
        return

    assert image.mode == config.mode
    assert image.width * image.height <= config.max_pixels
    assert (tensor.dtype, tuple(tensor.shape)) == (np.uint8, (3 if config.mode == "RGB" else 1, config.height, config.width))
    left, top, right, bottom = view_of(image, config)
    assert left < right
    assert top < bottom


@tried(200)
@given(
    pixels=st.integers(1, 70).flatmap(lambda side: st.tuples(st.just(side), st.binary(min_size=side, max_size=side))),
    config=st.sampled_from(INPUTS),
)
def test_a_picture_of_any_proportions_becomes_the_declared_tensor_or_is_refused(pixels: tuple[int, bytes], config: ImageInput) -> None:
    side, row = pixels
    for shape in ((1, side), (side, 1), (2, side)):
        image = Image.fromarray(np.resize(np.frombuffer(row, np.uint8), shape)).convert(config.mode)
        try:
            tensor = prepare(image, config)
        except NotUnderstood:
            continue

        assert tuple(tensor.shape) == (3 if config.mode == "RGB" else 1, config.height, config.width)


# --- a bad request fails alone --------------------------------------------------------------------------------------------------


class Glance(torch.nn.Module):
    """Ten classes by one layer of strokes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.strokes, self.last = torch.nn.Conv2d(1, 8, 3, stride=2), torch.nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 1, 16, 16] -> logits [B, 10]."""
        strokes: torch.Tensor = self.strokes(images.float() / 64).relu()
        return self.last(strokes.mean((2, 3)))  # type: ignore[no-any-return]


class Grid(torch.nn.Module):
    """A box for each of 4 x 5 cells, of two classes: dark and light."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, 3, 32, 40] -> boxes [B, 20, 4], scores [B, 20, 2]."""
        light = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True) / 255, 8).flatten(1)
        top, left = torch.arange(0, 32, 8.0).repeat_interleave(5), torch.arange(0, 40, 8.0).repeat(4)
        boxes = torch.stack([left, top, left + 8, top + 8], 1)
        return boxes.repeat(images.shape[0], 1, 1), torch.stack([1 - light, light], 2)


class Shades(torch.nn.Module):
    """Three classes by brightness, for cells of 4 x 4."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, 32, 40] -> logits [B, 3, 8, 10]."""
        light = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True) / 255, 4)
        return torch.cat([0.4 - light, 0.2 - (light - 0.5).abs(), light - 0.6], 1)


class Drift(torch.nn.Module):
    """Three classes by how the lower half brightens."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 4, 3, 16, 16] -> logits [B, 3]."""
        light = clips[:, :, :, 8:].float().mean((2, 3, 4)) / 64
        change = light[:, 2:].sum(1) - light[:, :2].sum(1)
        return torch.stack([change, 0 * change, -change], 1)


class Steer(torch.nn.Module):
    """Two actions, of which some are allowed; finite for all that float32 can say."""

    def forward(self, observations: torch.Tensor, action_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """float32 [B, 4], bool [B, 2] -> action [B], q_values [B, 2]."""
        lean = (observations.clamp(-10, 10) * torch.tensor([0.1, 0.2, 2.0, 1.0])).sum(1)
        values = torch.stack([-lean, lean], 1)
        return {"action": values.masked_fill(~action_mask, -torch.inf).argmax(1), "q_values": values}


CONFIGS: dict[str, dict[str, Any]] = {
    "classifier": {
        "preprocess_config": ImageInput(16, 16, "L", "ink").as_config(),
        "postprocess_config": {"type": "classification", "top_k": 5},
        "class_mapping": {str(digit): str(digit) for digit in range(10)},
    },
    "detector": {
        "preprocess_config": ImageInput(32, 40, "RGB", "letterbox").as_config(),
        "postprocess_config": {
            "type": "detection",
            **{"score_threshold": 0.6, "nms_threshold": 0.5, "candidates": 100, "detections_per_image": 20},
        },
        "class_mapping": {"0": "dark", "1": "light"},
    },
    "segmenter": {
        "preprocess_config": ImageInput(32, 40, "RGB", "letterbox").as_config(),
        "postprocess_config": {"type": "segmentation"},
        "class_mapping": {"0": "dark", "1": "middling", "2": "light"},
    },
    "video_classifier": {
        "preprocess_config": ClipInput(4, ImageInput(16, 16)).as_config(),
        "postprocess_config": {"type": "classification", "top_k": 2},
        "class_mapping": {"0": "brightens", "1": "stays", "2": "darkens"},
    },
    "policy": {
        "preprocess_config": {
            **{"input": "observation", "inputs": ["observation", "action_mask"], "shape": [4], "dtype": "float32"},
            "environment": "none",
        },
        "postprocess_config": {"type": "policy", "action_space": {"type": "discrete", "n": 2}, "outputs": ["q_values"]},
    },
}
GRAPHS: dict[str, tuple[type[BundleHandler], torch.nn.Module, tuple[torch.Tensor, ...]]] = {
    "classifier": (ClassifierHandler, Glance(), (torch.zeros(2, 1, 16, 16, dtype=torch.uint8),)),
    "detector": (DetectorHandler, Grid(), (torch.zeros(2, 3, 32, 40, dtype=torch.uint8),)),
    "segmenter": (SegmenterHandler, Shades(), (torch.zeros(2, 3, 32, 40, dtype=torch.uint8),)),
    "video_classifier": (VideoClassifierHandler, Drift(), (torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8),)),
    "policy": (PolicyHandler, Steer(), (torch.zeros(2, 4), torch.ones(2, 2, dtype=torch.bool))),
}


@dataclass
class Served:
    """A handler, and what each request gets when it is sent alone."""

    handler: BundleHandler
    folder: Path
    known: dict[str, tuple[int, Any]] = field(default_factory=dict)  # by the request's name

    def alone(self, request: Sent) -> tuple[int, Any]:
        """What a request of the corpus gets alone."""
        if request.name not in self.known:
            (self.known[request.name],) = self.answers([request])
        return self.known[request.name]

    def answers(self, requests: list[Sent]) -> list[tuple[int, Any]]:
        """(status, parsed body) of each request of one batch. Raises for JSON that is not finite."""
        rows_, headers_ = zip(*map(row_of, requests), strict=True)
        context = Context("toy", str(self.folder), {}, 8, None, "0.12.0")
        context.request_ids = {index: f"id-{index}" for index in range(len(requests))}
        context.request_processor = [RequestProcessor(dict(one)) for one in headers_]
        bodies = self.handler.handle(list(rows_), context)
        return [
            (context.get_response_status(index)[0] or 200, json.loads(body, parse_constant=_refuse)) for index, body in enumerate(bodies)
        ]

    def mixed_up(self, requests: list[Sent], alone: Mapping[str, tuple[int, Any]]) -> list[str]:
        """Where the answers to one batch are not those that each request gets alone."""
        found = []
        for index, (one, (status, answer)) in enumerate(zip(requests, self.answers(requests), strict=True)):
            if status != alone[one.name][0]:
                found.append(f"{one.name}: {status} instead of {alone[one.name][0]}")
            elif status == 200:
                found.append(difference(alone[one.name][1], answer, one.name))
            elif answer != {**alone[one.name][1], "request_id": f"id-{index}"}:
                found.append(f"{one.name}: {answer} instead of {alone[one.name][1]}")
        return [one for one in found if one]


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Served]:
    """Each kind of handler with an untrained graph, as an archive would have it."""
    kind = request.param
    make, module, example = GRAPHS[kind]
    folder = tmp_path_factory.mktemp(kind)
    files = {"model_metadata": {"name": "toy", "version": "1.0", "kind": kind, "max_batch": 8}, **CONFIGS[kind]}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    handler = make()
    handler.read_configs(folder)
    batch = tuple({0: torch.export.Dim("batch", min=1, max=8)} for _ in example)
    handler.model = TorchRuntime(torch.export.export(module.eval(), example, dynamic_shapes=batch).module())
    return kind, Served(handler, folder)


def test_every_bad_request_is_refused_with_its_status_and_type(served: tuple[str, Served]) -> None:
    kind, one = served
    found = {}

    for request in bad(kind):
        status, answer = one.alone(request)
        refused = status == request.status and answer.keys() == {"code", "type", "message", "request_id"}
        told = refused and (answer["code"], answer["type"], answer["request_id"]) == (status, request.type, "id-0")
        if not told or not 10 < len(answer["message"]) < 600 or "Traceback" in answer["message"]:
            found[request.name] = (status, answer)

    assert found == {}


def test_every_good_request_is_answered(served: tuple[str, Served]) -> None:
    kind, one = served

    assert {request.name: one.alone(request) for request in good(kind) if one.alone(request)[0] != 200} == {}


def test_in_every_batch_the_bad_fail_alone_and_the_good_get_the_answers_that_they_get_alone(served: tuple[str, Served]) -> None:
    kind, one = served
    everything: list[Sent] = [*bad(kind), *good(kind) * 5]
    random.Random(0).shuffle(everything)
    alone = {request.name: one.alone(request) for request in everything}

    mixed = [found for start in range(0, len(everything), 12) for found in one.mixed_up(everything[start : start + 12], alone)]

    assert mixed == []


@st.composite
def strange(draw: Callable[..., Any], kind: str) -> Sent:
    """A request that may be good or bad, of no name yet."""
    typed = (JSON,) if draw(st.booleans()) else ()
    how = draw(st.integers(0, 4))
    if how == 0:
        return Sent("", as_json(draw(documents)), typed)
    if how == 1:
        return Sent("", draw(damaged(st.sampled_from([one.body for one in good(kind) if one.body]))), typed)
    if how == 2:
        return Sent("", parts=(Part("data", draw(pictures)), *draw(st.just(()) | st.just((Part("top_k", b"2"),)))))
    if how == 3:
        name, value = draw(st.sampled_from(sorted(OPTIONS))), draw(words.filter(str.isprintable))
        return Sent("", payload(kind), (*typed, (name, value.encode().decode("latin-1"))))
    return Sent("", draw(pictures), path=draw(st.sampled_from(["predictions", "explanations"])))


@tried(40)
@given(data=st.data())
def test_any_mixture_in_any_order_is_answered_as_each_is_alone(served: tuple[str, Served], data: st.DataObject) -> None:
    kind, one = served
    known = st.sampled_from(good(kind)) | st.sampled_from(bad(kind))
    drawn_ = data.draw(st.lists(known | strange(kind), min_size=1, max_size=8))
    requests = [
        Sent(f"{index}", sent.body, sent.headers, sent.kinds, sent.parts, sent.method, sent.path) for index, sent in enumerate(drawn_)
    ]
    requests = [sent if isinstance(sent, Bad) and sent.row is not None else new for sent, new in zip(drawn_, requests, strict=True)]

    alone = {request.name: one.answers([request])[0] for request in requests}

    assert {status for status, _ in alone.values()} <= CLIENT_ERRORS | {200}
    assert one.mixed_up(requests, alone) == []


def test_the_corpus_is_as_large_as_it_says_and_names_what_torchserve_refuses_by_itself() -> None:
    assert len(corpus()) > 1000
    assert all(len(bad(kind)) > 400 for kind in KINDS)
    assert len(refused_in_front()) > 8
    assert len({(one.content(), one.method, one.path, one.kinds) for one in corpus()}) == len(corpus())
