"""The client for asyncio, over httpx: the inference side of `marina.client`, with the same bodies, options, rules and errors."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from marina.client import wire
from marina.client.exchange import Deadline, Endpoint, Send, Steps, Wait
from marina.client.wire import Lost, Reply

T = TypeVar("T")


class AsyncClient(Endpoint):
    """Talks to a server as `Client` does; see there, and `Endpoint`. One for all tasks of one event loop."""

    def _open(self) -> None:
        encrypted = any(base and base.startswith("https:") for base in (self.inference, self.management))
        self._tls = httpx.create_ssl_context() if encrypted else False  # reading the certificates takes 40 ms
        self._idle: list[httpx.AsyncClient] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            await self._idle.pop().aclose()

    async def predict(
        self,
        name: str,
        body: Any,
        version: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """The answer to one request; as `Client.predict`."""
        return await self._run(self.steps(wire.prediction(name, body, version, content_type, headers, options), timeout))

    async def predict_many(
        self,
        name: str,
        bodies: Iterable[Any],
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
        in_flight: int = 4,
        **options: Any,
    ) -> list[Any]:
        """The answers to many bodies in their order; as `Client.predict_many`."""
        deadline = Deadline(timeout) if timeout is not None else None
        waiting: deque[asyncio.Task[list[Any]]] = deque()
        answers: list[Any] = []
        try:
            for part in wire.slices(bodies):
                waiting.append(asyncio.create_task(self._run(self.many_steps(name, part, version, headers, options, deadline))))
                if len(waiting) >= in_flight:
                    answers += await waiting[0]
                    waiting.popleft()
            while waiting:
                answers += await waiting[0]
                waiting.popleft()
            return answers
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def explain(
        self,
        name: str,
        body: Any,
        version: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Why a request is answered as it is; as `Client.explain`."""
        call = wire.prediction(name, body, version, content_type, headers, options, "explanations")
        return await self._run(self.steps(call, timeout))

    async def ping(self) -> str:
        """TorchServe's own word for its health."""
        return str(await self._run(self.steps(wire.ping())))

    async def models(self) -> dict[str, str]:
        """Registered models: name -> file of the default version."""
        found: dict[str, str] = await self._run(self.steps(wire.models()))
        return found

    async def describe(self, name: str, version: str = "all", customized: bool = False) -> list[dict[str, Any]]:
        """What the server knows of one version, of "all", or of the default one ("")."""
        described: list[dict[str, Any]] = await self._run(self.steps(wire.describe(name, version, customized)))
        return described

    async def token(self, api: str) -> str:
        """The token of "inference" or "management", renewed when it is about to expire."""
        return await self._run(self.token_steps(api, Deadline(self.timeout)))

    async def _run(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call one by one."""
        came: Reply | Lost | None = None
        try:
            while True:
                step = steps.send(came)
                came = await self._send(step) if isinstance(step, Send) else None
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            steps.close()

    async def _send(self, send: Send) -> Reply | Lost:
        """One request and its whole answer."""
        session = self._idle.pop() if self._idle else self._session()
        try:
            async with asyncio.timeout(send.seconds):
                answer = await session.request(send.call.method, send.url, content=send.call.body or None, headers=send.headers)
        except TimeoutError:
            return Lost("late")
        except httpx.HTTPError as error:
            return Lost("unconnected" if isinstance(error, httpx.ConnectError) else "broken", wire.cause_of(error))
        finally:
            self._idle.append(session)
        return Reply(answer.status_code, answer.headers, answer.content)

    def _session(self) -> httpx.AsyncClient:
        """One connection. A session of httpx for many would look through all of them, squared, at every request: with 16 in flight
        that halves what comes through.
        """
        one = httpx.Limits(max_connections=1, keepalive_expiry=None)
        return httpx.AsyncClient(timeout=None, limits=one, verify=self._tls, trust_env=not self.is_local)  # noqa: S113  # _send has it
