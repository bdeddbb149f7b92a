"""Releases: a new version takes over from the running one without a lost request, or leaves no trace.

    register (its workers start) -> verify (ready, golden samples) -> compare with the running version -> switch the default
    -> drain the running version -> keep it for a rollback

Everything that happened stands in releases/NAME.yaml, one entry after the other, to be read by people and by `rollback`.
What is not covered: several servers behind one address; release each.
"""

import fcntl
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from marina import archive, paths, ready
from marina.client import Client
from marina.errors import CallError, ReleaseError, RequestError
from marina.server import signals
from marina.spec import Spec

from bundle_golden import difference

DRAIN_SECONDS = 60.0
UNPACK_SECONDS = 10.0  # in which the server lists a version whose registration it has taken
ROUNDS = 5  # each sample is sent so often to each version, in turn

Say = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same requests."""

    requests: int
    agreement: float  # share of requests with the same best class, boxes or action, 0..1
    p50_ms: float
    p95_ms: float
    running_p50_ms: float


@dataclass(frozen=True)
class Entry:
    """One line of the history: what was done when, and what it replaced."""

    time: str
    action: str  # release | rollback | refused
    version: str
    checksum: str
    port: int
    replaced: str | None = None
    comparison: dict[str, float] | None = None
    reason: str | None = None


def release(client: Client, name: str, version: str, least_agreement: float, keep_older: bool, say: Say) -> Entry:
    """Make `version` the default of `name`; its archive must lie in the model store. Unless `keep_older`, versions before the
    one that it replaces are unregistered.

    Raises CallError when there is no such archive, ReleaseError with the reason when it fails: then the running version stays
    the default, and the new one is unregistered.
    """
    new = archive.spec_of(name, version)
    with _alone(name), signals.raised():
        running = default_version(client, name)
        if running == version:
            raise CallError(f"{name} {version} is the default already; nothing to release")
        entry = _entry(client, new, "release", running)
        try:
            _register(client, new, say)
            _verify(client, new, say)
            comparison = _compare(client, new, running, least_agreement, say) if running else None
            client.set_default(name, version)
        except BaseException as error:
            with signals.ignored():
                _withdraw(client, new, running, say, unsure=isinstance(error, KeyboardInterrupt) or getattr(error, "status", 1) == 0)
            _write(name, Entry(**{**asdict(entry), "action": "refused", "reason": str(error) or type(error).__name__}))
            if isinstance(error, RequestError):
                raise ReleaseError(f"{name} {version} was not released: {error}") from error
            raise
        say(f"{name}: {version} is the default now" + (f"; {running} stays registered for: marina rollback {name}" if running else ""))
        if running:
            _drain(client, name, running, say)
            if not keep_older:
                _unregister_older(client, name, keep={version, running}, say=say)
        done = Entry(**{**asdict(entry), "comparison": asdict(comparison) if comparison else None})
        _write(name, done)
        return done


def rollback(client: Client, name: str, say: Say) -> Entry:
    """Make the version that the last release replaced the default again.

    Raises CallError when there is none to go back to, ReleaseError when it doesn't answer its golden samples (any more).
    """
    with _alone(name):
        running = default_version(client, name)
        target = _before(history(name), running)
        if running is None or target is None:
            raise CallError(f"{name}: no earlier release in {_file(name)} to go back to from {running or 'nothing'}")
        old = archive.spec_of(name, target)
        entry = _entry(client, old, "rollback", running)
        try:
            _register(client, old, say)
            _verify(client, old, say)
            client.set_default(name, target)
        except RequestError as error:
            raise ReleaseError(f"{name}: no rollback to {target}: {error}") from error
        say(f"{name}: {target} is the default again")
        _drain(client, name, running, say)
        _write(name, entry)
        return entry


def history(name: str) -> list[Entry]:
    """What was released, rolled back and refused, oldest first."""
    file = _file(name)
    listed = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return [Entry(**entry) for entry in listed or []]


def default_version(client: Client, name: str) -> str | None:
    """The version that requests without one go to; None when the model is not registered."""
    if not client.versions(name):
        return None
    return str(client.describe(name, "")[0]["modelVersion"])


def _before(entries: list[Entry], running: str | None) -> str | None:
    """The version that `running` replaced when it was released last."""
    return next((one.replaced for one in reversed(entries) if one.action == "release" and one.version == running), None)


def _register(client: Client, one: Spec, say: Say) -> None:
    started = time.monotonic()
    new = client.register(one.name, one.version, one.archive_name, timeout=one.serving.startup_timeout_s + 60)
    say(f"{one.name} {one.version}: " + (f"registered in {time.monotonic() - started:.1f} s" if new else "was registered already"))


def _verify(client: Client, one: Spec, say: Say) -> None:
    if reasons := ready.problems(client, one):
        raise ReleaseError(f"{one.name} {one.version} is not ready: {'; '.join(reasons)}")
    say(f"{one.name} {one.version}: ready, answers its golden samples")


def _compare(client: Client, new: Spec, running: str, least_agreement: float, say: Say) -> Comparison:
    """Send the samples of both versions to both, in turn, so that whatever else the machine does falls on both alike."""
    old = archive.spec_of(new.name, running)
    samples = [*ready.golden_samples(new), *ready.golden_samples(old)]
    found = [[_timed(client, new.name, version, sample) for version in (new.version, running)] for sample in samples for _ in range(ROUNDS)]
    milliseconds = [[one[side][1] for one in found] for side in (0, 1)]
    same = [_says_the_same(one[0][0], one[1][0]) for one in found]
    p95 = statistics.quantiles(milliseconds[0], n=20)[-1]
    comparison = Comparison(
        requests=len(found),
        agreement=sum(same) / len(same),
        p50_ms=round(statistics.median(milliseconds[0]), 2),
        p95_ms=round(p95, 2),
        running_p50_ms=round(statistics.median(milliseconds[1]), 2),
    )
    figures = f"agreement {comparison.agreement:.3f}, p50 {comparison.p50_ms:.1f} ms against {comparison.running_p50_ms:.1f} ms"
    say(f"{new.name}: {new.version} against {running} on {comparison.requests} requests: {figures}")
    if comparison.agreement < least_agreement:
        raise ReleaseError(f"{new.name} {new.version} agrees with {running} on {comparison.agreement:.3f}, asked for {least_agreement:g}")
    if p95 > new.service_level.p95_ms:
        raise ReleaseError(f"{new.name} {new.version}: p95 is {p95:.0f} ms, its service level says {new.service_level.p95_ms:g}")
    return comparison


def _timed(client: Client, name: str, version: str, sample: dict[str, Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    answer = client.predict(name, sample["body"], version, sample["content_type"])
    return answer, (time.perf_counter() - started) * 1000


def _says_the_same(one: Any, two: Any) -> bool:
    """Whether two answers lead to the same decision: scores may differ, the best class, the boxes' classes or the action not."""
    if "predictions" in one:
        return bool(one["predictions"][0]["class"] == two["predictions"][0]["class"])
    if "detections" in one:
        return sorted(found["class"] for found in one["detections"]) == sorted(found["class"] for found in two["detections"])
    return not difference(one["action"], two["action"])


def _drain(client: Client, name: str, version: str, say: Say) -> None:
    """Wait until nothing is pending at `version`; requests that name it still reach it."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while pending := int(client.describe(name, version)[0]["jobQueueStatus"]["pendingRequests"]):
        if time.monotonic() > deadline:
            say(f"{name} {version}: {pending} requests are still pending after {DRAIN_SECONDS:.0f} s; they stay with it")
            return
        time.sleep(0.1)


def _unregister_older(client: Client, name: str, keep: set[str], say: Say) -> None:
    """Workers of versions before the one that a rollback needs would only take memory; their archives stay in the store."""
    for version in client.versions(name):
        if version not in keep:
            client.unregister(name, version)
            say(f"{name} {version}: unregistered; its archive stays in the store")


def _withdraw(client: Client, new: Spec, running: str | None, say: Say, unsure: bool) -> None:
    """Leave the server as it was.

    `unsure`: the registration was given up without an answer, so the server may still be unpacking the archive; wait for it.
    """
    deadline = time.monotonic() + (UNPACK_SECONDS if unsure else 0)
    while new.version not in client.versions(new.name) and time.monotonic() < deadline:
        time.sleep(0.2)
    if running is not None and default_version(client, new.name) == new.version:
        client.set_default(new.name, running)
    if client.unregister(new.name, new.version):
        say(f"{new.name} {new.version}: unregistered again")


def _entry(client: Client, one: Spec, action: str, running: str | None) -> Entry:
    checksum = archive.checksum(one)
    port = int(client.inference.rsplit(":", 1)[-1])
    return Entry(datetime.now(UTC).isoformat(timespec="seconds"), action, one.version, checksum, port, running)


def _file(name: str) -> Path:
    return paths.releases() / f"{name}.yaml"


def _write(name: str, entry: Entry) -> None:
    """Append an entry; what has no value is left out."""
    content = {key: value for key, value in asdict(entry).items() if value is not None}
    with _file(name).open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump([content], sort_keys=False, width=120))


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One release of a model at a time; the lock goes with the process, however it ends."""
    paths.releases().mkdir(parents=True, exist_ok=True)
    with (paths.releases() / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CallError(f"{name} is being released by another process; wait for it") from error
        yield
