"""The URLs of jobs.

GET    /jobs            the newest jobs and their number by state; needs the management key
GET    /jobs/ID         state and progress
GET    /jobs/ID/result  the answer of one that is done; the refusal of one that failed
DELETE /jobs/ID         ends and forgets it
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from marina.engines.gateway.failures import JobNotFound
from marina.engines.gateway.jobs.job import ENDED
from marina.engines.gateway.jobs.service import Jobs

if TYPE_CHECKING:
    from marina.engines.gateway.app import Gateway

POLL = {"retry-after": "1"}

Answer = Callable[[Request], Awaitable[Response]]


class JobPages:
    """What the URLs answer. Raises Failures."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    async def listed(self, _: Request) -> Response:
        """All jobs."""
        return JSONResponse(await self.jobs.listed())

    async def one(self, request: Request) -> Response:
        """State and progress of a job, or its end."""
        job_id = request.path_params["id"]
        if request.method == "DELETE":
            await self.jobs.delete(job_id)
            return Response(status_code=204)
        job = await self.jobs.look(job_id)
        headers = {} if job.state in ENDED else POLL
        return JSONResponse(job.described(self.jobs.limits.keep_hours), headers=headers)

    async def result(self, request: Request) -> Response:
        """Its result."""
        job_id = request.path_params["id"]
        found = await self.jobs.result(job_id)
        if isinstance(found, tuple):
            return Response(found.content, int(found.status), media_type=found.content_type)
        if not found.is_file():  # deleted this moment
            raise JobNotFound(job_id)
        return FileResponse(found, media_type="application/json")


def job_routes(gateway: "Gateway", jobs: Jobs) -> list[Route]:
    """The routes, each behind its key."""
    pages = JobPages(jobs)
    return [
        _guarded(gateway, "/jobs", "management", pages.listed, ["GET"]),
        _guarded(gateway, "/jobs/{id}", "inference", pages.one, ["GET", "DELETE"]),
        _guarded(gateway, "/jobs/{id}/result", "inference", pages.result, ["GET"]),
    ]


def _guarded(gateway: "Gateway", path: str, scope: str, answer: Answer, methods: list[str]) -> Route:
    async def endpoint(request: Request) -> Response:
        gateway.tokens.check(request.headers.get("authorization", ""), scope)
        response = await answer(request)
        response.headers["x-request-id"] = gateway.request_id(request.headers)
        return response

    return Route(path, endpoint, methods=methods)
