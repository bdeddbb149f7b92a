"""The batch in memory: pictures are written straight into it, and no request ever sees another's."""

import base64
import io
import json
import random
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.inputs.batch_buffer import BatchBuffer
from handlers.inputs.clips import ClipInput, prepare_clip
from handlers.inputs.images import ImageInput, prepare
from handlers.kinds.image import ImagePredictor
from handlers.protocol.errors import RequestError
from handlers.protocol.requests import Instance, Prepared
from handlers.runtime.telemetry import Telemetry

MOST = 6


class Echo(ImagePredictor):
    """Answers the very pixels that the graph was given."""

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        return [{"pixels": one.tobytes().hex()} for one in outputs]

    def explanation(self, item: Any, prepared: Prepared) -> Any:
        return {"pixels": prepared.arrays[0].tobytes().hex()}

    def answer_schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {"pixels": {"type": "string"}}, "required": ["pixels"]}


class Graph:
    """Gives back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(pixels)
        if (pixels == 13).all((1, 2, 3)).any():
            raise ZeroDivisionError("the graph can't take this one")
        return pixels


def handler_with(threads: int = 1, slots: bool = True) -> Echo:
    handler = Echo()
    handler.input = ImageInput(8, 8)
    handler.metadata = {"name": "echo", "version": "1.0", "kind": "classifier", "max_batch": MOST}
    handler.telemetry = Telemetry("echo", "1.0")
    handler.model = Graph()
    handler.slots = BatchBuffer(MOST, handler.input.shape) if slots else None
    handler.choose_readers({"handler": {"decode_threads": threads}})
    return handler


def picture(source: random.Random) -> bytes:
    side, level = source.randrange(4, 30), source.randrange(20, 256)
    image = (
        Image.effect_noise((side, side), 60).convert("RGB")
        if source.random() < 0.8
        else Image.new("RGB", (side, side), (level, 0, 9))
    )
    buffer = io.BytesIO()
    image.save(buffer, source.choice(["PNG", "BMP"]))
    return buffer.getvalue()


def plain(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def listed(files: Sequence[bytes]) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(file).decode()} for file in files]}).encode()


def request(source: random.Random) -> tuple[dict, dict]:
    """One that is good, bad, of several instances, of a tensor, to be explained, or one at which the graph
    fails.
    """
    way = source.random()
    if way < 0.4:
        return {"body": picture(source)}, {}
    if way < 0.55:
        return {"body": source.choice([b"", b"no picture", picture(source)[:-9], b"{"])}, {}
    if way < 0.75:
        files = [
            picture(source) if source.random() < 0.9 else b"no picture"
            for _ in range(source.randrange(1, 10))
        ]
        return {"body": listed(files)}, {}
    if way < 0.85:
        count = source.randrange(1, 4)
        data = np.random.default_rng(source.randrange(1000)).integers(0, 256, (count, 5, 5, 3))
        tensor = {"name": "x", "shape": [count, 5, 5, 3], "datatype": "UINT8", "data": data.ravel().tolist()}
        return {"body": json.dumps({"inputs": [tensor]}).encode()}, {}
    if way < 0.95:
        return {"body": picture(source)}, {"explain": "true"}
    return {"body": plain(13)}, {}


def said(answer: Any) -> str:
    return f"{type(answer).__name__} {answer}" if isinstance(answer, Exception) else json.dumps(answer)


@pytest.mark.parametrize("threads", [1, 3])
def test_thousand_requests_equal_solo_answers_in_own_arrays(threads: int) -> None:
    """A thousand requests are answered as each is alone, with arrays of its own."""
    source = random.Random(threads)
    handler, lone = handler_with(threads), handler_with(slots=False)
    requests = [request(source) for _ in range(1000)]

    answers, expected = [], [said(lone.answer_rows([one])[0]) for one in requests]
    while len(answers) < len(requests):
        batch = requests[len(answers) : len(answers) + source.randrange(1, 2 * MOST)]
        answers += [said(one) for one in handler.answer_rows(batch)]

    assert answers == expected
    assert sum("pixels" in one for one in answers) > 600
    assert sum("BadRequest" in one for one in answers) > 100
    assert sum("ModelError" in one for one in answers) > 20


@pytest.mark.parametrize("threads", [1, 3])
def test_the_graph_reads_the_slots_where_they_lie(threads: int) -> None:
    handler = handler_with(threads)
    levels = [10, 20, 30, 40]

    for size in (4, 1, 3):
        handler.answer_rows([({"body": plain(level)}, {}) for level in levels[:size]])

    assert [len(batch) for batch in handler.model.batches] == [4, 1, 3]
    for batch in handler.model.batches:
        assert batch.base is handler.slots.memory  # type: ignore[union-attr]
        assert batch.flags.c_contiguous
    assert [int(row.mean()) for row in handler.model.batches[0]] == levels


@pytest.mark.parametrize("threads", [1, 3])
def test_a_request_of_any_number_of_instances_takes_the_same_memory(threads: int) -> None:
    handler = handler_with(threads)

    (answer,) = handler.answer_rows(
        [({"body": listed([plain(20 + index) for index in range(5 * MOST + 1)])}, {})]
    )

    assert [len(batch) for batch in handler.model.batches] == [*[MOST] * 5, 1]
    assert all(batch.base is handler.slots.memory for batch in handler.model.batches)
    assert [bytes.fromhex(one["pixels"])[0] for one in answer["predictions"]] == [
        20 + index for index in range(5 * MOST + 1)
    ]


def test_the_next_instances_are_read_while_the_graph_computes() -> None:
    handler = handler_with(2)
    preprocess, next_one = handler.readers.preprocess, threading.Event()  # type: ignore[union-attr]

    def observed(item: Any, instance: Instance) -> Prepared:
        if instance.position >= MOST:
            next_one.set()
        return preprocess(item, instance)

    def graph(pixels: np.ndarray) -> np.ndarray:
        assert next_one.wait(10)
        return pixels

    handler.readers.preprocess, handler.model = observed, graph  # type: ignore[union-attr]
    (answer,) = handler.answer_rows([({"body": listed([plain(20)] * (2 * MOST))}, {})])

    assert len(answer["predictions"]) == 2 * MOST


def test_after_a_refusal_no_further_batch_of_the_request_is_read() -> None:
    """Once an instance is refused, no further batch of its request is read."""
    handler = handler_with()
    files = [*[plain(20)] * (MOST + 1), b"no picture", *[plain(30)] * (5 * MOST)]

    refused, answered = handler.answer_rows([({"body": listed(files)}, {}), ({"body": plain(40)}, {})])

    assert isinstance(refused, RequestError)
    assert answered["pixels"].startswith("28")
    assert [len(batch) for batch in handler.model.batches] == [MOST, 1]


def test_what_was_refused_leaves_a_gap_that_the_graph_does_not_see() -> None:
    handler = handler_with()

    answers = handler.answer_rows(
        [({"body": plain(10)}, {}), ({"body": b"no picture"}, {}), ({"body": plain(20)}, {})]
    )

    assert [isinstance(one, RequestError) for one in answers] == [False, True, False]
    assert [int(row.mean()) for row in handler.model.batches[0]] == [10, 20]


def test_every_instance_keeps_its_slot_for_two_batches() -> None:
    """Every instance has a slot of its own until the batch after the next."""
    slots = BatchBuffer(4, (3, 8, 8))
    batches = [[Instance(None) for _ in range(size)] for size in (4, 3, 2)]

    for turn, batch in enumerate(batches):
        slots.hand_out(batch, turn)
        for number, one in enumerate(batch):
            one.slot[:] = 10 * turn + number  # type: ignore[index]

    assert slots.memory[:7].mean((1, 2, 3)).tolist() == [20, 21, 2, 3, 10, 11, 12]


@pytest.mark.parametrize(
    ("chosen", "shared"),
    [([0, 1, 2], True), ([2, 3], True), ([0, 2], False), ([1, 0], False), ([3, 3], False)],
)
def test_only_slots_that_lie_one_after_the_other_are_taken_without_a_copy(
    chosen: list[int], shared: bool
) -> None:
    slots = BatchBuffer(2, (2,))
    slots.memory[:] = np.arange(8).reshape(4, 2)

    batch = slots.together([slots.slots[place] for place in chosen])

    assert batch.tolist() == slots.memory[chosen].tolist()
    assert np.shares_memory(batch, slots.memory) == shared


def test_slots_and_other_arrays_together_are_copied() -> None:
    slots = BatchBuffer(1, (2,))
    slots.memory[:] = 7

    batch = slots.together([*slots.slots, np.array([1, 2], np.uint8)])

    assert batch.tolist() == [[7, 7], [7, 7], [1, 2]]
    assert not np.shares_memory(batch, slots.memory)


def test_nobody_writes_into_the_batch_once_it_is_answered() -> None:
    handler = handler_with(2)
    started, finish, written = threading.Event(), threading.Event(), threading.Event()
    decode, preprocess = handler.readers.decode, handler.readers.preprocess  # type: ignore[union-attr]

    def decode_in_turn(instance: Instance) -> Any:
        if instance.position == 0:
            started.wait(10)  # the slow one is being read when this one is refused
        return decode(instance)

    def preprocess_slowly(item: Any, instance: Instance) -> Prepared:
        started.set()
        finish.wait(10)
        prepared = preprocess(item, instance)
        written.set()
        return prepared

    handler.readers.decode, handler.readers.preprocess = decode_in_turn, preprocess_slowly
    threading.Timer(0.3, finish.set).start()

    (answer,) = handler.answer_rows([({"body": listed([b"no picture", plain(10)])}, {})])

    assert isinstance(answer, RequestError)
    assert written.is_set()


def test_an_explanation_has_an_array_of_its_own() -> None:
    handler = handler_with()
    explained: list[Prepared] = []
    handler.explanation = lambda item, prepared: explained.append(prepared) or {}

    handler.answer_rows(
        [({"body": plain(10)}, {}), ({"body": plain(20)}, {"explain": "true"}), ({"body": plain(30)}, {})]
    )

    assert not np.shares_memory(explained[0].arrays[0], handler.slots.memory)  # type: ignore[union-attr]
    assert [int(row.mean()) for row in handler.model.batches[0]] == [10, 30]


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_picture_is_the_same_in_a_slot_and_in_its_own_array(fit: Any, mode: Any) -> None:
    """A picture has the same pixels in a slot and in an array of its own."""
    config = ImageInput(12, 10, mode, fit, resize=14)
    image = Image.effect_noise((31, 40), 80).convert(mode)
    slots = BatchBuffer(3, config.shape)

    given = prepare(image, config, slots.slots[1])

    assert given is slots.slots[1]
    assert slots.memory[1].tolist() == prepare(image, config).tolist()


def test_a_clip_is_written_into_its_slot_frame_by_frame() -> None:
    config = ClipInput(3, ImageInput(6, 5))
    frames = [Image.effect_noise((20, 10), 80).convert("RGB") for _ in range(3)]
    slots = BatchBuffer(2, config.shape)

    prepare_clip(frames, config, slots.slots[1])

    assert slots.memory[1].tolist() == [prepare(frame, config.image).tolist() for frame in frames]
