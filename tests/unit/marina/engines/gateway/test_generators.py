"""Requests to a generator in a process that serves it: none waits for a longer one."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from handlers.protocol.replies import Reply
from marina.engines.gateway.served_model import ServedModel
from tests.support.generators import serve_generator

JSON = {"content-type": "application/json"}
LONG = "ab" * 100
STEP_SECONDS = 0.002


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    """A generator whose steps take a while."""
    predictor = serve_generator(tmp_path)
    step = predictor.model

    def slow(*inputs: Any) -> Any:
        time.sleep(STEP_SECONDS)
        return step(*inputs)

    predictor.model = slow  # type: ignore[assignment]
    return ServedModel(predictor, {"batchSize": 8, "jobQueueSize": 40})


def row(body: Any) -> Any:
    return {"body": json.dumps(body).encode()}, JSON


async def answered(model: ServedModel, body: Any) -> Any:
    reply: Reply = await model.answer(row(body), "id")
    return {"status": reply.status, **json.loads(reply.content)}


def test_a_short_answer_does_not_wait_for_a_long_one(model: ServedModel) -> None:
    """Nor does a stream; a list is answered when its last one is."""

    async def run() -> None:
        long = asyncio.create_task(answered(model, {"text": LONG}))
        await asyncio.sleep(20 * STEP_SECONDS)
        both, bad, stream = await asyncio.gather(
            answered(model, {"instances": ["ada", "b"]}),
            answered(model, {"instances": ["ada", ""]}),
            model.stream(row("ab"), "id"),
        )
        assert [one["text"] for one in both["predictions"]] == ["A D A", "B"]
        assert (bad["status"], bad["type"]) == (400, "BadRequest")
        pieces = []
        while items := await stream.next_items():
            pieces += [json.loads(item.reply.content) for item in items]
        assert [one.get("delta") for one in pieces] == ["A", " B", None]
        assert not long.done()
        assert (await long)["tokens"] == 200
        await model.drain()

    asyncio.run(run())
    model.close()


def test_what_streams_do_not_take_is_answered_as_a_batch(model: ServedModel) -> None:
    """Tensors, rows, descriptions; refusals have the words that they always had."""

    async def run() -> None:
        tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["ada", "b"]}
        assert (await answered(model, {"inputs": [tensor]}))["outputs"][0]["data"] == ["A D A", "B"]
        rows = (await answered(model, ["ada", ""]))["rows"]
        assert (rows[0]["text"], rows[1]["error"]["code"]) == ("A D A", 400)
        assert (await answered(model, {"text": "a", "num_beams": 99}))["status"] == 400
        described = await model.answer(({"body": b""}, {**JSON, "describe": "true"}), "id")
        assert json.loads(described.content)["kind"] == "generator"

    asyncio.run(run())
    model.close()


def test_who_hangs_up_has_no_row_any_more(model: ServedModel) -> None:
    """Its answer ends at the next step, and the others go on."""

    async def run() -> None:
        gone = asyncio.create_task(answered(model, {"text": LONG}))
        other = asyncio.create_task(answered(model, {"text": LONG[:60]}))
        await asyncio.sleep(10 * STEP_SECONDS)
        gone.cancel()
        assert (await other)["tokens"] == 60
        with pytest.raises(asyncio.CancelledError):
            await gone
        predictor: Any = model.predictor
        assert model.pending == 0
        assert (await answered(model, {"text": "ada"}))["text"] == "A D A"
        assert predictor.stream_decoder.active == []

    asyncio.run(run())
    model.close()
