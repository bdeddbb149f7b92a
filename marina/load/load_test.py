"""Runs loadtest/locustfile.py headless and compares its figures with the spec's service level."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marina.core import paths, programs
from marina.core.errors import CallError, WorkError
from marina.core.spec import Spec

MORE_SECONDS = 60.0  # than its users send, for Locust to start and to write its report


@dataclass(frozen=True)
class Figures:
    """The figures of a load test; times are the client's, in milliseconds."""

    requests: int
    failures: int
    requests_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: list[str]

    def breaches(self, spec: Spec) -> list[str]:
        """How the service level of `spec` was missed, in words."""
        level, ratio = spec.service_level, self.failures / max(1, self.requests)
        breaches = []
        if self.p95_ms > level.p95_ms:
            breaches.append(f"p95 {self.p95_ms:.0f} ms is above {level.p95_ms:g} ms")
        if ratio > level.max_failure_ratio:
            breaches.append(
                f"{self.failures} of {self.requests} failed ({ratio:.2%}), allowed "
                f"{level.max_failure_ratio:.2%}"
            )
        return breaches if self.requests else ["no request was answered"]


def run(spec: Spec, port: int, users: int, seconds: int, report: Path) -> Figures:
    """Let `users` send samples for `seconds`; write Locust's HTML page to `report`.

    Raises CallError when Locust is not installed, WorkError with its output when it fails.
    """
    report.parent.mkdir(parents=True, exist_ok=True)
    call = [
        *(
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(paths.LOCUSTFILE),
            "--headless",
            "--only-summary",
        ),
        *(
            "--users",
            str(users),
            "--spawn-rate",
            str(users),
            "--run-time",
            f"{seconds}s",
            "--stop-timeout",
            "5",
        ),
        *("--html", str(report), "--json", "--exit-code-on-error", "0", "--loglevel", "WARNING"),
    ]
    variables = {"MARINA_HOME": str(spec.home), "MARINA_MODEL": spec.name, "MARINA_PORT": str(port)}
    hint = "see whether the server answers, with: marina ready"
    done = programs.run(call, seconds + MORE_SECONDS, hint, env={**os.environ, **variables})
    if "No module named locust" in done.stderr:
        raise CallError("locust is not installed; run: make install")
    start = done.stdout.find("[")
    if done.returncode != 0 or start < 0:
        raise WorkError(f"locust failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return _figures(json.loads(done.stdout[start:]), done.stderr)


def _figures(stats: list[dict[str, Any]], log: str) -> Figures:
    """Locust's JSON: per request name a histogram {milliseconds: count}."""
    times: dict[float, int] = {}
    for entry in stats:
        for milliseconds, count in entry["response_times"].items():
            times[float(milliseconds)] = times.get(float(milliseconds), 0) + count
    seconds = max((entry["last_request_timestamp"] - entry["start_time"] for entry in stats), default=0.0)
    requests = sum(entry["num_requests"] for entry in stats)
    failures = sum(entry["num_failures"] for entry in stats)
    errors = [line.strip() for line in log.splitlines() if "wrong:" in line or "HTTPError" in line][:5]
    p50, p95, p99 = (percentile(times, share) for share in (0.50, 0.95, 0.99))
    return Figures(requests, failures, requests / seconds if seconds else 0.0, p50, p95, p99, errors)


def percentile(times: dict[float, int], share: float) -> float:
    """The smallest time that at least `share` of the requests did not exceed; 0 without requests."""
    needed, seen = share * sum(times.values()), 0
    for milliseconds in sorted(times):
        seen += times[milliseconds]
        if seen >= needed:
            return milliseconds
    return 0.0
