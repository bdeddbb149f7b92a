"""A job as the store knows it, and as callers see it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

State = Literal["queued", "running", "done", "failed"]
STATES: tuple[State, ...] = ("queued", "running", "done", "failed")
ENDED: tuple[State, ...] = ("done", "failed")


@dataclass(frozen=True)
class Job:
    """One request that is answered later. Times are seconds since the epoch; `version` is empty where the
    caller named none. `attempt` counts the runs: only the last one may write what becomes of the job.
    """

    id: str
    model: str
    version: str
    headers: str  # of the request, as JSON
    state: State
    created: float
    started: float | None
    finished: float | None
    total: int | None
    done: int
    errors: int
    attempt: int
    crashes: int
    lease: float
    error: str | None  # a reply's content
    body_bytes: int
    result_bytes: int
    callback: str
    callback_state: str
    callback_tries: int
    callback_at: float

    @property
    def path(self) -> str:
        """Where callers find it."""
        return f"/jobs/{self.id}"

    def described(self, keep_hours: float) -> dict[str, Any]:
        """What `GET /jobs/ID` shows."""
        described: dict[str, Any] = {
            "id": self.id,
            "state": self.state,
            "model": self.model,
            "version": self.version or None,
            "progress": {"done": self.done, "total": self.total, "errors": self.errors},
            "created": _text(self.created),
            "started": _text(self.started),
            "finished": _text(self.finished),
            "expires": _text((self.finished or self.created) + 3600 * keep_hours),
            "links": {"self": self.path, "result": f"{self.path}/result"},
        }
        if self.error:
            described["error"] = json.loads(self.error)
        if self.callback:
            described["callback"] = {"state": self.callback_state, "tries": self.callback_tries}
        return described

    def request_headers(self) -> Mapping[str, str]:
        """The headers that its predictor gets."""
        headers: Mapping[str, str] = json.loads(self.headers)
        return headers


def _text(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
