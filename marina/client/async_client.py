"""The client for asyncio, over httpx: inference as in `marina.client`, with the same rules and errors."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource

from marina.client import wire
from marina.client.exchange import Deadline, Endpoint, Send, Steps, Wait
from marina.client.jobs import AsyncJob, accepted_job, timed_job_call
from marina.client.request_options import CallOptions, JobOptions, SlicedOptions
from marina.client.streams import (
    StreamItem,
    cut_off,
    is_stream,
    no_response,
    read_event,
    stream_call,
    whole_answer,
)
from marina.client.wire import Call, NoResponse, Reply

T = TypeVar("T")
AsyncSend = Callable[[Send], Awaitable[Reply | NoResponse]]


class AsyncClient(Endpoint):
    """A client as `Client`, for all tasks of one event loop; see there, and `Endpoint`."""

    def _open(self) -> None:
        encrypted = any(base and base.startswith("https:") for base in (*self.hosts.urls, self.management))
        self._tls = httpx.create_ssl_context() if encrypted else False  # reading the certificates takes 40 ms
        self._idle: list[httpx.AsyncClient] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            await self._idle.pop().aclose()

    async def predict(
        self, name: str, body: Any, version: str | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Answer one request; as `Client.predict`."""
        return await self.run(self.steps(*wire.timed_call(name, body, version, options)))

    async def predict_many(
        self, name: str, bodies: Iterable[Any], version: str | None = None, **options: Unpack[SlicedOptions]
    ) -> list[Any]:
        """Answer many bodies, in their order; as `Client.predict_many`."""
        slices, in_flight = self.sliced_steps(name, bodies, version, options)
        waiting: deque[asyncio.Task[list[Any]]] = deque()
        answers: list[Any] = []
        try:
            for steps in slices:
                waiting.append(asyncio.create_task(self.run(steps)))
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
        self, name: str, body: Any, version: str | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Explain the answer to a request; as `Client.explain`."""
        return await self.run(self.steps(*wire.timed_call(name, body, version, options, "explanations")))

    def stream(
        self, name: str, body: Any, version: str | None = None, **options: Unpack[CallOptions]
    ) -> AsyncGenerator[StreamItem]:
        """Answer the instances of one request, each as soon as it is computed; as `Client.stream`."""
        call, timeout = wire.timed_call(name, body, version, options)
        return self._streamed(stream_call(call), timeout)

    async def submit(
        self, name: str, body: Any, version: str | None = None, **options: Unpack[JobOptions]
    ) -> AsyncJob:
        """Have one request answered later; as `Client.submit`."""
        call, timeout, callback = timed_job_call(name, body, version, options)
        reply = await self.run(self.steps(call, timeout))
        return AsyncJob(self, *accepted_job(reply, callback))

    async def ping(self) -> str:
        """TorchServe's health, in its own words."""
        return str(await self.run(self.steps(wire.ping_call())))

    async def models(self) -> dict[str, str]:
        """Registered models: name -> file of the default version."""
        models: dict[str, str] = await self.run(self.steps(wire.models_call()))
        return models

    async def describe(
        self, name: str, version: str = "all", customized: bool = False
    ) -> list[dict[str, Any]]:
        """Describe one version, "all", or the default one ("")."""
        described: list[dict[str, Any]] = await self.run(
            self.steps(wire.describe_call(name, version, customized))
        )
        return described

    async def token(self, api: str) -> str:
        """The token of "inference" or "management", renewed when it is about to expire."""
        return await self.run(self.token_steps(api, Deadline(self.timeout)))

    async def run(self, steps: Steps[T], send: AsyncSend | None = None) -> T:
        """Carry out the steps of a call; `send` is another way to send one request."""
        outcome: Reply | NoResponse | None = None
        try:
            while True:
                step = steps.send(outcome)
                outcome = await (send or self._send)(step) if isinstance(step, Send) else None
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            steps.close()

    async def _streamed(self, call: Call, timeout: float | None) -> AsyncGenerator[StreamItem]:
        """The items of a call; its connection is closed when the loop ends or the generator is closed."""
        opened: list[httpx.Response] = []
        async with self._session() as session:

            async def send(step: Send) -> Reply | NoResponse:
                outcome, response = await _open_stream(session, step)
                opened[:] = [response] if response else []
                return outcome

            answer = await self.run(self.steps(call, timeout), send)
            if not opened:  # a server without streams has answered as a whole
                for item in whole_answer(answer):
                    yield item
                return
            url = str(opened[0].url)
            try:
                async for event in EventSource(opened[0]).aiter_sse():
                    if (item_or_end := read_event(call, url, event)) is None:
                        return
                    yield item_or_end
            except httpx.HTTPError as error:
                raise cut_off(call, url, wire.root_cause(error)) from error
            finally:
                await opened[0].aclose()
            raise cut_off(call, url)

    async def _send(self, send: Send) -> Reply | NoResponse:
        """Send one request and read its whole reply."""
        session = self._idle.pop() if self._idle else self._session()
        try:
            async with (
                asyncio.timeout(send.seconds),
                session.stream(
                    send.call.method, send.url, content=send.call.body or None, headers=send.headers
                ) as response,
            ):
                content = bytearray()
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > wire.MAX_REPLY_BYTES:
                        return NoResponse("endless")
        except TimeoutError:
            return NoResponse("late")
        except httpx.HTTPError as error:
            return no_response(error)
        finally:
            self._idle.append(session)
        return Reply(response.status_code, response.headers, bytes(content))

    def _session(self) -> httpx.AsyncClient:
        """A session of one connection, to each host.

        One for many connections searches them all at every request, which halves the rate with 16 in flight.
        """
        limits = httpx.Limits(max_connections=len(self.hosts.urls), keepalive_expiry=None)
        return httpx.AsyncClient(
            timeout=None,  # noqa: S113 - _send has the timeout
            limits=limits,
            verify=self._tls,
            trust_env=not self.is_local,
        )


async def _open_stream(
    session: httpx.AsyncClient, send: Send
) -> tuple[Reply | NoResponse, httpx.Response | None]:
    """Send one request; a reply of events stays open, any other is read."""
    request = session.build_request(
        send.call.method, send.url, content=send.call.body, headers=send.headers, timeout=send.seconds
    )
    try:
        response = await session.send(request, stream=True)
        if response.is_success and is_stream(response.headers):
            return Reply(response.status_code, response.headers, b""), response
        content = await response.aread()
        await response.aclose()
    except httpx.HTTPError as error:
        return no_response(error), None
    return Reply(response.status_code, response.headers, content), None
