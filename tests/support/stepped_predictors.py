"""Predictors that answer one piece after another, at the pace that a test sets."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from handlers.protocol.errors import RequestError
from handlers.protocol.events import Item
from handlers.protocol.replies import Reply
from handlers.protocol.requests import MAX_INSTANCES, Row
from handlers.runtime.streams import Stream, StreamingPredictor
from handlers.runtime.telemetry import Telemetry


class Stepped(StreamingPredictor):
    """Answers each number with its double, `seconds` later; refuses text, and fails on 13 as a whole.

    `gate` holds it up until it is set; `computed` are the numbers so far.
    """

    def __init__(self, seconds: float = 0.0, version: str = "1.0") -> None:
        super().__init__()
        self.metadata = {"name": "stepped", "version": version, "max_batch": 8}
        self.telemetry = Telemetry("stepped", version)
        self.seconds = seconds
        self.computed: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()

    def reply(self, rows: Sequence[Row], ids: Sequence[str]) -> list[Reply]:
        """Each row's body, as JSON."""
        return [Reply(json.dumps(fields["body"]).encode()) for fields, _ in rows]

    def _tried(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except RequestError as error:
            return error

    def advance(self, streams: Sequence[Stream], most: int) -> list[list[Item]]:
        """One number of each stream."""
        assert self.gate.wait(10)
        self.telemetry.start_batch()
        if any(stream.waiting[0].payload == 13 for stream in streams):
            raise RuntimeError("a handler's own fault")
        items = []
        for stream in streams[:most]:
            time.sleep(self.seconds)
            instance = stream.waiting.popleft()
            self.computed.append(instance.payload)
            items.append([Item(instance.position, _doubled(instance.payload))])
        return [*items, *([] for _ in streams[most:])]


class Spelling(Stepped):
    """Answers a text letter by letter, as a model that generates: its streams have a state of their own."""

    def open_stream(self, row: Row, request_id: str, max_instances: int = MAX_INSTANCES) -> Stream:
        """See StreamingPredictor."""
        return Letters(request_id, str(row[0]["body"]))

    def advance(self, streams: Sequence[Stream], most: int) -> list[list[Item]]:
        """The next letter of each stream."""
        assert self.gate.wait(10)
        self.computed.append([stream.request_id for stream in streams])
        time.sleep(self.seconds)
        return [[stream.spell()] for stream in streams if isinstance(stream, Letters)]


class Letters(Stream):
    """The state of one text; nobody knows beforehand how long it is."""

    def __init__(self, request_id: str, text: str) -> None:
        super().__init__(request_id)
        self.total, self.text, self.at = None, text, 0

    @property
    def is_done(self) -> bool:
        return self.at == len(self.text)

    def spell(self) -> Item:
        self.at += 1
        return Item(self.at - 1, Reply(json.dumps(self.text[self.at - 1]).encode()))


def _doubled(number: Any) -> Reply:
    if isinstance(number, str):
        content = {"code": 400, "type": "BadRequest", "message": "no number", "request_id": "x"}
        return Reply(json.dumps(content).encode(), error="BadRequest")
    return Reply(json.dumps(2 * number).encode())
