"""Jobs on disk: a SQLite database, and a file for each body and result.

    jobs.sqlite          one row per job
    bodies/ID            what was sent, until the job has ended
    results/ID-ATTEMPT   what is answered

The processes of a server share a store; an object of this class belongs to one thread. A job that runs has a
lease, which its process renews: when that has died, another process takes the job over. Each run has a number
of its own (`attempt`), and every write of a run names it, so that of two runs one alone has a result.
"""

import errno
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marina.engines.gateway.failures import JobNotFound, JobsUnavailable, StorageFull, TooManyJobs
from marina.engines.gateway.jobs.job import ENDED, STATES, Job
from marina.engines.gateway.jobs.limits import JobLimits

LEASE_SECONDS = 10.0
MAX_CRASHES = 3  # of processes that ran the same job
MAX_CALLBACK_TRIES = 5
FIRST_CALLBACK_PAUSE = 5.0  # seconds; four times as long after each further try
ORPHAN_SECONDS = 300.0  # longer than a body may take to arrive
SCHEMA = """ -- its columns stand as the fields of Job do
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, headers TEXT NOT NULL,
    state TEXT NOT NULL, created REAL NOT NULL, started REAL, finished REAL,
    total INTEGER, done INTEGER NOT NULL DEFAULT 0, errors INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0, lease REAL NOT NULL DEFAULT 0,
    error TEXT, body_bytes INTEGER NOT NULL, result_bytes INTEGER NOT NULL DEFAULT 0,
    callback TEXT NOT NULL DEFAULT '', callback_state TEXT NOT NULL DEFAULT '',
    callback_tries INTEGER NOT NULL DEFAULT 0, callback_at REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, created);
"""
CLAIM = """
UPDATE jobs SET state = 'running', attempt = attempt + 1, crashes = crashes + (state = 'running'),
    lease = ?, started = COALESCE(started, ?), done = 0, errors = 0, result_bytes = 0
WHERE id = (
    SELECT id FROM jobs
    WHERE (state = 'queued' OR (state = 'running' AND lease < ? AND crashes < ?))
        AND model || CASE version WHEN '' THEN '' ELSE '/' || version END IN ({marks})
    ORDER BY created LIMIT 1
) RETURNING *
"""
CLAIM_CALLBACK = """
UPDATE jobs SET callback_tries = callback_tries + 1, callback_at = ? + ? * (1 << (2 * callback_tries))
WHERE id = (
    SELECT id FROM jobs WHERE callback_state = 'pending' AND state IN ('done', 'failed') AND callback_at <= ?
    ORDER BY callback_at LIMIT 1
) RETURNING *
"""
END = "UPDATE jobs SET state = 'failed', finished = ?, error = ?, body_bytes = 0, result_bytes = 0 WHERE "
CRASHED = (
    '{"code":500,"type":"ModelError","message":"the server ended %d times while it computed this job; '
    'its log says why"}'
)
UNSERVED = (
    '{"code":503,"type":"ServiceUnavailableException","message":"nobody computed the job within %g hours '
    '(jobs.keep_hours): the model is not registered, or busy with other requests all the time"}'
)


class JobStore:
    """The jobs in `folder`. Every method raises StorageFull where the disk is full, JobsUnavailable where the
    database can't be read.
    """

    def __init__(self, folder: Path, limits: JobLimits) -> None:
        self.folder, self.limits = folder, limits
        self.bodies, self.results = folder / "bodies", folder / "results"
        with translated(folder):
            for each in (folder, self.bodies, self.results):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / "jobs.sqlite", timeout=10, isolation_level=None)
            self._database.row_factory = lambda _, row: row
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def new_id(self) -> str:
        """The name of a job to come, which nobody can guess."""
        return secrets.token_urlsafe(18)

    def body(self, job_id: str) -> Path:
        """The file of a job's body."""
        return self.bodies / job_id

    def result(self, job: Job) -> Path:
        """The file of a run's result."""
        return self.results / f"{job.id}-{job.attempt}"

    def check_room(self, new_bytes: int) -> None:
        """Raise TooManyJobs or StorageFull unless one more job of so many bytes may be kept."""
        with self._transaction() as database:
            self._check_room(database, new_bytes)

    def add(self, job_id: str, model: str, version: str, headers: str, callback: str) -> Job:
        """Queue a job whose body is in its file. Raises TooManyJobs."""
        size = self.body(job_id).stat().st_size
        with self._transaction() as database:
            self._check_room(database, size)
            database.execute(
                "INSERT INTO jobs (id, model, version, headers, state, created, body_bytes, callback, "
                "callback_state) VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?)",
                (job_id, model, version, headers, time.time(), size, callback, "pending" if callback else ""),
            )
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """A job. Raises JobNotFound."""
        return self._one("SELECT * FROM jobs WHERE id = ?", (job_id,)) or _raise_not_found(job_id)

    def newest(self, most: int) -> list[Job]:
        """The jobs that were queued last, the newest first."""
        return self._all("SELECT * FROM jobs ORDER BY created DESC LIMIT ?", (most,))

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state, and under "bytes" what they take."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT state, COUNT(*), SUM(body_bytes + result_bytes) FROM jobs GROUP BY state"
            ).fetchall()
        counts = dict.fromkeys(STATES, 0) | {state: count for state, count, _ in rows}
        return {**counts, "bytes": sum(taken for _, _, taken in rows)}

    def claim(self, models: Sequence[str]) -> Job | None:
        """The oldest job for one of `models` (NAME, or NAME/VERSION) that nobody runs; it is this process's
        from now on, for LEASE_SECONDS.
        """
        now = time.time()
        marks = ",".join("?" * len(models))
        values = (now + LEASE_SECONDS, now, now, MAX_CRASHES - 1, *models)
        return self._one(CLAIM.format(marks=marks), values)

    def renew(self, job: Job, total: int | None, done: int, errors: int, result_bytes: int) -> bool:
        """Keep the lease of a run and show its progress; False when it is not this run's job any more.

        Raises StorageFull when the results take more than they may.
        """
        with self._transaction() as database:
            is_ours = self._write(
                database,
                job,
                "lease = ?, total = ?, done = ?, errors = ?, result_bytes = ?",
                (time.time() + LEASE_SECONDS, total, done, errors, result_bytes),
            )
            self._check_bytes(database, 0)
        return is_ours

    def release(self, job: Job) -> None:
        """Give a run up: the job is queued as before."""
        with self._transaction() as database:
            self._write(
                database, job, "state = 'queued', lease = 0, done = 0, errors = 0, result_bytes = 0", ()
            )
        self.result(job).unlink(missing_ok=True)

    def finish(self, job: Job, done: int, errors: int) -> bool:
        """A run is done, its result in its file; False when it is not this run's job any more."""
        size = self.result(job).stat().st_size
        changes = (
            "state = 'done', finished = ?, total = ?, done = ?, errors = ?, result_bytes = ?, body_bytes = 0"
        )
        with self._transaction() as database:
            is_ours = self._write(database, job, changes, (time.time(), done, done, errors, size))
        self._end(job, is_ours)
        return is_ours

    def fail(self, job: Job, error: str) -> bool:
        """A run ends without a result; False when it is not this run's job any more."""
        changes = "state = 'failed', finished = ?, error = ?, result_bytes = 0, body_bytes = 0"
        with self._transaction() as database:
            is_ours = self._write(database, job, changes, (time.time(), error))
        self.result(job).unlink(missing_ok=True)
        self._end(job, is_ours)
        return is_ours

    def delete(self, job_id: str) -> None:
        """Forget a job, in whatever state. Raises JobNotFound."""
        job = self._one("DELETE FROM jobs WHERE id = ? RETURNING *", (job_id,)) or _raise_not_found(job_id)
        self._unlink(job)

    def claim_callback(self) -> Job | None:
        """An ended job whose caller is to be told now; the next try is due when this one has failed."""
        now = time.time()
        return self._one(CLAIM_CALLBACK, (now, FIRST_CALLBACK_PAUSE, now))

    def record_callback(self, job: Job, is_delivered: bool) -> None:
        """What became of a try."""
        if is_delivered or job.callback_tries >= MAX_CALLBACK_TRIES:
            state = "delivered" if is_delivered else "failed"
            with self._transaction() as database:
                database.execute("UPDATE jobs SET callback_state = ? WHERE id = ?", (state, job.id))

    def clean(self) -> None:
        """Forget what is too old, end what nobody can compute, remove files of nobody."""
        now = time.time()
        oldest = now - 3600 * self.limits.keep_hours
        crashed, unserved = CRASHED % MAX_CRASHES, UNSERVED % self.limits.keep_hours
        with self._transaction() as database:
            database.execute(
                f"{END} state = 'running' AND lease < ? AND crashes >= ?",
                (now, crashed, now, MAX_CRASHES - 1),
            )
            database.execute(f"{END} state = 'queued' AND created < ?", (now, unserved, oldest))
            old = database.execute(
                "DELETE FROM jobs WHERE state IN ('done', 'failed') AND finished < ? RETURNING *", (oldest,)
            ).fetchall()
            rows = database.execute("SELECT id, attempt, state FROM jobs").fetchall()
        for row in old:
            self._unlink(Job(*row))
        bodies = {job_id for job_id, _, state in rows if state not in ENDED}
        results = {f"{job_id}-{attempt}" for job_id, attempt, state in rows if state != "failed"}
        for folder, known in ((self.bodies, bodies), (self.results, results)):
            for file in folder.iterdir():
                if file.name not in known and _age(file) > ORPHAN_SECONDS:
                    file.unlink(missing_ok=True)

    def _check_room(self, database: sqlite3.Connection, new_bytes: int) -> None:
        ((kept, ended),) = database.execute(
            "SELECT COUNT(*), COALESCE(SUM(state IN (?, ?)), 0) FROM jobs", ENDED
        ).fetchall()
        if kept >= self.limits.max_jobs:
            raise TooManyJobs(self.limits.max_jobs, ended)
        self._check_bytes(database, new_bytes)

    def _check_bytes(self, database: sqlite3.Connection, new_bytes: int) -> None:
        ((taken,),) = database.execute("SELECT TOTAL(body_bytes + result_bytes) FROM jobs").fetchall()
        if taken + new_bytes > self.limits.max_bytes:
            most = f"{self.limits.max_bytes:,} bytes (jobs.max_bytes)"
            raise StorageFull(f"the bodies and results of jobs would take more than {most}")

    def _write(self, database: sqlite3.Connection, job: Job, changes: str, values: Sequence[Any]) -> bool:
        """Change the row of a run; whether it is still that run's."""
        update = f"UPDATE jobs SET {changes} WHERE id = ? AND attempt = ? AND state = 'running'"  # noqa: S608
        return database.execute(update, (*values, job.id, job.attempt)).rowcount == 1

    def _end(self, job: Job, is_ours: bool) -> None:
        """Remove what nobody needs when a run has ended: of runs that were killed, too."""
        if is_ours:
            self.body(job.id).unlink(missing_ok=True)
            self._unlink_results(job, job.attempt - 1)
        else:
            self.result(job).unlink(missing_ok=True)

    def _unlink(self, job: Job) -> None:
        self.body(job.id).unlink(missing_ok=True)
        self._unlink_results(job, job.attempt)

    def _unlink_results(self, job: Job, last: int) -> None:
        for attempt in range(1, last + 1):
            (self.results / f"{job.id}-{attempt}").unlink(missing_ok=True)

    def _all(self, statement: str, values: Sequence[Any]) -> list[Job]:
        with self._transaction() as database:
            rows = database.execute(statement, values).fetchall()
        return [Job(*row) for row in rows]

    def _one(self, statement: str, values: Sequence[Any]) -> Job | None:
        return next(iter(self._all(statement, values)), None)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One change, as a whole or not at all."""
        with translated(self.folder):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                if self._database.in_transaction:  # SQLite has done it already where the disk is full
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


@contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Raise StorageFull for a full disk, JobsUnavailable for a database that can't be read."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the server's disk is full") from error
        raise
    except sqlite3.Error as error:
        if "full" in str(error):
            raise StorageFull("the server's disk is full") from error
        raise JobsUnavailable(f"{error} ({folder.name}/jobs.sqlite)") from error


def _raise_not_found(job_id: str) -> Job:
    raise JobNotFound(job_id)


def _age(file: Path) -> float:
    try:
        return time.time() - file.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
