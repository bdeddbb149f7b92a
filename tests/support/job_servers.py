"""A server's jobs in the test's own process, with a model that the test steers."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import httpx

from handlers.runtime.predictor import Predictor
from marina.engines.gateway.app import Gateway
from marina.engines.gateway.bodies import Limits
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.runner import JobRunner
from marina.engines.gateway.jobs.service import Jobs
from marina.engines.gateway.metrics import Metrics
from marina.engines.gateway.models import Models
from marina.engines.gateway.served_model import ServedModel
from marina.engines.gateway.tokens import Tokens
from tests.support.stepped_predictors import Stepped

ASYNC = {"prefer": "respond-async"}
PATH = "/predictions/stepped"
Calls = Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]


class JobServer:
    """The part of a worker process that has to do with jobs."""

    def __init__(self, folder: Path, predictor: Stepped, limits: JobLimits, tokens: Tokens) -> None:
        models = Models()
        models.add(ServedModel(cast(Predictor, predictor), {"batchSize": 4}))
        self.models = models
        self.jobs = Jobs(folder, limits, models)
        self.has_default = True
        self.runner = JobRunner(self.jobs, models, lambda _: self.has_default)
        self.app = Gateway(models, tokens, Limits(), Metrics(), self.jobs)

    async def run(self, calls: Calls) -> Any:
        self.runner.start()
        transport = httpx.ASGITransport(self.app)
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://gateway", timeout=30
            ) as client:
                return await calls(client)
        finally:
            await self.runner.stop()


async def ended(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    for _ in range(600):
        job: dict[str, Any] = (await client.get(path)).json()
        if job["state"] in ("done", "failed"):
            return job
        await asyncio.sleep(0.05)
    raise AssertionError(job)
