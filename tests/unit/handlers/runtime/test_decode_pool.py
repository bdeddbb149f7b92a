"""Decoding a batch's pictures in several threads: the same answers in the same order, and errors stay with
their request.
"""

import io
import json
import os
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.inputs.images import ImageInput
from handlers.kinds.image import ImagePredictor
from handlers.protocol.requests import Instance, Prepared
from handlers.runtime.decode_pool import DecodePool
from handlers.runtime.telemetry import Telemetry


class Brightness(ImagePredictor):
    """Answers the mean of a picture's pixels."""

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        return [{"brightness": float(one)} for one in outputs]

    def answer_schema(self) -> dict[str, Any]:
        return {"type": "object"}


def handler_with(threads: int) -> Brightness:
    handler = Brightness()
    handler.input = ImageInput(24, 24)
    handler.metadata = {"name": "brightness", "version": "1.0", "kind": "classifier", "max_batch": 4}
    handler.telemetry = Telemetry("brightness", "1.0")
    handler.model = lambda pixels: pixels.mean((1, 2, 3))
    handler.choose_readers({"handler": {"decode_threads": threads}})
    return handler


def photo(level: int, width: int = 60) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, width), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


ROWS: list[tuple[dict, dict]] = [
    ({"body": photo(10)}, {}),
    ({"body": b"no picture"}, {}),
    ({"body": {"instances": [[1], [2]]}}, {}),
    ({"body": photo(20)[:-30]}, {}),
    ({"body": photo(30, 900)}, {}),
    ({"body": b"{"}, {}),
    ({"body": photo(40)}, {"describe": "maybe"}),
    ({"body": photo(50)}, {}),
]


def said(answers: list[Any]) -> list[Any]:
    return [(type(answer).__name__, str(answer)) for answer in answers]


@pytest.mark.parametrize(
    "rows", [ROWS, ROWS[::-1], ROWS[:1], ROWS[1:2]], ids=["all", "turned round", "one good", "one bad"]
)
def test_threads_give_the_answers_that_one_alone_gives(rows: list[tuple[dict, dict]]) -> None:
    alone, together = handler_with(1), handler_with(3)

    assert alone.readers is None
    assert together.readers is not None
    assert said(together.answer_rows(rows)) == said(alone.answer_rows(rows))


def test_the_first_picture_that_cant_be_read_stands_for_its_request() -> None:
    handler = handler_with(2)
    pixels = [np.full((4, 4, 3), level, np.uint8).tolist() for level in (10, 20)]
    bad = {
        "body": json.dumps(
            {
                "inputs": [
                    {
                        "name": "x",
                        "shape": [2, 4, 4, 3],
                        "datatype": "INT16",
                        "data": [pixels[0], [[[-1] * 3] * 4] * 4],
                    }
                ]
            }
        ).encode()
    }
    good = {
        "body": json.dumps(
            {"inputs": [{"name": "x", "shape": [2, 4, 4, 3], "datatype": "UINT8", "data": pixels}]}
        ).encode()
    }

    refused, answered = handler.answer_rows([(bad, {}), (good, {})])

    assert "not from -1" in str(refused)
    assert answered["outputs"] is not None


def test_a_fault_of_ours_costs_its_own_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = handler_with(2)
    real = handler.readers.preprocess  # type: ignore[union-attr]

    def broken(item: Any, instance: Instance) -> Prepared:
        if item.size == (900, 900):
            raise ZeroDivisionError
        return real(item, instance)

    monkeypatch.setattr(handler.readers, "preprocess", broken)

    answers = handler.answer_rows([ROWS[0], ROWS[4], ROWS[7]])

    assert answers[0] == {"brightness": 10.0}
    assert type(answers[1]).__name__ == "ModelError"
    assert answers[2] == {"brightness": 50.0}


def test_the_threads_are_there_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = handler_with(1), handler_with(3)

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)

    assert said(together.answer_rows(ROWS)) == said(alone.answer_rows(ROWS))


def test_waiting_is_shared_out_between_the_stages_and_counted_once() -> None:
    def decode(instance: Instance) -> Any:
        time.sleep(0.06)

    def preprocess(item: Any, instance: Instance) -> Prepared:
        time.sleep(0.02)
        return Prepared((), {}, (instance.position, 0))

    telemetry, readers = Telemetry("m", "1"), DecodePool(4, decode, preprocess)
    reads = readers.begin([Instance(None, position=index) for index in range(8)])
    started = time.perf_counter()

    readers.wait(reads, telemetry)
    waited = time.perf_counter() - started

    assert [one.result().prepared.size[0] for one in reads] == list(range(8))
    assert telemetry.decode.seconds + telemetry.preprocess.seconds == pytest.approx(waited, rel=0.1)
    assert 2 < telemetry.decode.seconds / telemetry.preprocess.seconds < 4
    assert waited < 8 * 0.08  # two rounds of four, were nothing else to do


@pytest.mark.parametrize(
    ("config", "seconds", "threads"),
    [
        ({"maxWorkers": 1}, 0.002, 4),
        ({"maxWorkers": 1}, 0.0001, 1),
        ({"maxWorkers": 4}, 0.002, 1),
        ({"maxWorkers": 2}, 0.002, 2),
        ({"maxWorkers": 4, "handler": {"decode_threads": 3}}, 0.0001, 3),
        ({"maxWorkers": 1, "handler": {"decode_threads": 1}}, 0.002, 1),
    ],
)
def test_a_worker_reads_with_its_share_of_the_cores_where_that_pays(
    monkeypatch: pytest.MonkeyPatch, config: dict, seconds: float, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    handler = handler_with(1)
    handler.telemetry.decode.seconds = seconds

    assert handler.choose_readers(config) == threads
    assert (handler.readers is None) == (threads == 1)
