"""The jobs of a server for Prometheus: how many there are by state, and what they take on the disk."""

import logging
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from marina.engines.gateway.failures import Failure
from marina.engines.gateway.jobs.job import STATES
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.store import JobStore

logger = logging.getLogger(__name__)


class JobCollector(Collector):
    """Reads the store in `folder` at every scrape; any process of the server may do it."""

    def __init__(self, folder: Path, limits: JobLimits) -> None:
        self.folder, self.limits = folder, limits

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The two metrics; none where the store can't be read."""
        try:
            store = JobStore(self.folder, self.limits)
            counts = store.counts()
            store.close()
        except (Failure, OSError) as error:
            logger.error("the jobs are not counted: %s", error)
            return
        jobs = GaugeMetricFamily("marina_jobs", "Jobs that are kept.", labels=["state"])
        for state in STATES:
            jobs.add_metric([state], counts[state])
        yield jobs
        yield GaugeMetricFamily("marina_jobs_bytes", "Bodies and results of jobs.", value=counts["bytes"])
