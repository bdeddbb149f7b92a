"""Jobs of the replicas on one machine: they share a store there, as the standalone engine's workers do.

Replicas on several machines have no disk in common: there are no jobs on such a cluster.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.runner import JobRunner
from marina.engines.gateway.jobs.service import Jobs
from marina.engines.gateway.models import Models
from marina.engines.gateway.served_model import ServedModel
from marina.engines.ray.limits import ROUTES_SECONDS
from marina.engines.ray.routes import routed_models

logger = logging.getLogger(__name__)

WATCH_SECONDS = 2.0  # a default version takes a queued job of an earlier one so much later


@dataclass(frozen=True)
class JobSetup:
    """The folder of the store, its bounds, and the address of Serve's list of route prefixes."""

    folder: str
    limits: JobLimits
    routes: str

    def jobs(self, models: Any) -> Jobs:
        """The jobs for a process that answers for `models`."""
        return Jobs(Path(self.folder), self.limits, models)


class ReplicaJobs:
    """Computes jobs for the version of one replica, from `start` until `stop`; those that name no version
    where it is the default one.
    """

    def __init__(self, options: JobSetup, models: Models, model: ServedModel) -> None:
        self.options, self.model = options, model
        self.jobs = options.jobs(models)
        self._runner = JobRunner(self.jobs, models, lambda _: self._is_default)
        self._is_default = False
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        self._watching = asyncio.create_task(self._watch())
        self._runner.start()

    async def stop(self) -> None:
        """Queue again what runs, and return."""
        if self._watching:
            self._watching.cancel()
        await self._runner.stop()

    async def _watch(self) -> None:
        # no limit: it is cancelled with the replica
        name = self.model.name
        async with httpx.AsyncClient(timeout=ROUTES_SECONDS, trust_env=False) as client:
            while True:
                try:
                    known = routed_models((await client.get(self.options.routes)).json())
                except (httpx.HTTPError, ValueError) as error:  # what was known stays
                    logger.warning("the routes can't be read: %r", error)
                else:
                    self._is_default = name in known and known[name].default == self.model.version
                await asyncio.sleep(WATCH_SECONDS)
