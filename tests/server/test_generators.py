"""Texts that are made token by token, as callers of a server get them: one after another, beside each other,
and when one of them hangs up.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from marina import engines
from marina.client import Client
from marina.client.async_client import AsyncClient
from marina.core import spec
from marina.core.console import Output
from marina.core.errors import RequestRefused
from marina.engines import server_process
from marina.packaging import archive
from marina.pipeline import steps
from tests.support.generators import LONGEST, trained
from training.export.writer import export

pytestmark = pytest.mark.slow

SPEC = "# Letters.\nkind: generator\ntraining: {recipe: sequence_to_sequence}\nfloor: {accuracy: 0.9}\n"
LONG = "ab" * (LONGEST // 2)


@pytest.fixture(scope="module", params=["standalone", "torchserve"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with a generator that spells."""
    home = tmp_path_factory.mktemp(request.param)
    (home / "models").mkdir()
    (home / "models" / "letters.yaml").write_text(SPEC, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        model = spec.load("letters", home=home)
        folder = model.export_dir.parent / ".making"
        (folder / "report").mkdir(parents=True)
        export(model, trained(), folder)
        archive.build(model)
        port = server_process.free_port_base()
        with steps.serving([model], port, Output(as_json=True), engines.get(request.param)) as serving:
            yield serving


def spelled(text: str) -> str:
    return " ".join(text.upper())


def test_a_stream_arrives_token_by_token(client: Client, request: pytest.FixtureRequest) -> None:
    """Two hundred of them, not all at once; together they are the text of the whole answer."""
    whole = client.predict("letters", {"text": LONG})
    moments, deltas, last = [], [], None
    for item in client.stream("letters", {"text": LONG}):
        moments.append(time.monotonic())
        deltas.append(item.answer.get("delta", ""))
        last = item.answer
    assert whole["text"] == "".join(deltas) == spelled(LONG)
    assert last == pytest.approx(whole)
    assert len(deltas) == LONGEST + 1
    pauses = [after - before for before, after in pairwise(moments)]
    if "torchserve" not in request.node.name:  # its front end is slower than these steps
        assert sum(pause > 1e-4 for pause in pauses) > 10  # what arrives at once is read at once


def test_what_is_refused_is_refused_in_a_stream(client: Client) -> None:
    """Before it begins, or as an event of its instance; the others are answered."""
    with pytest.raises(RequestRefused, match="max_new_tokens must be a whole number from 1 to 200"):
        list(client.stream("letters", {"text": "a", "max_new_tokens": 1_000_000}))
    items = list(client.stream("letters", {"instances": ["ada", "", "x" * 201]}))
    assert [one.answer["text"] for one in items if one.answer and "text" in one.answer] == ["A D A"]
    errors = {one.index: str(one.error) for one in items if one.error}
    assert "empty" in errors[1]
    assert "more than 200 tokens" in errors[2]


def test_many_streams_do_not_wait_for_a_slow_reader_or_one_that_left(client: Client) -> None:
    """Thirty-two at once beside one who reads nothing and one who hangs up in the middle."""

    async def read(other: AsyncClient, text: str, most: int = 1000) -> str:
        pieces = []
        async for item in other.stream("letters", {"text": text}):
            pieces.append(item.answer.get("delta", ""))
            if len(pieces) >= most:
                break
        return "".join(pieces)

    async def all_of_them() -> list[str]:
        port = int(client.inference.rpartition(":")[2])
        _unread, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"text": LONG}).encode()
        head = (
            f"POST /predictions/letters HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"authorization: Bearer {client.token('inference')}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        async with AsyncClient(url=client.inference, token=client.token("inference")) as other:
            gone = await read(other, LONG, 5)
            assert gone == spelled(LONG[:5])
            texts = [f"{'abcdefgh'[number % 8]}{LONG[: 3 * number]}" for number in range(32)]
            found = await asyncio.gather(*(read(other, text) for text in texts))
            assert found == [spelled(text) for text in texts]
        writer.close()
        return list(found)

    assert len(asyncio.run(asyncio.wait_for(all_of_them(), 60))) == 32
    assert client.predict("letters", {"text": "ada"})["text"] == "A D A"


def test_the_same_seed_gives_the_same_text_in_any_company(client: Client) -> None:
    """Alone, in a batch, as a stream."""
    body: dict[str, Any] = {"text": "abcdefghij", "temperature": 5.0, "seed": 11}
    alone = client.predict("letters", body)["text"]
    others = [{**body, "seed": seed} for seed in range(20)]
    together = client.predict("letters", {"instances": others})["predictions"]
    assert together[11]["text"] == alone
    assert len({one["text"] for one in together}) > 15
    assert [one.answer for one in client.stream("letters", body)][-1]["text"] == alone


def test_a_job_keeps_whole_answers(client: Client) -> None:
    """In the order of its instances."""
    job = client.submit("letters", {"instances": [LONG, "b", "ada"]})
    found = job.result(60)["predictions"]
    assert [one["text"] for one in found] == [spelled(LONG), "B", "A D A"]
    job.delete()
