"""What a worker says of its batches: one structured log line each, and Prometheus metrics by model and
version.

TorchServe's front end keeps the metrics: it knows those that metrics.yaml declares and drops the others.
"""

import json
import logging
import re
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter, time
from typing import Any, NamedTuple

from ..protocol.replies import Reply

logger = logging.getLogger(__name__)


class Metric(NamedTuple):
    """What metrics.yaml says of a metric."""

    kind: str
    unit: str
    labels: tuple[str, ...]


STAGES = ("decode", "preprocess", "inference", "postprocess")
LABELS = ("model_name", "model_version")
METRICS = {
    "marina_requests_total": Metric("COUNTER", "Count", LABELS),
    "marina_refusals_total": Metric("COUNTER", "Count", (*LABELS, "type")),
    "marina_batch_size": Metric("HISTOGRAM", "Count", LABELS),
    **{f"marina_{stage}_seconds": Metric("HISTOGRAM", "Seconds", LABELS) for stage in STAGES},
}
# W3C Trace Context, section 3.2
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Stage:
    """Adds up the seconds spent in its `with` blocks."""

    __slots__ = ("seconds", "started")

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.started = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self.started


class Telemetry:
    """Of one model version in one worker: the batch at hand, and where it is reported."""

    def __init__(self, name: str, version: str) -> None:
        self.name, self.version, self.host = name, version, socket.gethostname()
        self.start_batch()

    def start_batch(self) -> None:
        """Set everything to zero."""
        self.decode, self.preprocess, self.inference, self.postprocess = Stage(), Stage(), Stage(), Stage()
        self.instances = 0

    def log(self, event: str, content: Mapping[str, Any]) -> None:
        """One line of JSON: the event, the model, its version, and `content`."""
        logger.info(self._line(event, content))

    def report(
        self,
        ids: Sequence[str],
        headers: Sequence[Mapping[str, str]],
        replies: Sequence[Reply],
        counted: bool = True,
    ) -> None:
        """Log the batch, of which all three have one entry per request, and count it: lines of metrics go out
        in the same write.
        """
        lines = [self.batch_line(ids, headers, replies)]
        logger.info("\n".join(lines + self._metrics(replies) if counted else lines))

    def batch_line(
        self, ids: Sequence[str], headers: Sequence[Mapping[str, str]], replies: Sequence[Reply]
    ) -> str:
        """The batch's line of the log."""
        batch = {
            "requests": len(replies),
            "instances": self.instances,
            "refused": _refused(replies),
            **{f"{stage}_ms": round(1000 * getattr(self, stage).seconds, 3) for stage in STAGES},
            "answers": [
                {"id": one, "status": reply.status.value, **_trace(own)}
                for one, own, reply in zip(ids, headers, replies, strict=True)
            ],
        }
        return self._line("batch", batch)

    def _line(self, event: str, content: Mapping[str, Any]) -> str:
        line = {"event": event, "model": self.name, "version": self.version, **content}
        return json.dumps(line, separators=(",", ":"))

    def _metrics(self, replies: Sequence[Reply]) -> list[str]:
        """Lines in the form in which TorchServe's front end reads metrics from a worker's output
        (ts/metrics/caching_metric.py); its own classes write the same, one line at a time, which took a
        quarter of a small policy's time.
        """
        values: list[tuple[str, float, str]] = [
            ("marina_requests_total", len(replies), ""),
            ("marina_batch_size", len(replies), ""),
        ]
        values += [
            ("marina_refusals_total", count, f",type:{error}") for error, count in _refused(replies).items()
        ]
        # a batch that is refused as a whole goes no further
        stages = STAGES if self.instances else STAGES[:1]
        values += [
            (f"marina_{stage}_seconds", round(getattr(self, stage).seconds, 6), "") for stage in stages
        ]
        labels, origin = (
            f"model_name:{self.name},model_version:{self.version}",
            f"#hostname:{self.host},{int(time())}",
        )
        lines = []
        for name, value, more in values:
            metric = METRICS[name]
            lines.append(
                f"[METRICS]{name}.{metric.unit}:{value}|#{labels}{more}|#type:{metric.kind}|{origin}"
            )
        return lines


def _refused(replies: Sequence[Reply]) -> Mapping[str, int]:
    """How many were refused, by the type of the refusal."""
    errors = [reply.error for reply in replies if reply.error]
    return Counter(errors) if errors else {}


def _trace(headers: Mapping[str, str]) -> dict[str, str]:
    sent = headers.get("traceparent")
    return {"traceparent": sent} if sent and TRACEPARENT.fullmatch(sent) else {}
