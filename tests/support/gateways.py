"""Gateways in the test's own process: a predictor that a test steers, and calls without a server."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import uvicorn

from handlers.protocol.replies import Reply
from handlers.protocol.requests import Row
from handlers.runtime.predictor import Predictor
from handlers.runtime.telemetry import Telemetry
from marina.engines.gateway.app import Gateway
from marina.engines.gateway.bodies import Limits
from marina.engines.gateway.http_protocol import HttpProtocol
from marina.engines.gateway.metrics import Metrics
from marina.engines.gateway.models import Models
from marina.engines.gateway.served_model import ServedModel
from marina.engines.gateway.tokens import Tokens


class Recorder:
    """A predictor that answers with what it got and keeps its batches; `gate` holds it up until it is set."""

    readers = None

    def __init__(self, version: str = "1.0") -> None:
        self.metadata = {"name": "recorder", "version": version}
        self.telemetry = Telemetry("recorder", version)
        self.batches: list[list[Any]] = []
        self.gate = threading.Event()
        self.gate.set()

    def reply(self, rows: Sequence[Row], ids: Sequence[str]) -> list[Reply]:
        """Each row's body as text. Raises RuntimeError where one is "broken"."""
        assert self.gate.wait(10)
        bodies = [fields["body"] for fields, _ in rows]
        self.batches.append(bodies)
        if "broken" in bodies:
            raise RuntimeError("a handler's own fault")
        return [Reply(str(body).encode(), "text/plain") for body in bodies]


def recorded(recorder: Recorder, *, in_thread: bool = False, **config: Any) -> ServedModel:
    """A ServedModel of `recorder`, with TorchServe's settings in `config`."""
    return ServedModel(cast(Predictor, recorder), {"batchSize": 4, **config}, in_thread=in_thread)


def gateway(*served: ServedModel, tokens: Tokens | None = None, limits: Limits | None = None) -> Gateway:
    """An app that serves these."""
    models = Models()
    for model in served:
        models.add(model)
    return Gateway(models, tokens or Tokens.open(), limits or Limits(), Metrics())


def call(app: Gateway, method: str, path: str, **request: Any) -> httpx.Response:
    """One request to the app, without a server."""
    answer: httpx.Response = with_client(app, lambda client: client.request(method, path, **request))
    return answer


def with_client(app: Gateway, calls: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
    """What `calls` gives, with a client of the app."""

    async def run() -> Any:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=30) as client:
            return await calls(client)

    return asyncio.run(run())


def load(archive: Path, folder: Path, **settings: Any) -> ServedModel:
    """The archive, loaded into this process and unpacked into `folder`."""
    return ServedModel.load(archive, folder, settings)


@contextmanager
def listening(app: Gateway) -> Iterator[int]:
    """The port of a real server with this app, in a thread of the test's process."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=HttpProtocol, ws="none", lifespan="off", log_config=None)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
