"""The store of jobs: one result for each, bounds in number and age, metrics. Real stores on the disk."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from marina.engines.gateway.failures import TooManyJobs
from marina.engines.gateway.jobs import store as job_store
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.metrics import JobCollector
from marina.engines.gateway.jobs.store import JobStore

LIMITS = JobLimits()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path / "jobs", LIMITS)
    yield opened
    opened.close()


def queued(store: JobStore, body: bytes = b"1") -> str:
    job_id = store.new_id()
    store.body(job_id).write_bytes(body)
    store.add(job_id, "stepped", "", "{}", "")
    return job_id


def test_of_two_runs_one_alone_has_a_result(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was held up, and whose job another one has taken over, can't write over it."""
    job_id = queued(store)
    first = store.claim(["stepped"])
    assert first
    assert store.claim(["stepped"]) is None
    later = time.time() + job_store.LEASE_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)

    second = store.claim(["stepped"])

    assert second
    store.result(second).write_bytes(b"2")
    store.result(first).write_bytes(b"1")
    assert not store.renew(first, 1, 1, 0, 1)
    assert not store.finish(first, 1, 0)
    assert store.finish(second, 1, 0)
    assert (store.get(job_id).state, store.result(store.get(job_id)).read_bytes()) == ("done", b"2")
    assert not store.result(first).exists()


def test_a_job_that_kills_its_process_is_given_up(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three times, with the reason."""
    job_id, now = queued(store), time.time()
    for _ in range(3):
        assert store.claim(["stepped"])
        now += job_store.LEASE_SECONDS + 1
        monkeypatch.setattr(time, "time", lambda now=now: now)

    assert store.claim(["stepped"]) is None
    store.clean()

    job = store.get(job_id)
    assert (job.state, "3 times" in (job.error or "")) == ("failed", True)


def test_jobs_and_their_files_are_kept_for_so_long(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended ones are forgotten, and one that nobody could compute fails."""
    done, waiting = queued(store), queued(store)
    job = store.claim(["stepped"])
    assert job
    assert job.id == done
    store.result(job).write_bytes(b"1")
    store.finish(job, 1, 0)
    (store.results / "orphan").touch()
    os.utime(store.results / "orphan", (0, 0))
    later = time.time() + 25 * 3600
    monkeypatch.setattr(time, "time", lambda: later)

    store.clean()

    assert [job.id for job in store.newest(9)] == [waiting]
    assert (store.get(waiting).state, "24 hours" in (store.get(waiting).error or "")) == ("failed", True)
    assert list(store.results.iterdir()) == []


def test_the_metrics_have_the_jobs(store: JobStore) -> None:
    queued(store)

    found = {
        (metric.name, *sample.labels.values()): sample.value
        for metric in JobCollector(store.folder, LIMITS).collect()
        for sample in metric.samples
    }

    assert found["marina_jobs", "queued"] == 1
    assert (found["marina_jobs", "done"], found["marina_jobs_bytes",]) == (0, 1)


def test_the_number_of_jobs_is_bounded_also_at_once(tmp_path: Path) -> None:
    """The check is made again when the body has come."""
    store = JobStore(tmp_path, replace(LIMITS, max_jobs=1))
    queued(store)

    with pytest.raises(TooManyJobs, match="1 jobs are kept"):
        queued(store)
    store.close()
