"""Requests to a live server, byte by byte, and which of many sent at once were answered wrongly."""

import http.client
import json
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from handlers.runtime.golden import difference
from marina.client import Client
from tests.support.sent_requests import Sent

THREADS = 16  # twice the batch of the image models, so that batches fill up
KEYS = {"code", "type", "message", "request_id"}


@dataclass(frozen=True)
class Answer:
    """What came back; `content` is parsed where it is JSON, and `raised` says where it is no finite JSON."""

    status: int
    content: Any
    request_id: str | None


def port_of(client: Client) -> int:
    return int(client.inference.rsplit(":", 1)[1])


def send(client: Client, name: str, sent: Sent) -> Answer:
    """One request on a connection of its own, its headers byte by byte as they are: `requests` refuses to
    send some of them.
    """
    body, headers = sent.content()
    connection = http.client.HTTPConnection("127.0.0.1", port_of(client), timeout=60)
    try:
        connection.putrequest(sent.method, f"/{sent.path}/{name}", skip_accept_encoding=True)
        connection.putheader("Authorization", f"Bearer {client.token('inference')}")
        for header, value in headers:
            connection.putheader(header, value.encode("latin-1"))
        if not {"Content-Length", "Transfer-Encoding"} & {header for header, _ in headers}:
            connection.putheader("Content-Length", str(len(body)))
        # refused before all of it was sent; the answer is there already
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        is_json = (answer.getheader("content-type") or "").startswith("application/json")
        return Answer(
            answer.status,
            json.loads(content, parse_constant=_refuse) if is_json else content,
            answer.getheader("x-request-id"),
        )
    finally:
        connection.close()


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def send_all(client: Client, name: str, requests: list[Sent]) -> list[Answer]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda one: send(client, name, one), requests))


def wrong_among(
    client: Client, name: str, right: list[Sent], faulty: list[Sent], times: int
) -> tuple[dict[str, Answer], set[str | None]]:
    """What is answered otherwise than alone, or refused otherwise than it says, when all are sent at once,
    good ones several times; and the ids of all requests.
    """
    alone = {one.name: send(client, name, one).content for one in right}
    requests = [*faulty, *right * times]
    random.Random(0).shuffle(requests)
    wrong = {}
    answers = send_all(client, name, requests)
    for sent, answer in zip(requests, answers, strict=True):
        if sent.name in alone:
            fine = answer.status == 200 and not difference(alone[sent.name], answer.content)
        else:
            told = (
                answer.status == sent.status
                and answer.content.keys() - {"error"} == KEYS
                and answer.content["type"] == sent.type
            )  # type: ignore[attr-defined]
            fine = told and answer.content["request_id"] == answer.request_id
        if not fine:
            wrong[sent.name] = answer
    return wrong, {one.request_id for one in answers}
