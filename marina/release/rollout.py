"""Releases: a new version takes over from the running one without a lost request, or leaves no trace.

    register (its workers start) -> verify (ready, golden samples) -> compare with the running version ->
    switch the default -> drain the running version -> keep it for a rollback

Every release, rollback and refusal is recorded (`history`), and the project's trackers move their alias. What
a killed command left undone is settled by the next release or rollback at that server: recorded where the
default had switched, else taken back.

Several servers behind one address are not covered: release on each.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from marina.client import Client
from marina.core import signals
from marina.core.errors import CallError, ReleaseError, RequestError
from marina.core.spec import Spec
from marina.packaging import archive
from marina.pipeline import readiness
from marina.release import history
from marina.release.comparison import Say, check, compare
from marina.release.history import Entry
from training.tracking.session import register_release

DRAIN_SECONDS = 60.0
UNPACK_SECONDS = 10.0  # within which the server lists a version whose registration it has accepted


def release(
    client: Client,
    name: str,
    version: str,
    least_agreement: float,
    keep_older: bool,
    say: Say,
    home: Path | None = None,
) -> Entry:
    """Make `version` the default of `name`; its archive must lie in the model store of the project `home`.

    Unless `keep_older`, versions before the one that it replaces are unregistered.

    Raises CallError when there is no such archive, ReleaseError with the reason when it fails: then the
    running version stays the default, and the new one is unregistered.
    """
    new = archive.spec_of(name, version, home)
    with history.locked(name, new.home), signals.raised():
        entry = _settle(client, name, say, new.home)
        if entry is None or (entry.action, entry.version) != ("release", version):
            entry = _switch(client, new, least_agreement, say)
        kept = f"; {entry.replaced} stays registered for: marina rollback {name}" if entry.replaced else ""
        say(f"{name}: {version} is the default now{kept}")
        if entry.replaced:
            _drain(client, name, entry.replaced, say)
            if not keep_older:
                _unregister_older(client, name, keep={version, entry.replaced}, say=say)
        register_release(new, say)
        return entry


def _switch(client: Client, new: Spec, least_agreement: float, say: Say) -> Entry:
    """Register, verify and compare the version, make it the default, and record that."""
    name, running = new.name, default_version(client, new.name)
    if running == new.version:
        raise CallError(f"{name} {new.version} is the default already; nothing to release")
    entry = _new_entry(client, new, "release", running)
    history.begin(entry, name, new.home)
    with _revert_on_error(client, new, entry, say):
        _register(client, new, say)
        _verify(client, new, say)
        if running:
            comparison = compare(client, new, running)
            check(comparison, new, running, least_agreement, say)
            entry = replace(entry, comparison=asdict(comparison))
        client.set_default(name, new.version)
    history.append(entry, name, new.home)
    return entry


@contextmanager
def _revert_on_error(client: Client, new: Spec, entry: Entry, say: Say) -> Iterator[None]:
    """If the block fails, leave the server as it was and record the reason.

    Raises ReleaseError for a RequestError, and any other error as it is.
    """
    try:
        yield
    except BaseException as error:
        # Without an answer (status 0) the server may still be unpacking the archive.
        is_unsure = isinstance(error, KeyboardInterrupt) or getattr(error, "status", 1) == 0
        with signals.ignored():
            wait = UNPACK_SECONDS if is_unsure else 0
            _withdraw(client, new.name, new.version, entry.replaced, say, wait)
            refused = replace(entry, action="refused", reason=str(error) or type(error).__name__)
            history.append(refused, new.name, new.home)
        if isinstance(error, RequestError):
            raise ReleaseError(f"{new.name} {new.version} was not released: {error}") from error
        raise


def rollback(client: Client, name: str, say: Say, home: Path | None = None) -> Entry:
    """Make the version that the last release replaced the default again.

    Where that release was killed before it switched, it is taken back, and where a rollback was killed after
    it switched, it is recorded; that entry is returned.

    Raises CallError when there is none to go back to, ReleaseError when it no longer answers its golden
    samples.
    """
    with history.locked(name, home), signals.raised():
        left = history.unfinished(name, _port_of(client), home)
        settled = _settle(client, name, say, home)
        if left and settled and (left.action == "release") == (settled.action == "refused"):
            if settled.action == "rollback":
                register_release(archive.spec_of(name, settled.version, home), say)
            return settled
        running = default_version(client, name)
        target = _find_replaced(history.read(name, home), running)
        if running is None or target is None:
            file = history.history_file(name, home)
            raise CallError(f"{name}: no earlier release in {file} to go back to from {running or 'nothing'}")
        old = archive.spec_of(name, target, home)
        entry = _new_entry(client, old, "rollback", running)
        history.begin(entry, name, home)
        with _settle_on_error(client, name, say, home):
            _register(client, old, say)
            _verify(client, old, say)
            client.set_default(name, target)
        history.append(entry, name, home)
        say(f"{name}: {target} is the default again")
        _drain(client, name, running, say)
        register_release(old, say)
        return entry


@contextmanager
def _settle_on_error(client: Client, name: str, say: Say, home: Path | None) -> Iterator[None]:
    """If a rollback fails, record what became of it. Raises ReleaseError for a RequestError."""
    try:
        yield
    except BaseException as error:
        with signals.ignored(), suppress(RequestError):
            _settle(client, name, say, home, reason=str(error) or type(error).__name__)
        if isinstance(error, RequestError):
            raise ReleaseError(f"{name}: no rollback: {error}") from error
        raise


def _settle(
    client: Client, name: str, say: Say, home: Path | None, reason: str = "it was killed"
) -> Entry | None:
    """Record or take back an unfinished release or rollback; the entry of it, None without one.

    The caller has the lock.
    """
    left = history.unfinished(name, _port_of(client), home)
    if left is None:
        return None
    default, what = default_version(client, name), f"{name}: the {left.action} of {left.version}"
    if default == left.version:  # without another version it was so before it was verified
        settled = replace(left, reason=f"{reason}, after the switch")
        say(f"{what} did not end, but it is the default: recorded")
    else:
        settled = replace(left, action="refused", reason=f"{reason}, before the switch")
        if left.action == "release":
            _withdraw(client, name, left.version, default, say, wait=UNPACK_SECONDS - left.age())
        say(f"{what} did not end, and {default or 'nothing'} is still the default: taken back")
    history.append(settled, name, home)
    return settled


def default_version(client: Client, name: str) -> str | None:
    """The version that serves requests that name none; None when the model is not registered."""
    if not client.versions(name):
        return None
    return str(client.describe(name, "")[0]["modelVersion"])


def _find_replaced(entries: list[Entry], running: str | None) -> str | None:
    """The version that `running` replaced when it was released last."""
    for entry in reversed(entries):
        if entry.action == "release" and entry.version == running:
            return entry.replaced
    return None


def _register(client: Client, spec: Spec, say: Say) -> None:
    started, timeout = time.monotonic(), spec.serving.startup_timeout_s + 60
    is_new = client.register(spec.name, spec.version, spec.archive_name, timeout=timeout)
    outcome = f"registered in {time.monotonic() - started:.1f} s" if is_new else "was registered already"
    say(f"{spec.name} {spec.version}: {outcome}")


def _verify(client: Client, spec: Spec, say: Say) -> None:
    if reasons := readiness.problems(client, spec):
        raise ReleaseError(f"{spec.name} {spec.version} is not ready: {'; '.join(reasons)}")
    say(f"{spec.name} {spec.version}: ready, answers its golden samples")


def _drain(client: Client, name: str, version: str, say: Say) -> None:
    """Wait until nothing is pending at `version`; requests that name it still reach it."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while pending := int(client.describe(name, version)[0]["jobQueueStatus"]["pendingRequests"]):
        if time.monotonic() > deadline:
            say(
                f"{name} {version}: {pending} requests are still pending after {DRAIN_SECONDS:.0f} s; they "
                "stay with it"
            )
            return
        time.sleep(0.1)


def _unregister_older(client: Client, name: str, keep: set[str], say: Say) -> None:
    """Unregister versions that no rollback needs: their workers take memory. Their archives stay."""
    for version in client.versions(name):
        if version not in keep:
            client.unregister(name, version)
            say(f"{name} {version}: unregistered; its archive stays in the store")


def _withdraw(client: Client, name: str, version: str, running: str | None, say: Say, wait: float) -> None:
    """Leave the server as it was. Waits up to `wait` seconds until it lists the new version."""
    deadline = time.monotonic() + wait
    while version not in client.versions(name) and time.monotonic() < deadline:
        time.sleep(0.2)
    if running is not None and default_version(client, name) == version:
        client.set_default(name, running)
    if client.unregister(name, version):
        stays = f"; {running} stays the default" if running else ""
        say(f"{name} {version}: unregistered again{stays}")


def _new_entry(client: Client, spec: Spec, action: str, running: str | None) -> Entry:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Entry(now, action, spec.version, archive.checksum(spec), _port_of(client), running)


def _port_of(client: Client) -> int:
    return int(client.inference.rsplit(":", 1)[-1])
