"""Prometheus metrics of a process, by model and version: a predictor's own, queues and server errors.

Several processes share theirs by PROMETHEUS_MULTIPROC_DIR, which must be set before prometheus_client is
imported; `exposition` reads what all of them have counted.
"""

from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from handlers.runtime.telemetry import LABELS, METRICS, STAGES

if TYPE_CHECKING:
    from marina.engines.gateway.served_model import Batch, ServedModel

ABOUT = {
    "marina_requests_total": "Requests that were answered or refused.",
    "marina_refusals_total": "Requests that were refused, by the type of the refusal.",
    "marina_batch_size": "Requests in a batch.",
    **{f"marina_{stage}_seconds": f"Seconds of {stage} in a batch." for stage in STAGES},
}
CLASSES: dict[str, Any] = {"COUNTER": Counter, "HISTOGRAM": Histogram}
SERVER_ERROR = 500


class _OfModel(NamedTuple):
    """The metrics of one version, found once."""

    requests: Counter
    batch_size: Histogram
    stages: tuple[Histogram, ...]
    queue: Histogram
    pending: Gauge


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = {
            name: CLASSES[metric.kind](name, ABOUT[name], metric.labels, registry=self.registry)
            for name, metric in METRICS.items()
        }
        self._requests, self._refusals = made["marina_requests_total"], made["marina_refusals_total"]
        self._batch_size = made["marina_batch_size"]
        self._stages = [made[f"marina_{stage}_seconds"] for stage in STAGES]
        self._queue = Histogram(
            "marina_queue_seconds",
            "Seconds in the queue of the first request of a batch.",
            LABELS,
            registry=self.registry,
        )
        self._pending = Gauge(
            "marina_pending_requests",
            "Requests that are not answered yet.",
            LABELS,
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self._errors = Counter(
            "marina_server_errors_total", "Answers 5xx, by status.", ("status",), registry=self.registry
        )
        self._shadows = Counter(
            "marina_shadow_requests_total",
            "Requests that another version answered too, by the result of the comparison.",
            (*LABELS, "result"),
            registry=self.registry,
        )
        self._of_models: dict[tuple[str, str], _OfModel] = {}

    def count_batches(self, model: "ServedModel", batches: Sequence["Batch"]) -> None:
        """Count batches that a model answered."""
        labels = (model.name, model.version)
        metrics = self._of_models.get(labels) or self._of_model(labels)
        sizes = [len(batch.replies) for batch in batches]
        metrics.requests.inc(sum(sizes))
        _observe(metrics.batch_size, sizes)
        for stage, metric in zip(STAGES, metrics.stages, strict=True):
            # a batch that is refused as a whole goes no further than decoding
            done = [batch.telemetry for batch in batches if batch.telemetry.instances or stage == STAGES[0]]
            _observe(metric, [getattr(telemetry, stage).seconds for telemetry in done])
        _observe(metrics.queue, [max(0.0, batch.started - batch.requests[0].since) for batch in batches])
        metrics.pending.set(model.pending)
        errors = [reply.error for batch in batches for reply in batch.replies if reply.error]
        for error, count in Count(errors).items():
            self._refusals.labels(*labels, error).inc(count)

    def count_shadow(self, name: str, version: str, result: str) -> None:
        """Count an answer of a shadow version."""
        self._shadows.labels(name, version, result).inc()

    def count_error(self, status: int) -> None:
        """Count an answer whose status is 500 or above; others are none."""
        if status >= SERVER_ERROR:
            self._errors.labels(str(status)).inc()

    def exposition(self, folder: Path | None = None) -> bytes:
        """What Prometheus scrapes: of all processes that have PROMETHEUS_MULTIPROC_DIR = `folder`, or of this
        one.
        """
        registry = self.registry
        if folder:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _of_model(self, labels: tuple[str, str]) -> _OfModel:
        of_model = self._of_models[labels] = _OfModel(
            self._requests.labels(*labels),
            self._batch_size.labels(*labels),
            tuple(metric.labels(*labels) for metric in self._stages),
            self._queue.labels(*labels),
            self._pending.labels(*labels),
        )
        return of_model


def _observe(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe all of these; `Histogram.observe`, one by one, would cost as much as a small model."""
    if values:
        bounds = histogram._upper_bounds
        for place, count in Count(bisect_left(bounds, value) for value in values).items():
            histogram._buckets[place].inc(count)
        histogram._sum.inc(sum(values))
