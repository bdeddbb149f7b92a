"""A version as Serve runs it: handler, batches and the gateway in one process.

A replica is there when its golden samples are answered rightly; one that fails says why in the status of its
application. A batch that hangs, or golden samples that are answered wrongly later, fail the health check,
and Serve replaces the replica.
"""

import gc
import json
import logging
import logging.handlers
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve

from handlers.protocol.errors import BrokenArchive
from handlers.protocol.replies import Reply
from handlers.protocol.requests import Row
from handlers.runtime.golden import difference
from marina.core import processes, scratch
from marina.core.errors import CallError
from marina.engines.gateway.app import Gateway
from marina.engines.gateway.bodies import Limits, Message, Receive, Send
from marina.engines.gateway.failures import Failure, Refused, reply_to
from marina.engines.gateway.metrics import Metrics
from marina.engines.gateway.models import Models
from marina.engines.gateway.served_model import ServedModel
from marina.engines.gateway.shadow import Shadow
from marina.engines.gateway.tokens import Tokens
from marina.engines.ray.archives import local_archive
from marina.engines.ray.replica_jobs import JobSetup, ReplicaJobs
from marina.engines.ray.routes import application, version_prefix

logger = logging.getLogger(__name__)

PREFIX = f"{processes.PREFIX}replica-"  # of the folders of unpacked archives
GOLDEN_SECONDS = 10.0  # between golden samples of the health check
DEFAULT_RESPONSE_SECONDS = 120.0
LOG_FORMAT = "%(asctime)s %(levelname)s %(process)d %(message)s"


@dataclass(frozen=True)
class ReplicaOptions:
    """What a replica serves: an archive, as `name`, under the settings of its registration. Paths are texts.

    `archive` is a path that every node has, or an address that it is fetched from. Where `log_folder` is a
    folder of the replica's node, it logs there. `keys` is the content of the key file, without which all may
    call. Without `jobs` there are none.
    """

    archive: str
    sha256: str
    name: str
    version: str
    keys: Mapping[str, Any] | None
    log_folder: str
    startup_seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    jobs: JobSetup | None = None


class Replica:
    """One process of a version."""

    def __init__(self, options: ReplicaOptions) -> None:
        """Load the archive and answer its golden samples. Raises BrokenArchive or CallError."""
        log_to(Path(options.log_folder))
        scratch.remove_leftovers(PREFIX)
        own = scratch.new_path(PREFIX, Path(tempfile.gettempdir()))
        self._lock = scratch.make_locked(own)  # no limit: as long as this process lives
        self.model = _load_in_time(options, own / "archive")
        if options.name != self.model.name:
            self.model.predictor.rename(options.name)
            self.model.name = options.name
        self.model.predictor.telemetry.log("ready", self.model.ready)
        models, self.metrics = Models(), Metrics()
        models.add(self.model)
        tokens = Tokens.from_content(options.keys)
        self.jobs = ReplicaJobs(options.jobs, models, self.model) if options.jobs else None
        jobs = self.jobs.jobs if self.jobs else None
        self.gateway = Gateway(models, tokens, Limits(), self.metrics, jobs)
        self._golden_at = time.monotonic()
        gc.collect()
        gc.freeze()  # what exists now stays; scanning it for garbage again and again would delay requests

    async def __serve_build_asgi_app__(self) -> "App":
        """The app that Serve calls for every request to this version."""
        return App(self.gateway, version_prefix(self.model.name, self.model.version), jobs=self.jobs)

    async def reconfigure(self, shadow: Mapping[str, Any]) -> None:
        """Have another version answer a share of the requests too: {"version": "1.1", "percent": 10}, or
        nobody. Serve calls it at the start and after a change.
        """
        name = self.model.name
        self.gateway.shadows.pop(name, None)
        if shadow:
            count = partial(self.metrics.count_shadow, name, shadow["version"])
            kind = self.model.predictor.metadata["kind"]
            ask = partial(_ask, application(name, shadow["version"]))
            try:
                made = Shadow(shadow["version"], shadow["percent"], kind, ask, count)
            except CallError as error:  # raised, it would end a replica that answers well
                logger.error("%s %s can't be compared: %s", name, shadow["version"], error)
            else:
                self.gateway.shadows[name] = made

    async def shadow_tally(self) -> dict[str, int]:
        """What came of the requests that a shadow answered too."""
        shadow = self.gateway.shadows.get(self.model.name)
        return dict(shadow.tally) if shadow else {}

    async def counted(self) -> tuple[str, str]:
        """The replica's name, and what it has counted, as Prometheus reads it."""
        return replica_name(), self.metrics.exposition().decode()

    async def answer(self, row: Row, request_id: str, is_large: bool) -> Reply:
        """The reply to a request that did not come by HTTP, refusals too."""
        try:
            return Reply(*await self.model.answer(row, request_id, is_large))  # the archive's own is unknown
        except Refused as error:
            return reply_to(error, request_id)

    async def describe(self) -> dict[str, Any]:
        """What the catalog says of the version."""
        predictor = self.model.predictor
        return {
            "described": predictor.describe(),
            "ragged": predictor.ragged,
            "sample_answer": predictor.export.samples[0]["answer"],
            "pending": self.model.pending,
            "config": self.model.config,
        }

    async def check_health(self) -> None:
        """Raise where a batch hangs, or a golden sample is answered differently from its archive."""
        model = self.model
        limit = float(model.config.get("responseTimeout") or DEFAULT_RESPONSE_SECONDS)
        if model.busy_since is not None and time.monotonic() - model.busy_since > limit:
            raise RuntimeError(f"a batch takes longer than {limit:.0f} s (responseTimeout)")
        if model.busy_since is None and time.monotonic() - self._golden_at > GOLDEN_SECONDS:
            self._golden_at = time.monotonic()
            await self._answer_golden_sample()

    async def _answer_golden_sample(self) -> None:
        sample = self.model.predictor.export.samples[0]
        row = ({"body": sample["body"]}, {"content-type": sample["content_type"]})
        try:
            reply = await self.model.answer(row, "golden")
        except Failure:  # a full queue is no fault of the model's
            return
        wrong = difference(sample["answer"], json.loads(reply.content), reduced=bool(sample.get("reduced")))
        if wrong:
            logger.error("%s %s is not healthy: %s", self.model.name, self.model.version, wrong)
            raise RuntimeError(f"golden sample {sample['name']!r}: {wrong}")


def replica_name() -> str:
    """What Serve calls the replica that runs here."""
    return str(serve.get_replica_context().replica_id.unique_id)


async def _ask(version: str, row: Row, request_id: str) -> Reply:
    """The reply of another version's replica, by Serve's own way: some milliseconds of processor."""
    return Reply(*await serve.get_app_handle(version).answer.remote(row, request_id, False))


class App:
    """A gateway behind a route prefix, which it does not know; `before` is awaited before each request, and
    `jobs` are computed for as long as Serve has the app.
    """

    def __init__(
        self,
        gateway: Gateway,
        prefix: str = "",
        before: Callable[[], Awaitable[None]] | None = None,
        jobs: ReplicaJobs | None = None,
    ) -> None:
        self.gateway, self.prefix, self.before, self.jobs = gateway, prefix, before, jobs

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, or Serve's question whether the process is ready to start or end: it is."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self.before:
            await self.before()
        scope = {**scope, "path": scope["path"].removeprefix(self.prefix), "root_path": ""}
        await self.gateway(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        kind = ""
        while kind != "lifespan.shutdown":
            kind = (await receive())["type"]
            if self.jobs:
                await (self.jobs.start() if kind == "lifespan.startup" else self.jobs.stop())
            await send({"type": f"{kind}.complete"})


def _load_in_time(options: ReplicaOptions, folder: Path) -> ServedModel:
    """Load the archive in a thread, which is given up after startupTimeout: Serve ends the process then.
    Raises BrokenArchive.
    """
    loaded: Future[ServedModel] = Future()

    def load() -> None:
        try:
            archive = local_archive(options.archive, options.sha256)
            loaded.set_result(ServedModel.load(archive, folder, options.settings))
        except Exception as error:  # raised again where somebody waits
            loaded.set_exception(error)

    threading.Thread(target=load, daemon=True).start()
    try:
        return loaded.result(options.startup_seconds)
    except TimeoutError:
        seconds = f"{options.startup_seconds:.0f} s (startupTimeout)"
        raise BrokenArchive(f"it was not ready within {seconds}") from None


def log_to(folder: Path) -> None:
    """Write this process's log to models.log in `folder`, where that is a folder of this node; somebody may
    move the file away.
    """
    if folder.is_dir():
        handler = logging.handlers.WatchedFileHandler(folder / "models.log")
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        root = logging.getLogger()  # an archive's loggers have names of their own
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        logging.getLogger("httpx").setLevel(logging.WARNING)
