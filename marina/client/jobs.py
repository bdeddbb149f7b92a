"""Jobs, as the clients hand them out: requests that the server answers later, at a URL of their own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from marina.client.exchange import Deadline, Endpoint, Steps, Wait
from marina.client.request_options import JobOptions
from marina.client.wire import Call, timed_call
from marina.core.errors import CallError, ServerUnavailable

if TYPE_CHECKING:
    from marina.client.async_client import AsyncClient
    from marina.client.later_answers import StreamsAndJobs

ENDED = ("done", "failed")
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two looks
HTTP_ACCEPTED = 202
Status = dict[str, Any]


def job_call(call: Call, callback: str | None) -> Call:
    """A prediction or explanation that is to be a job; its answer is (status, content)."""
    own = {"prefer": "respond-async", **({"callback": callback} if callback else {})}
    return replace(
        call,
        headers={**call.headers, **own},
        repeatable=False,
        read_reply=lambda status, content: (status, content),
    )


def timed_job_call(
    name: str, body: Any, version: str | None, options: JobOptions
) -> tuple[Call, float | None, str | None]:
    """As `wire.timed_call`, for one request that is to be a job; with the `callback` among the options."""
    own = options.copy()
    callback = own.pop("callback", None)
    call, timeout = timed_call(name, body, version, own)
    return job_call(call, callback), timeout, callback


def accepted_job(reply: tuple[int, Any], callback: str | None) -> tuple[Status, Any]:
    """The status of the job that was made, and None; of a server without jobs, which has answered at once,
    the status of a job that is done, and the answer.

    Raises CallError for a callback that such a server doesn't make.
    """
    status, content = reply
    if status == HTTP_ACCEPTED:
        return content, None
    if callback:
        raise CallError("this server keeps no jobs and answered at once, without the callback; leave it out")
    return {"id": "", "state": "done"}, content


def job_steps(client: Endpoint, method: str, job_id: str, deadline: Deadline, part: str = "") -> Steps[Any]:
    """One call about a job."""
    path = f"/jobs/{quote(job_id, safe='')}{part}"
    return client.steps(Call(method, "inference", path), deadline=deadline)


def wait_steps(client: Endpoint, job_id: str, deadline: Deadline) -> Steps[Status]:
    """Look at a job until it has ended. Raises ServerUnavailable when the deadline passes before."""
    pause = FIRST_PAUSE
    while True:
        status: Status = yield from job_steps(client, "GET", job_id, Deadline(client.timeout))
        if status["state"] in ENDED:
            return status
        if deadline.left() < pause:
            message = (
                f"the job is {status['state']} after {deadline.seconds:g} s; wait again: {status['progress']}"
            )
            raise ServerUnavailable(f"/jobs/{job_id}: {message}", message=message)
        yield Wait(pause)
        pause = min(LONGEST_PAUSE, 1.5 * pause)


class Job:
    """A job of a `Client`."""

    def __init__(self, client: "StreamsAndJobs", status: Mapping[str, Any], answer: Any = None) -> None:
        self.id: str = status["id"]
        self._client, self._status, self._answer = client, dict(status), answer

    def status(self) -> Status:
        """Its state (queued, running, done, failed), progress and times."""
        if self.id:
            self._status = self._client.run(job_steps(self._client, "GET", self.id, self._deadline()))
        return self._status

    def wait(self, timeout: float = 3600.0) -> Self:
        """Return when it has ended. Raises ServerUnavailable after `timeout` seconds."""
        if self.id:
            self._status = self._client.run(wait_steps(self._client, self.id, Deadline(timeout)))
        return self

    def result(self, timeout: float = 3600.0) -> Any:
        """Wait for the answer, and return it as `predict` does; `predict_many`'s where many were submitted.

        An instance that was refused or failed has {"error": {...}} in its place. Raises the RequestError of a
        job that failed.
        """
        if not self.id:
            return self._answer
        deadline = Deadline(timeout)
        self.wait(timeout)
        return self._client.run(job_steps(self._client, "GET", self.id, deadline, "/result"))

    def delete(self) -> None:
        """End it and forget its result."""
        if self.id:
            self._client.run(job_steps(self._client, "DELETE", self.id, self._deadline()))

    def _deadline(self) -> Deadline:
        return Deadline(self._client.timeout)


class AsyncJob:
    """A job of an `AsyncClient`; as `Job`."""

    def __init__(self, client: "AsyncClient", status: Mapping[str, Any], answer: Any = None) -> None:
        self.id: str = status["id"]
        self._client, self._status, self._answer = client, dict(status), answer

    async def status(self) -> Status:
        """As `Job.status`."""
        if self.id:
            self._status = await self._client.run(job_steps(self._client, "GET", self.id, self._deadline()))
        return self._status

    async def wait(self, timeout: float = 3600.0) -> Self:
        """As `Job.wait`."""
        if self.id:
            self._status = await self._client.run(wait_steps(self._client, self.id, Deadline(timeout)))
        return self

    async def result(self, timeout: float = 3600.0) -> Any:
        """As `Job.result`."""
        if not self.id:
            return self._answer
        deadline = Deadline(timeout)
        await self.wait(timeout)
        return await self._client.run(job_steps(self._client, "GET", self.id, deadline, "/result"))

    async def delete(self) -> None:
        """As `Job.delete`."""
        if self.id:
            await self._client.run(job_steps(self._client, "DELETE", self.id, self._deadline()))

    def _deadline(self) -> Deadline:
        return Deadline(self._client.timeout)
