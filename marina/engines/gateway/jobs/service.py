"""What callers ask of jobs: submit one, look at it, fetch its result, delete it."""

import asyncio
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from handlers.protocol.errors import BadRequest, TooLarge
from handlers.protocol.replies import Reply
from marina.engines.gateway.bodies import Headers, HungUp, Receive
from marina.engines.gateway.failures import JobNotDone, RequestTimeout
from marina.engines.gateway.jobs.callbacks import check_callback
from marina.engines.gateway.jobs.job import Job
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.store import JobStore, translated
from marina.engines.gateway.models import Models
from marina.engines.gateway.targets import Target

PREFERENCE = re.compile(r"(?:^|[,;\s])respond-async(?:$|[,;\s])", re.IGNORECASE)
APPLIED = (b"preference-applied", b"respond-async")
# of the call, not of the request; what is secret stays out of the store
OMITTED = frozenset(
    {
        "authorization",
        "callback",
        "connection",
        "content-length",
        "cookie",
        "host",
        "prefer",
        "transfer-encoding",
    }
)
BODY_SECONDS = 60.0
LISTED = 100
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL

T = TypeVar("T")


def prefers_async(headers: Headers) -> bool:
    """Whether a call asks for a job (RFC 7240, section 4.1)."""
    return "prefer" in headers and PREFERENCE.search(headers["prefer"]) is not None


class Jobs:
    """The jobs of a server, for the process at hand. Raises Failures."""

    def __init__(self, folder: Path, limits: JobLimits, models: Models) -> None:
        self.folder, self.limits, self.models = folder, limits, models
        self.submitted: Callable[[], None] = lambda: None  # tells the runner
        self._thread = ThreadPoolExecutor(1, "jobs")  # a database connection belongs to one thread
        self._store: JobStore | None = None

    async def do(self, work: Callable[[JobStore], T]) -> T:
        """Carry out `work` on the store, which is opened at first, in the thread that it belongs to."""

        def run() -> T:
            if self._store is None:
                self._store = JobStore(self.folder, self.limits)
            return work(self._store)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    async def submit(
        self, target: Target, headers: Headers, receive: Receive
    ) -> tuple[Reply, tuple[tuple[bytes, bytes], ...]]:
        """Write a request to the disk and queue it. Raises HungUp."""
        if not target.name:
            raise BadRequest("a job names its model in its path; send it to /predictions/NAME")
        self.models.get(target.name, target.version)
        callback = headers.get("callback", "")
        if callback:
            check_callback(callback, self.limits)
        announced = headers.get("content-length", "0")
        if not announced.isdecimal():
            raise BadRequest("content-length must be the body's number of bytes")
        if int(announced) > self.limits.max_body_bytes:
            raise self._too_large()
        await self.do(lambda store: store.check_room(int(announced)))
        job_id = await self.do(lambda store: store.new_id())
        path = await self.do(lambda store: store.body(job_id))
        kept = json.dumps({name: value for name, value in headers.items() if name not in OMITTED})
        try:
            await self._receive(receive, path)
            job = await self.do(
                lambda store: store.add(job_id, target.name, target.version or "", kept, callback)
            )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.submitted()
        reply = _json(job.described(self.limits.keep_hours), 202)
        return reply, ((b"location", job.path.encode()), APPLIED)

    async def look(self, job_id: str) -> Job:
        """A job. Raises JobNotFound."""
        return await self.do(lambda store: store.get(job_id))

    async def result(self, job_id: str) -> Path | Reply:
        """The file of the result of a job that is done, the refusal of one that failed.

        Raises JobNotFound, JobNotDone.
        """
        job = await self.look(job_id)
        if job.state == "failed":
            content = json.loads(job.error or "{}")
            return _json(content, int(content.get("code", 500)))
        if job.state != "done":
            raise JobNotDone(job.id, job.state)
        return await self.do(lambda store: store.result(job))

    async def delete(self, job_id: str) -> None:
        """Forget a job, whatever its state. Raises JobNotFound."""
        await self.do(lambda store: store.delete(job_id))

    async def listed(self) -> dict[str, Any]:
        """The newest jobs, and how many there are in each state."""
        jobs = await self.do(lambda store: store.newest(LISTED))
        counts = await self.do(lambda store: store.counts())
        return {"jobs": [job.described(self.limits.keep_hours) for job in jobs], "counts": counts}

    async def _receive(self, receive: Receive, path: Path) -> None:
        """Write the body as it comes. Raises TooLarge, RequestTimeout, StorageFull, HungUp."""
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                with translated(self.folder), os.fdopen(os.open(path, CREATE, 0o600), "wb") as file:
                    while True:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise HungUp
                        body = message.get("body", b"")
                        size += len(body)
                        if size > self.limits.max_body_bytes:
                            raise self._too_large()
                        await asyncio.to_thread(file.write, body)
                        if not message.get("more_body"):
                            return
        except TimeoutError:
            raise RequestTimeout(BODY_SECONDS) from None

    def _too_large(self) -> TooLarge:
        most = f"{self.limits.max_body_bytes:,} bytes (jobs.max_body_bytes)"
        return TooLarge(f"the body of the job has more than {most}; send several jobs")


def _json(content: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(content).encode(), status=HTTPStatus(status))
