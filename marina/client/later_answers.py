"""The part of `Client` whose answers come one after another, or later."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from marina.client import streams, wire
from marina.client.exchange import Endpoint, Send, Steps
from marina.client.jobs import Job, accepted_job, job_call, timed_job_call
from marina.client.request_options import CallOptions, JobOptions, ManyJobOptions, ManyOptions
from marina.client.streams import StreamItem
from marina.client.wire import Call, NoResponse, Reply

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class StreamsAndJobs(Endpoint):
    """Streams and jobs of a client that does I/O by `run`."""

    _streams: "httpx.Client | None" = None  # made when it is first needed

    def run(self, steps: Steps[T], send: Callable[[Send], Reply | NoResponse] | None = None) -> T:
        """Carry out the steps of a call; `send` is another way to send one request."""
        raise NotImplementedError

    def close_streams(self) -> None:
        """Close the kept connections."""
        if self._streams:
            self._streams.close()

    def stream(
        self, name: str, body: Any, version: str | None = None, **options: Unpack[CallOptions]
    ) -> Iterator[StreamItem]:
        """Answer the instances of one request, each as soon as it is computed.

        `timeout` bounds the beginning, and the silence between two answers. A body as in `predict`, with
        {"instances": [...]} for many. Raises a RequestError where the stream can't begin or breaks; an
        instance that is refused has its error in its item. Leaving the loop ends the work.
        """
        call, timeout = wire.timed_call(name, body, version, options)
        return self._streamed(streams.stream_call(call), timeout)

    def stream_many(
        self, name: str, bodies: Iterable[Any], version: str | None = None, **options: Unpack[ManyOptions]
    ) -> Iterator[StreamItem]:
        """As `stream`, for many bodies in one request."""
        call, timeout = wire.timed_many_call(name, bodies, version, options)
        return self._streamed(streams.stream_call(call), timeout)

    def submit(self, name: str, body: Any, version: str | None = None, **options: Unpack[JobOptions]) -> Job:
        """Have one request answered later, in the time that others leave; a body as in `predict`, but larger.

        `callback` is a URL that is told when it has ended, if the server allows its host. A server without
        jobs (TorchServe) answers at once, and the job is done.
        """
        return self._submitted(*timed_job_call(name, body, version, options))

    def submit_many(
        self, name: str, bodies: Iterable[Any], version: str | None = None, **options: Unpack[ManyJobOptions]
    ) -> Job:
        """As `submit`, for many bodies in one job, whose result is {"predictions": [...]}."""
        own = options.copy()
        callback = own.pop("callback", None)
        call, timeout = wire.timed_many_call(name, bodies, version, own)
        return self._submitted(job_call(call, callback), timeout, callback)

    def job(self, job_id: str) -> Job:
        """A job that was submitted before, by its `id`. Raises RequestRefused for an unknown one."""
        job = Job(self, {"id": job_id})
        job.status()
        return job

    def _submitted(self, call: Call, timeout: float | None, callback: str | None) -> Job:
        reply = self.run(self.steps(call, timeout))
        return Job(self, *accepted_job(reply, callback))

    def _streamed(self, call: Call, timeout: float | None) -> Iterator[StreamItem]:
        """The items of a call; its connection is closed when the loop ends or is left."""
        import httpx  # the tool starts without it
        from httpx_sse import EventSource

        opened: list[httpx.Response] = []

        def send(step: Send) -> Reply | NoResponse:
            outcome, response = self._open_stream(step)
            opened[:] = [response] if response else []
            return outcome

        answer = self.run(self.steps(call, timeout), send)
        if not opened:  # a server without streams has answered as a whole
            yield from streams.whole_answer(answer)
            return
        url = str(opened[0].url)
        with closing(opened[0]):
            try:
                for event in EventSource(opened[0]).iter_sse():
                    if (item := streams.read_event(call, url, event)) is None:
                        return
                    yield item
            except httpx.HTTPError as error:
                raise streams.cut_off(call, url, wire.root_cause(error)) from error
        raise streams.cut_off(call, url)

    def _open_stream(self, send: Send) -> "tuple[Reply | NoResponse, httpx.Response | None]":
        """Send one request; a reply of events stays open, any other is read."""
        import httpx

        if self._streams is None:
            verify = httpx.create_ssl_context() if send.url.startswith("https:") else False
            self._streams = httpx.Client(verify=verify, trust_env=not self.is_local)
        request = self._streams.build_request(
            send.call.method, send.url, content=send.call.body, headers=send.headers, timeout=send.seconds
        )
        try:
            response = self._streams.send(request, stream=True)
            if response.is_success and streams.is_stream(response.headers):
                return Reply(response.status_code, response.headers, b""), response
            content = response.read()
            response.close()
        except httpx.HTTPError as error:
            return streams.no_response(error), None
        return Reply(response.status_code, response.headers, content), None
