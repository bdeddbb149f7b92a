"""Bad requests among good ones, without a server: each is refused as it should be, no other notices."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from handlers.runtime.golden import difference
from marina.core import spec
from marina.core.spec import Spec
from tests.support.bad_inputs import bad, good
from tests.support.gateways import gateway, load, with_client
from tests.support.live_requests import KEYS
from tests.support.sent_requests import Sent

AT_ONCE = 64


async def send(client: httpx.AsyncClient, name: str, sent: Sent) -> httpx.Response:
    body, headers = sent.content()
    raw = [(name, value.encode("latin-1")) for name, value in headers]
    return await client.request(sent.method, f"/{sent.path}/{name}", content=body, headers=raw)


async def send_all(client: httpx.AsyncClient, name: str, requests: list[Sent]) -> list[httpx.Response]:
    answers: list[httpx.Response] = []
    for start in range(0, len(requests), AT_ONCE):
        part = requests[start : start + AT_ONCE]
        answers += await asyncio.gather(*(send(client, name, sent) for sent in part))
    return answers


def is_right(sent: Sent, answer: httpx.Response, alone: dict[str, Any]) -> bool:
    """Whether a good request is answered as it is alone, and a bad one refused as it says."""
    content = answer.json()
    if sent.name in alone:
        return answer.status_code == 200 and not difference(alone[sent.name], content)
    refusal = (sent.status, sent.type)  # type: ignore[attr-defined]
    is_whole = content.keys() - {"error"} == KEYS and content["request_id"] == answer.headers["x-request-id"]
    return is_whole and (answer.status_code, content["type"]) == refusal


@pytest.mark.slow  # tests/server/test_isolation.py sends the same over HTTP
@pytest.mark.parametrize("name", spec.names())
def test_every_bad_request_fails_alone(built_in: list[Spec], tmp_path: Path, name: str) -> None:
    """All of the corpus, many at once: each bad one gets its refusal, each good one its answer."""
    one = next(one for one in built_in if one.name == name)
    model = load(one.archive_path, tmp_path / name)
    right = list(good(one.kind))
    faulty = bad(one.kind)
    requests = [*faulty, *right * 5]
    random.Random(0).shuffle(requests)

    async def calls(client: httpx.AsyncClient) -> tuple[dict[str, Any], list[httpx.Response]]:
        alone = {sent.name: (await send(client, name, sent)).json() for sent in right}
        return alone, await send_all(client, name, requests)

    alone, answers = with_client(gateway(model), calls)

    wrong = {
        sent.name: (answer.status_code, answer.text)
        for sent, answer in zip(requests, answers, strict=True)
        if not is_right(sent, answer, alone)
    }
    model.close()
    assert wrong == {}
