"""Jobs: requests that are answered later. Real stores on the disk, real calls, a steered model."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from marina.engines.gateway.failures import StorageFull
from marina.engines.gateway.jobs.limits import JobLimits
from marina.engines.gateway.jobs.store import JobStore
from marina.engines.gateway.tokens import Tokens
from tests.support.job_servers import ASYNC, PATH, Calls, JobServer, ended
from tests.support.stepped_predictors import Stepped

LIMITS = JobLimits()


@pytest.fixture
def predictor() -> Iterator[Stepped]:
    stepped = Stepped()
    yield stepped
    stepped.gate.set()


@pytest.fixture
def served(tmp_path: Path, predictor: Stepped) -> Callable[..., Any]:
    def run(calls: Calls, limits: JobLimits = LIMITS, tokens: Tokens | None = None) -> Any:
        return asyncio.run(
            JobServer(tmp_path / "jobs", predictor, limits, tokens or Tokens.open()).run(calls)
        )

    return run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path / "jobs", LIMITS)
    yield opened
    opened.close()


def test_a_job_without_a_version_waits_for_the_default_one(tmp_path: Path, predictor: Stepped) -> None:
    """A process of another version computes what names that version, and leaves the rest."""
    server = JobServer(tmp_path / "jobs", predictor, LIMITS, Tokens.open())
    server.has_default = False

    async def calls(client: httpx.AsyncClient) -> Any:
        version = server.models.versions("stepped")[0]
        paths = [
            (await client.post(path, json={"instances": [1]}, headers=ASYNC)).headers["location"]
            for path in (PATH, f"{PATH}/{version}")
        ]
        named = await ended(client, paths[1])
        waiting = (await client.get(paths[0])).json()["state"]
        server.has_default = True
        return named["state"], waiting, (await ended(client, paths[0]))["state"]

    assert asyncio.run(server.run(calls)) == ("done", "queued", "done")


def test_a_job_has_the_answer_that_the_request_would_get(served: Callable[..., Any]) -> None:
    """202 with its place; an instance that is refused has its error among the answers."""

    async def calls(client: httpx.AsyncClient) -> Any:
        made = await client.post(PATH, json={"instances": [1, "x", 3]}, headers=ASYNC)
        job = await ended(client, made.headers["location"])
        return made, job, await client.get(job["links"]["result"])

    made, job, result = served(calls)

    assert (made.status_code, made.headers["preference-applied"]) == (202, "respond-async")
    assert made.json()["state"] == "queued"
    assert (job["state"], job["progress"]) == ("done", {"done": 3, "total": 3, "errors": 1})
    first, second, third = result.json()["predictions"]
    assert (first, second["error"]["code"], third) == (2, 400, 6)


@pytest.mark.parametrize(
    ("body", "status", "content"),
    [
        (b"21", 200, 42),
        (b'"x"', 400, "no number"),
        (b'{"instances": []}', 400, "at least one"),
        (b"13", 500, "log"),
    ],
)
def test_one_instance_alone_has_its_own_answer(
    served: Callable[..., Any], body: bytes, status: int, content: Any
) -> None:
    """As the call without the preference: the answer, or the refusal with its status."""

    async def calls(client: httpx.AsyncClient) -> Any:
        headers = {**ASYNC, "content-type": "application/json"}
        made = await client.post(PATH, content=body, headers=headers)
        job = await ended(client, made.headers["location"])
        return job, await client.get(job["links"]["result"])

    job, result = served(calls)

    assert (job["state"], result.status_code) == ("done" if status == 200 else "failed", status)
    assert result.json() == content if status == 200 else content in result.json()["message"]


def test_bounds_are_named_before_anything_is_kept(served: Callable[..., Any], predictor: Stepped) -> None:
    """Too long a body, too many jobs, no more room: 413, 429, 507, each with its setting."""
    predictor.gate.clear()
    limits = replace(LIMITS, max_body_bytes=100, max_jobs=2, max_bytes=150)

    async def calls(client: httpx.AsyncClient) -> Any:
        async def chunks() -> Any:
            for _ in range(20):
                yield b"1" * 10

        post = lambda content: client.post(PATH, content=content, headers=ASYNC)  # noqa: E731
        found = [await post(b"1" * 101), await post(chunks()), await post(b"1" * 90), await post(b"2" * 90)]
        found += [await post(b"1"), await post(b"1")]
        predictor.gate.set()
        return found

    found = served(calls, limits)

    assert [answer.status_code for answer in found] == [413, 413, 202, 507, 202, 429]
    for answer, setting in zip(
        found, ["body_bytes", "body_bytes", "", "max_bytes", "", "max_jobs"], strict=True
    ):
        assert setting in answer.text
    assert "DELETE /jobs/ID" in found[3].json()["message"]
    assert found[5].headers["retry-after"] == "60"


def test_who_may_see_what(served: Callable[..., Any], tmp_path: Path) -> None:
    """A job needs the inference key, the list the other; no key and no cookie is written down."""
    keys = Tokens([("a-key-for-inference", ["inference"]), ("a-key-for-management", ["management"])])
    inference = {"authorization": "Bearer a-key-for-inference"}
    management = {"authorization": "Bearer a-key-for-management"}

    async def calls(client: httpx.AsyncClient) -> Any:
        made = await client.post(PATH, json=1, headers={**ASYNC, **inference, "cookie": "a-secret"})
        place = made.headers["location"]
        paths = [place, f"{place}/result", "/jobs"]
        await asyncio.sleep(0.3)
        return (
            [(await client.post(PATH, json=1, headers=ASYNC)).status_code],
            [(await client.get(path, headers=inference)).status_code for path in paths],
            [(await client.get(path, headers=management)).status_code for path in paths],
            (await client.get("/jobs", headers=management)).json()["counts"]["done"],
        )

    without, with_inference, with_management, done = served(calls, tokens=keys)

    assert (without, with_inference, with_management) == ([401], [200, 200, 401], [401, 401, 200])
    assert done == 1
    kept = b"".join(file.read_bytes() for file in (tmp_path / "jobs").rglob("*") if file.is_file())
    assert b"a-secret" not in kept
    assert b"a-key-for" not in kept


def test_what_is_not_there_or_not_done_is_said(served: Callable[..., Any], predictor: Stepped) -> None:
    predictor.gate.clear()

    async def calls(client: httpx.AsyncClient) -> Any:
        unknown = await client.post("/predictions/x", json=1, headers=ASYNC)
        made = await client.post(PATH, json=1, headers=ASYNC)
        early = await client.get(made.headers["location"] + "/result")
        gone = await client.delete(made.headers["location"])
        predictor.gate.set()
        after = await client.get(made.headers["location"])
        v2 = await client.post("/v2/models/stepped/infer", json={"inputs": []}, headers=ASYNC)
        wrong = await client.put("/jobs/x")
        return [unknown, early, gone, after, wrong], v2

    found, v2 = served(calls)

    assert [answer.status_code for answer in found] == [404, 409, 204, 404, 405]
    assert (found[1].json()["type"], found[3].json()["type"]) == (
        "JobNotDoneException",
        "JobNotFoundException",
    )
    assert found[4].headers["allow"] == "DELETE, GET, HEAD"
    assert v2.status_code != 202


def test_a_deleted_job_is_computed_no_further(served: Callable[..., Any], predictor: Stepped) -> None:
    predictor.seconds = 0.02

    async def calls(client: httpx.AsyncClient) -> None:
        made = await client.post(PATH, json={"instances": [1] * 500}, headers=ASYNC)
        await asyncio.sleep(0.5)
        await client.delete(made.headers["location"])
        await asyncio.sleep(1.5)

    served(calls)

    assert 0 < len(predictor.computed) < 300


def test_a_server_that_stops_leaves_its_jobs_to_the_next(tmp_path: Path) -> None:
    """The next one finishes them, and there is one result."""
    slow, quick = Stepped(0.02), Stepped()

    async def submit(client: httpx.AsyncClient) -> str:
        made = await client.post(PATH, json={"instances": list(range(100, 200))}, headers=ASYNC)
        await asyncio.sleep(0.5)
        return str(made.headers["location"])

    async def fetch(client: httpx.AsyncClient) -> Any:
        await ended(client, place)
        return (await client.get(f"{place}/result")).json()["predictions"]

    place = asyncio.run(JobServer(tmp_path, slow, LIMITS, Tokens.open()).run(submit))
    found = asyncio.run(JobServer(tmp_path, quick, LIMITS, Tokens.open()).run(fetch))

    assert 0 < len(slow.computed) < 100
    assert found == [2 * number for number in range(100, 200)]
    assert len(list((tmp_path / "results").iterdir())) == 1
    assert list((tmp_path / "bodies").iterdir()) == []


def test_a_full_disk_is_a_507(
    served: Callable[..., Any], store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the database grows no more, and where a result can't be written."""
    monkeypatch.setattr(JobStore, "new_id", lambda _: "full")
    (store.results / "full-1").symlink_to("/dev/full")

    async def calls(client: httpx.AsyncClient) -> Any:
        made = await client.post(PATH, json={"instances": [1, 2]}, headers=ASYNC)
        await ended(client, made.headers["location"])
        return await client.get(made.headers["location"] + "/result")

    result = served(calls)
    store._database.execute("PRAGMA max_page_count = 1")
    store._database.execute("PRAGMA cache_size = 1")

    assert (result.status_code, result.json()["type"]) == (507, "StorageFullException")
    store.body("x").touch()
    with pytest.raises(StorageFull, match="disk is full"):
        store.add("x", "m" * 100_000, "", "{}", "")


def test_many_processes_share_a_store(tmp_path: Path) -> None:
    """Two servers, twenty jobs: each is computed once."""
    predictors = [Stepped(0.005), Stepped(0.005)]

    async def both() -> list[Any]:
        finished = asyncio.Barrier(2)  # a server that stops leaves what it computes to the other
        servers = [JobServer(tmp_path, predictor, LIMITS, Tokens.open()) for predictor in predictors]

        async def calls(client: httpx.AsyncClient) -> Any:
            made = [await client.post(PATH, json=number, headers=ASYNC) for number in range(10)]
            found = [await ended(client, answer.headers["location"]) for answer in made]
            # no limit: the other has as many, and `ended` has one
            await finished.wait()
            return found

        return [
            job for jobs in await asyncio.gather(*(server.run(calls) for server in servers)) for job in jobs
        ]

    jobs = asyncio.run(both())

    assert [job["state"] for job in jobs] == ["done"] * 20
    assert sorted(predictors[0].computed + predictors[1].computed) == sorted([*range(10), *range(10)])


def test_a_job_rests_while_callers_are_about(predictor: Stepped, tmp_path: Path) -> None:
    """It takes a tenth of the time then, and all of it when they have gone."""
    predictor.seconds = 0.02
    busy: list[int] = []

    async def calls(client: httpx.AsyncClient) -> None:
        await client.post(PATH, json=7)
        made = await client.post(PATH, json={"instances": [1] * 400}, headers=ASYNC)
        await asyncio.sleep(0.2)
        before = len(predictor.computed)
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            assert (await client.post(PATH, json=7)).json() == 7
            await asyncio.sleep(0.02)
        busy.append(len(predictor.computed) - before)
        await asyncio.sleep(1.2)
        before = len(predictor.computed)
        await asyncio.sleep(1)
        busy.append(len(predictor.computed) - before)
        await client.delete(made.headers["location"])

    asyncio.run(JobServer(tmp_path, predictor, LIMITS, Tokens.open()).run(calls))

    assert 1 <= busy[0] <= 20
    assert busy[1] > busy[0]
