"""How a release decides: it compares the new version with the running one on the golden samples of both.

Requests alternate between the two, so that other load on the machine affects both alike. The kind decides
whether two answers lead to the same decision (`same_decision`). A sample that only one version accepts, as
when a policy's observation has grown, is counted and skipped.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from handlers.runtime.export import GoldenSample
from marina.client import Client
from marina.core import kinds
from marina.core.errors import ReleaseError, RequestRefused
from marina.core.spec import Spec
from marina.packaging import archive
from marina.pipeline.readiness import golden_samples

ROUNDS = 5  # how often each sample is sent to each version

Say = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same requests, or the new one alone if they have no request in common."""

    requests: int  # that both accept
    skipped: int  # samples that only one of them accepts
    agreement: float | None  # share of requests with the same decision, 0..1; None without such requests
    p50_ms: float
    p95_ms: float
    running_p50_ms: float | None


def compare(client: Client, new: Spec, running: str) -> Comparison:
    """Send the samples of `new` and of the version `running` to both."""
    samples = [*golden_samples(new), *golden_samples(archive.spec_of(new.name, running, new.home))]
    same_decision = kinds.get(new.kind).same_decision
    same: list[bool] = []
    milliseconds: tuple[list[float], list[float]] = ([], [])  # of the new version, of the running one
    skipped = 0
    for sample in samples:
        for _ in range(ROUNDS):
            answers = [_timed(client, new.name, version, sample) for version in (new.version, running)]
            for times, answer in zip(milliseconds, answers, strict=True):
                if answer is not None:
                    times.append(answer[1])
            if answers[0] is None or answers[1] is None:
                skipped += 1
                break
            same.append(same_decision(answers[0][0], answers[1][0]))
    return Comparison(
        requests=len(same),
        skipped=skipped,
        agreement=sum(same) / len(same) if same else None,
        p50_ms=round(statistics.median(milliseconds[0]), 2),
        p95_ms=round(_p95(milliseconds[0]), 2),
        running_p50_ms=round(statistics.median(milliseconds[1]), 2) if milliseconds[1] else None,
    )


def _p95(values: list[float]) -> float:
    """The 95th percentile; of a single value, that value."""
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


def check(comparison: Comparison, new: Spec, running: str, least_agreement: float, say: Say) -> None:
    """Say what was compared. Raises ReleaseError if the new version agrees too seldom or is too slow."""
    name, beside = f"{new.name} {new.version}", f"{new.name}: {new.version} against {running}"
    if comparison.skipped:
        say(f"{beside}: {comparison.skipped} golden samples are skipped, since only one version takes them")
    if comparison.agreement is None:
        say(f"{beside}: no request is taken by both, so agreement is not measured")
    else:
        speed = f"p50 {comparison.p50_ms:.1f} ms against {comparison.running_p50_ms:.1f} ms"
        say(f"{beside} on {comparison.requests} requests: agreement {comparison.agreement:.3f}, {speed}")
        if comparison.agreement < least_agreement:
            raise ReleaseError(
                f"{name} agrees with {running} on {comparison.agreement:.3f}, asked for {least_agreement:g}"
            )
    if comparison.p95_ms > new.service_level.p95_ms:
        limit = f"its service level says {new.service_level.p95_ms:g}"
        raise ReleaseError(f"{name}: p95 is {comparison.p95_ms:.0f} ms, {limit}")


def _timed(client: Client, name: str, version: str, sample: GoldenSample) -> tuple[Any, float] | None:
    """The answer of a version, and milliseconds; None if it refuses the request."""
    started = time.perf_counter()
    try:
        answer = client.predict(name, sample["body"], version, content_type=sample["content_type"])
    except RequestRefused:
        return None
    return answer, (time.perf_counter() - started) * 1000
