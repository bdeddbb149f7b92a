"""The management API as TorchServe's callers know it: paths, query parameters, answers and statuses.

An engine says what a call does through `Fleet`. Archives are named by their file in the model store; nothing
is fetched from elsewhere.
"""

import asyncio
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from marina.engines.gateway.failures import Failure, ResourceNotFound
from marina.engines.gateway.tokens import Tokens

logger = logging.getLogger(__name__)

ARCHIVE = re.compile(r"[A-Za-z0-9_.-]+\.mar")
SETTINGS = {  # query parameter -> key of the archive's model-config.yaml
    "batch_size": "batchSize",
    "max_batch_delay": "maxBatchDelay",
    "response_timeout": "responseTimeout",
    "startup_timeout": "startupTimeout",
}
RUNTIMES = ("python", "python2", "python3")
PAGE = 100
SHADOW_RESULTS = ("same", "different", "failed", "skipped")  # of a request that a shadow answered too

Handler = Callable[[Request], Awaitable[Response]]


class ManagementFailure(Exception):
    """A call that could not be done; the message is the caller's."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status, self.type = status, error_type


@dataclass(frozen=True)
class Registration:
    """What a caller wants to register: a file of the model store, and what differs from its archive."""

    archive: str
    name: str | None
    workers: int
    settings: Mapping[str, Any]


class RegisteredVersion(Protocol):
    """What the API says of a version."""

    name: str
    version: str
    archive: str
    min_workers: int
    max_workers: int


class Fleet(Protocol):
    """What an engine does for the API. All raise ManagementFailure, ModelNotFound or VersionNotFound."""

    async def register(self, wanted: Registration) -> RegisteredVersion:
        """Register a version and return when it answers, on all workers, or fail on all."""

    async def unregister(self, name: str, version: str | None) -> None:
        """Remove a version, by default the default one, when it has answered what it has accepted."""

    async def set_default(self, name: str, version: str) -> None:
        """Send requests without a version to this one."""

    async def scale(self, name: str, version: str | None, least: int, most: int) -> None:
        """Change how many workers a version has."""

    async def set_shadow(self, name: str, version: str, percent: float) -> None:
        """Have a version answer so many of its model's requests too; 0 ends it."""

    async def shadow_tally(self, name: str, version: str) -> dict[str, Any]:
        """What came of them."""

    def find(self, name: str, version: str | None = None) -> Any:
        """A version, by default the default one."""

    def all_versions(self, name: str) -> Sequence[Any]:
        """All versions of a model, the default one first."""

    def names(self) -> list[str]:
        """The registered models, sorted."""

    async def describe(self, version: Any, customized: bool) -> dict[str, Any]:
        """A version as TorchServe describes it."""


class Management:
    """The ASGI app of the management API."""

    def __init__(self, fleet: Fleet, tokens: Tokens) -> None:
        self.fleet, self.tokens = fleet, tokens
        self._background: set[asyncio.Task[Any]] = set()
        name, version = "/models/{name}", "/models/{name}/{version}"
        self.app = Starlette(
            routes=[
                Route("/models", self._guarded(self._list), methods=["GET"]),
                Route("/models", self._guarded(self._register), methods=["POST"]),
                *self._both(name, version, self._describe, "GET"),
                *self._both(name, version, self._scale, "PUT"),
                *self._both(name, version, self._unregister, "DELETE"),
                Route(f"{version}/set-default", self._guarded(self._set_default), methods=["PUT"]),
                Route(f"{version}/shadow", self._guarded(self._set_shadow), methods=["PUT"]),
                Route(f"{version}/shadow", self._guarded(self._shadow), methods=["GET"]),
            ],
            exception_handlers={HTTPException: _no_such_call},
        )
        self.app.router.redirect_slashes = False

    def _both(self, name: str, version: str, handler: Handler, method: str) -> list[Route]:
        return [
            Route(path, self._guarded(handler), methods=[method])
            for path in (name, f"{name}/", version, f"{version}/")
        ]

    def _guarded(self, handler: Handler) -> Handler:
        """`handler` for who may manage, with its errors as answers."""

        async def run(request: Request) -> Response:
            try:
                self.tokens.check(request.headers.get("authorization", ""), "management")
                return await handler(request)
            except Failure as error:
                headers = {key.decode(): value.decode() for key, value in error.headers}
                return _failure(error.status, error.type, str(error), headers)
            except ManagementFailure as error:
                return _failure(error.status, error.type, str(error))
            except Exception:  # unforeseen: logged with its traceback, and the caller gets a 500 without it
                logger.exception("%s %s failed", request.method, request.url.path)
                return _failure(
                    500, "InternalServerException", "the server failed on this call; its log says why"
                )

        return run

    async def _list(self, request: Request) -> Response:
        """GET /models?limit=N&next_page_token=N"""
        names = self.fleet.names()
        limit, first = _whole(request, "limit", PAGE), _whole(request, "next_page_token", 0)
        limit, first = limit if 0 < limit <= PAGE else PAGE, max(0, first)
        page = names[first : first + limit]
        content: dict[str, Any] = {
            "models": [{"modelName": name, "modelUrl": self.fleet.find(name).archive} for name in page]
        }
        if first + limit < len(names):
            content["nextPageToken"] = str(first + limit)
        return JSONResponse(content)

    async def _register(self, request: Request) -> Response:
        """POST /models?url=FILE.mar&model_name=NAME&initial_workers=N

        Answers when all workers are ready, whatever `synchronous` says, as TorchServe does.
        """
        version = await self.fleet.register(await _registration(request))
        count = f"{version.min_workers} initial workers"
        words = f'Model "{version.name}" Version: {version.version} registered with {count}'
        if not version.min_workers:
            words += ". Use scale workers API to add workers for the model."
        return JSONResponse({"status": words})

    async def _describe(self, request: Request) -> Response:
        """GET /models/NAME[/VERSION|/all]?customized=true"""
        name, version = request.path_params["name"], request.path_params.get("version")
        shown = self.fleet.all_versions(name) if version == "all" else [self.fleet.find(name, version)]
        customized = request.query_params.get("customized", "").lower() == "true"
        return JSONResponse([await self.fleet.describe(one, customized) for one in shown])

    async def _scale(self, request: Request) -> Response:
        """PUT /models/NAME[/VERSION]?min_worker=N&max_worker=N&synchronous=true"""
        name, version = request.path_params["name"], request.path_params.get("version")
        scaled = self.fleet.find(name, version)
        least = _whole(request, "min_worker", 1)
        most = _whole(request, "max_worker", max(least, 1))
        if least < 0 or most < least:
            raise bad_request(f"min_worker {least} and max_worker {most}: give 0 <= min <= max")
        work = self.fleet.scale(name, scaled.version, least, most)
        if not _is_synchronous(request):
            self._run_in_background(work)
            return JSONResponse({"status": "Processing worker updates..."}, 202)
        await work
        return JSONResponse({"status": f"Workers scaled to {least} for model: {name}"})

    async def _set_shadow(self, request: Request) -> Response:
        """PUT /models/NAME/VERSION/shadow?percent=N"""
        name, version = request.path_params["name"], request.path_params["version"]
        percent = _percent(request.query_params.get("percent"))
        await self.fleet.set_shadow(name, version, percent)
        return JSONResponse(await self.fleet.shadow_tally(name, version))

    async def _shadow(self, request: Request) -> Response:
        """GET /models/NAME/VERSION/shadow"""
        name, version = request.path_params["name"], request.path_params["version"]
        return JSONResponse(await self.fleet.shadow_tally(name, version))

    async def _unregister(self, request: Request) -> Response:
        """DELETE /models/NAME[/VERSION]"""
        name = request.path_params["name"]
        await self.fleet.unregister(name, request.path_params.get("version"))
        return JSONResponse({"status": f'Model "{name}" unregistered'})

    async def _set_default(self, request: Request) -> Response:
        """PUT /models/NAME/VERSION/set-default"""
        name, version = request.path_params["name"], request.path_params["version"]
        await self.fleet.set_default(name, version)
        return JSONResponse(
            {"status": f'Default version successfully updated for model "{name}" to "{version}"'}
        )

    def _run_in_background(self, work: Awaitable[Any]) -> None:
        """Do it after the answer; a failure is in the log."""

        async def run() -> None:
            try:
                await work
            except (ManagementFailure, Failure) as error:
                logger.error("%s", error)
            except Exception:  # nobody waits for it any more: the log is the only place to say it
                logger.exception("a call that was answered with 202 failed")

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _registration(request: Request) -> Registration:
    """What a call asks to register: query parameters, or the same keys as JSON."""
    given: dict[str, Any] = dict(request.query_params)
    if "application/json" in request.headers.get("content-type", ""):
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise bad_request("the body must be a JSON object")
        given = {**body, **given}
    url = given.get("url")
    if url is None:
        raise bad_request("Parameter url is required.")
    if not isinstance(url, str) or not ARCHIVE.fullmatch(url):
        status, error_type = (404, "ModelNotFoundException") if not url else (400, "InvalidModelException")
        raise ManagementFailure(
            status, error_type, f"{url!r} is no file of the model store; name one, like digits-1.0.mar"
        )
    if given.get("handler"):
        raise bad_request("an archive brings its own handler; leave the parameter handler out")
    if given.get("runtime", "python") not in RUNTIMES:
        raise bad_request(f"runtime must be one of {', '.join(RUNTIMES)}")
    settings = {
        key: value
        for parameter, key in SETTINGS.items()
        if (value := _number(given.get(parameter))) is not None and value > 0
    }
    workers = _number(given.get("initial_workers")) or 0
    return Registration(url, given.get("model_name"), max(0, workers), settings)


def bad_request(message: str) -> ManagementFailure:
    """A call that says something wrong."""
    return ManagementFailure(400, "BadRequestException", message)


def _percent(text: str | None) -> float:
    """Raises ManagementFailure for anything but a number from 0 to 100."""
    try:
        percent = float(text or "")
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:
        raise bad_request("percent must be a number from 0 to 100; 0 ends the shadow")
    return percent


def _is_synchronous(request: Request) -> bool:
    return request.query_params.get("synchronous", "").lower() == "true"


def _whole(request: Request, parameter: str, default: int) -> int:
    value = _number(request.query_params.get(parameter))
    return default if value is None else value


def _number(value: Any) -> int | None:
    """A whole number, as a number or in words; None for anything else, as TorchServe reads it."""
    try:
        return int(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        return None


def _failure(
    status: int, error_type: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    content = {"code": int(status), "type": error_type, "message": message}
    return JSONResponse(content, int(status), headers)


async def _no_such_call(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = "Requested method is not allowed, please refer to API document."
        return _failure(status, "MethodNotAllowedException", message)
    missing = ResourceNotFound()
    return _failure(missing.status, missing.type, str(missing))
