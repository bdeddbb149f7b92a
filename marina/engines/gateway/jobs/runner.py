"""Computes jobs in the background: one of each model at a time, while callers leave the model idle.

A job is a stream whose items go to a file. When the process stops or the model is unregistered, the job is
queued again; when the process dies, its lease ends and another one takes the job over.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from handlers.protocol.errors import ModelError, RequestError
from handlers.protocol.replies import reply_of
from handlers.protocol.requests import Row
from marina.engines.gateway.answer_streams import AnswerStream, Interrupted
from marina.engines.gateway.bodies import Limits, read_large_row
from marina.engines.gateway.failures import (
    FAILED,
    Failure,
    JobsUnavailable,
    ModelNotFound,
    ServiceUnavailable,
    VersionNotFound,
    reply_to,
)
from marina.engines.gateway.jobs.callbacks import CallbackFailed, send_callback
from marina.engines.gateway.jobs.job import Job
from marina.engines.gateway.jobs.result_file import ResultFile
from marina.engines.gateway.jobs.service import Jobs
from marina.engines.gateway.jobs.store import JobStore
from marina.engines.gateway.models import Models

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # for jobs that other processes have queued, or left
RENEW_SECONDS = 1.0
CLEAN_SECONDS = 30.0
NOT_SERVED = (ModelNotFound, VersionNotFound, ServiceUnavailable)  # for now: the job waits for its model


def _claim(models: Sequence[str], store: JobStore) -> Job | None:
    return store.claim(models)


def _renew(job: Job, progress: tuple[int | None, int, int, int], store: JobStore) -> bool:
    return store.renew(job, *progress)


class JobRunner:
    """Runs the jobs of the models that this process serves, from `start` until `stop`; those that name no
    version where `has_default` says that the model's default version is here.
    """

    def __init__(
        self, jobs: Jobs, models: Models, has_default: Callable[[str], bool] = lambda _: True
    ) -> None:
        self.jobs, self.models, self.has_default = jobs, models, has_default
        self._running: dict[str, asyncio.Task[None]] = {}  # by the model's name
        self._others: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._cleaned_at = float("-inf")
        jobs.submitted = self._wake.set

    def start(self) -> None:
        """Begin."""
        self._main = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Queue again what runs, and return."""
        await asyncio.sleep(0)  # cancelled before its first step, a task would not release its job
        tasks = [task for task in (self._main, *self._running.values(), *self._others) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except (JobsUnavailable, Failure, OSError) as error:
                logger.error("jobs: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        """Start every job whose model is free."""
        loop = asyncio.get_running_loop()
        if loop.time() > self._cleaned_at + CLEAN_SECONDS:
            self._cleaned_at = loop.time()
            await self.jobs.do(lambda store: store.clean())
        while targets := self._targets():
            job = await self._claimed(targets)
            if job is None:
                break
            task = self._running[job.model] = asyncio.create_task(self._compute(job))
            task.add_done_callback(partial(self._ended, job.model))
        while job := await self.jobs.do(lambda store: store.claim_callback()):
            task = asyncio.create_task(self._call_back(job))
            self._others.add(task)
            task.add_done_callback(self._others.discard)

    async def _claimed(self, targets: Sequence[str]) -> Job | None:
        """The next job of these models; one that is claimed while the process stops is queued again."""
        claiming = asyncio.ensure_future(self.jobs.do(partial(_claim, targets)))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            if (job := await claiming) is not None:
                await self.jobs.do(lambda store: store.release(job))
            raise

    def _targets(self) -> list[str]:
        """What is served here and has no job under way: NAME, and NAME/VERSION."""
        names = [name for name in self.models.names() if name not in self._running]
        versions = (f"{name}/{version}" for name in names for version in self.models.versions(name))
        return [*filter(self.has_default, names), *versions]

    def _ended(self, name: str, _: asyncio.Task[None]) -> None:
        self._running.pop(name, None)
        self._wake.set()

    async def _compute(self, job: Job) -> None:
        """One run of a job; one that can't be recorded is taken over when its lease has ended."""
        try:
            await self._attempt(job)
        except (Failure, OSError) as error:
            logger.error("job %s: %s", job.id, error)

    async def _attempt(self, job: Job) -> None:
        run = Run(job)
        renewing = asyncio.create_task(self._renew(run))  # reading a long body takes a while, too
        try:
            row = await self._row(job)
            model = self.models.get(job.model, job.version or None)
            limits = self.jobs.limits
            stream = await model.stream(row, job.id, is_background=True, max_instances=limits.max_instances)
            if stream.stream.refusal:
                await self._fail(job, stream.stream.refusal.content)
            else:
                run.attach(stream)
                await self._collect(run, stream)
        except (Interrupted, asyncio.CancelledError, *NOT_SERVED) as error:
            await asyncio.shield(self.jobs.do(lambda store: store.release(job)))
            if isinstance(error, asyncio.CancelledError):
                raise
        except (Failure, RequestError, ModelError) as error:
            await self._fail(job, reply_to(error, job.id).content)
        except Exception:  # unforeseen: the job must not stay under way for ever
            logger.exception("job %s failed", job.id)
            await self._fail(job, reply_of(ModelError(FAILED), job.id).content)
        finally:
            run.end(Interrupted())
            renewing.cancel()

    async def _row(self, job: Job) -> Row:
        """The request of a job. Raises a RequestError for a body that can't be read."""
        path = await self.jobs.do(lambda store: store.body(job.id))
        body = await asyncio.to_thread(path.read_bytes)
        return await read_large_row(body, job.request_headers(), Limits(self.jobs.limits.max_body_bytes))

    async def _collect(self, run: "Run", stream: AnswerStream) -> None:
        """Write the items to the result's file, and end the job."""
        job = run.job
        path = await self.jobs.do(lambda store: store.result(job))
        # not in a thread: a run that is cancelled meanwhile would never get the file to close it
        file = run.file = ResultFile(path, self.jobs.folder)
        try:
            file.begin(stream.stream.key, stream.stream.is_list)
            while items := await stream.next_items():
                await asyncio.to_thread(file.write, items)
            await asyncio.to_thread(file.close)
        finally:
            file.abandon()
        if file.alone is not None and file.alone.error:
            await self._fail(job, file.alone.content)
        elif await self.jobs.do(lambda store: store.finish(job, file.count, file.errors)):
            counts = (file.count, file.errors)
            logger.info("job %s of %s is done: %d answers, %d errors", job.id, job.model, *counts)

    async def _renew(self, run: "Run") -> None:
        """Keep the lease and show progress; end the run when the job is another's or may not go on."""
        while True:
            try:
                is_ours = await self.jobs.do(partial(_renew, run.job, run.progress()))
            except Failure as error:
                run.end(error)
                return
            if not is_ours:  # deleted, or taken over since this process was held up
                run.end(Interrupted())
                return
            await asyncio.sleep(RENEW_SECONDS)

    async def _fail(self, job: Job, content: bytes) -> None:
        if await self.jobs.do(lambda store: store.fail(job, content.decode())):
            logger.warning("job %s of %s failed: %s", job.id, job.model, json.loads(content).get("message"))
        self._wake.set()  # its callback

    async def _call_back(self, job: Job) -> None:
        try:
            await send_callback(job.callback, job.described(self.jobs.limits.keep_hours), self.jobs.limits)
        except CallbackFailed as error:
            logger.warning("job %s: try %d of its callback failed: %s", job.id, job.callback_tries, error)
            await self.jobs.do(lambda store: store.record_callback(job, is_delivered=False))
        else:
            await self.jobs.do(lambda store: store.record_callback(job, is_delivered=True))


class Run:
    """A run of a job in this process: its stream and its result's file, once there are any."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.file: ResultFile | None = None
        self._stream: AnswerStream | None = None
        self._failure: Exception | None = None

    def attach(self, stream: AnswerStream) -> None:
        """Take its stream, which ends at once if the run has ended meanwhile."""
        self._stream = stream
        if self._failure:
            stream.end(self._failure)

    def end(self, failure: Exception) -> None:
        """Compute nothing more."""
        self._failure = failure
        if self._stream:
            self._stream.end(failure)

    def progress(self) -> tuple[int | None, int, int, int]:
        """Instances in all, answers, errors among them, and bytes of the result."""
        total = self._stream.stream.total if self._stream else None
        return (total, self.file.count, self.file.errors, self.file.size) if self.file else (total, 0, 0, 0)
