"""What concerns no single version: health, lists, descriptions, models that nobody knows.

The catalog knows what is registered from the route prefixes that Serve tells its proxies. It answers any
request for a version too, through a handle of Serve: that costs some milliseconds more than the front's way,
which takes all requests whose path says whom they are for.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from handlers.protocol.replies import Reply
from handlers.protocol.requests import Row
from marina.engines.gateway.app import Gateway
from marina.engines.gateway.bodies import Limits
from marina.engines.gateway.failures import ModelNotFound, NotAcceptable, NoWorkers, VersionNotFound
from marina.engines.gateway.metrics import Metrics
from marina.engines.gateway.tokens import Tokens
from marina.engines.ray.limits import ROUTES_SECONDS
from marina.engines.ray.replica import App, log_to, replica_name
from marina.engines.ray.replica_jobs import JobSetup
from marina.engines.ray.routes import RoutedModel, application, routed_models

logger = logging.getLogger(__name__)

FRESH_SECONDS = 5.0  # what changes through the management API is read again at once


class RemoteModel:
    """A version whose replicas are elsewhere, as the gateway asks it for answers and descriptions."""

    in_thread = True  # so that a caller that hangs up is noticed

    def __init__(self, name: str, version: str, told: dict[str, Any]) -> None:
        self.name, self.version = name, version
        self.predictor = SimpleNamespace(
            describe=lambda: told["described"],
            answer_schema=lambda: told["described"]["answer"],
            ragged=told["ragged"],
            export=SimpleNamespace(samples=[{"answer": told["sample_answer"]}]),
        )

    async def answer(self, row: Row, request_id: str, is_large: bool = False) -> Reply:
        """The reply of one of its replicas. Raises NoWorkers where all of them are gone."""
        try:
            handle = serve.get_app_handle(application(self.name, self.version))
            reply: Reply = await handle.answer.remote(row, request_id, is_large)
        except (RayError, RayServeException) as error:
            raise NoWorkers(self.name) from error
        return reply

    def stream(self, _row: Row, _request_id: str) -> Any:
        """Raises NotAcceptable: answers one after another come from a replica alone."""
        raise NotAcceptable(f"call /predictions/{self.name} for answers one after another")


class RemoteModels:
    """The table of what is registered, as `gateway.models.Models` has it of one process."""

    def __init__(self, routes: str) -> None:
        """`routes` is the address of Serve's own list of route prefixes."""
        self.observer: Any = None  # each replica counts its own
        self._routes = routes
        self._registered: dict[str, RoutedModel] = {}
        self._models: dict[tuple[str, str], RemoteModel] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def refresh(self, is_due: bool = False) -> None:
        """Read what is registered, unless that was done a moment ago and nobody says that it `is_due`."""
        async with self._reading:
            if not is_due and time.monotonic() - self._read_at < FRESH_SECONDS:
                return
            try:
                async with httpx.AsyncClient(timeout=ROUTES_SECONDS) as client:
                    prefixes = (await client.get(self._routes)).json()
            except (httpx.HTTPError, ValueError) as error:  # what was known goes on to be answered
                logger.warning("the routes can't be read: %r", error)
                self._read_at = time.monotonic()
                return
            registered = routed_models(prefixes)
            answering = {(model.name, one) for model in registered.values() for one in model.answering}
            for gone in self._models.keys() - answering:
                del self._models[gone]
            for name, version in answering - self._models.keys():
                told = await serve.get_app_handle(application(name, version)).describe.remote()
                self._models[name, version] = RemoteModel(name, version, told)
            self._registered, self._read_at = registered, time.monotonic()

    def get(self, name: str, version: str | None = None) -> Any:
        """A version, by default the default one.

        Raises ModelNotFound, VersionNotFound, or NoWorkers for one that is registered and not loaded.
        """
        if name not in self._registered:
            raise ModelNotFound(name)
        registered = self._registered[name]
        version = version or registered.default
        if version not in registered.versions:
            raise VersionNotFound(name, version)
        if (name, version) not in self._models:
            raise NoWorkers(name)
        return self._models[name, version]

    def names(self) -> list[str]:
        """The models of which a version answers."""
        return [name for name, model in self._registered.items() if model.answering]

    def versions(self, name: str) -> list[str]:
        """The versions of a model that answer, sorted. Raises ModelNotFound."""
        if name not in self._registered:
            raise ModelNotFound(name)
        return sorted(self._registered[name].answering)

    def default(self, name: str) -> str:
        """The version that calls without one reach. Raises ModelNotFound."""
        return str(self.get(name).version)


@dataclass(frozen=True)
class CatalogOptions:
    """Where Serve lists its routes; the content of the key file, without which all may call; where its log
    lies; the jobs, where there are any.
    """

    routes: str
    keys: Mapping[str, Any] | None
    log_folder: str
    jobs: JobSetup | None


class Catalog:
    """The gateway of all models."""

    def __init__(self, options: CatalogOptions) -> None:
        """Start without knowing anything; the first request makes it read what is registered."""
        log_to(Path(options.log_folder))
        tokens = Tokens.from_content(options.keys)
        self.models = RemoteModels(options.routes)
        self.metrics = Metrics()
        jobs = options.jobs.jobs(self.models) if options.jobs else None
        self.gateway = Gateway(self.models, tokens, Limits(), self.metrics, jobs)  # type: ignore[arg-type]

    async def __serve_build_asgi_app__(self) -> App:
        """The app that Serve calls for requests that no version gets."""
        return App(self.gateway, before=self.models.refresh)

    async def refresh(self) -> Sequence[str]:
        """Read again what is registered; the names of the models."""
        await self.models.refresh(is_due=True)
        return self.models.names()

    async def counted(self) -> tuple[str, str]:
        """As `Replica.counted`."""
        return replica_name(), self.metrics.exposition().decode()
