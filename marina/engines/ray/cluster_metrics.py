"""What the replicas of a cluster have counted, wherever they run: one page, each replica with its own label.

A replica that ends takes its series with it; added up without that label, they would fall, and a rate over
them would be wrong.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from marina.engines.gateway.metrics import Metrics
    from marina.engines.ray.cluster import Cluster

LABEL = "replica"
CONTROLLER = "controller"  # its value for the process that has management and gRPC


class Pages(Collector):
    """The families of several pages as one; `pages` are texts by replica."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        self.pages = pages

    def collect(self) -> Iterable[Metric]:
        """Each family once, with the samples of all replicas."""
        families: dict[str, Metric] = {}
        for replica, page in self.pages.items():
            for family in text_string_to_metric_families(page):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                merged.samples += [
                    sample._replace(labels={**sample.labels, LABEL: replica}) for sample in family.samples
                ]
        return families.values()


def merged(pages: Mapping[str, str]) -> bytes:
    """One page of the pages of several replicas."""
    registry = CollectorRegistry()
    registry.register(Pages(pages))
    return generate_latest(registry)


async def cluster_metrics_page(cluster: "Cluster", own: "Metrics", _request: Request) -> Response:
    """GET /metrics: what all replicas that answer have counted, and this process, which has gRPC."""
    pages = {**await asyncio.to_thread(cluster.counted), CONTROLLER: own.exposition().decode()}
    return Response(merged(pages), media_type=CONTENT_TYPE_LATEST)
