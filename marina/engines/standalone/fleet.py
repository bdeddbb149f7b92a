"""What is registered, and the worker processes that have it.

Every worker has every version, so that any of them can answer any request; there are as many workers as the
version with the most asks for (minWorkers). A change is made on all workers or on none. A worker that dies is
replaced by one that loads what is registered.
"""

import asyncio
import json
import logging
import time
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from marina.core import files
from marina.core.errors import CallError
from marina.core.zip_files import UNREADABLE, check_unpacked_size
from marina.engines.gateway.failures import ModelNotFound, VersionNotFound
from marina.engines.gateway.management import SHADOW_RESULTS, ManagementFailure, Registration, bad_request
from marina.engines.gateway.unpacking import with_settings
from marina.engines.standalone.channel import ActionFailed, Disconnected
from marina.engines.standalone.pool import STOP_SECONDS, WorkerPool
from marina.engines.standalone.version import Version
from marina.engines.standalone.worker_process import WorkerProcess, WorkerSettings

logger = logging.getLogger(__name__)

REGISTERED = "registered.json"
DESCRIBE_SECONDS = 2.0  # a worker that says nothing for longer hangs


class Fleet:
    """The registered versions of one server, and its workers, which share a socket."""

    def __init__(self, settings: WorkerSettings, store: Path) -> None:
        self.folder, self.store = settings.folder, store
        self.versions: dict[tuple[str, str], Version] = {}
        self.pool = WorkerPool(settings, store, self.versions.values)

    async def start(self) -> None:
        """Start the first worker."""
        await self.pool.grow(1)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Let all workers answer what they have accepted, for at most `seconds`, and end them."""
        await self.pool.stop(seconds)

    async def register(self, wanted: Registration) -> Version:
        """Load a version on all workers, or on none. Raises ManagementFailure with the reason."""
        archive, name, version, config = self._read(wanted)
        async with self.pool.change:
            if (name, version) in self.versions:
                raise ManagementFailure(
                    409,
                    "ConflictStatusException",
                    f"Model version {version} is already registered for model {name}",
                )
            config = with_settings(config, wanted.settings)
            new = Version(name, version, archive.name, dict(wanted.settings), config)
            least = config.get("minWorkers", wanted.workers)
            most = config.get("maxWorkers", least)
            new.min_workers, new.max_workers = least, max(least, most)
            new.is_default = not any(known == name for known, _ in self.versions)
            if new.min_workers:
                await self._load(new, archive, new.min_workers)
            else:
                await self.pool.tell_all("set_idle", **new.identity, is_default=new.is_default)
            self.versions[name, version] = new
            self._save()
        logger.info("registered %s %s", name, version)
        return new

    async def unregister(self, name: str, version: str | None) -> None:
        """Remove a version, by default the default one, which has to be the last of its model."""
        async with self.pool.change:
            removed = self.find(name, version)
            if removed.shadow_percent:
                await self._end_shadow(name)
            others = [known for known in self.versions.values() if known.name == name and known != removed]
            if removed.is_default and others:
                raise ManagementFailure(
                    403,
                    "InvalidModelVersionException",
                    f"Can't remove default version: {removed.version} for model {name}; make another the "
                    "default first",
                )
            del self.versions[name, removed.version]
            self._save()
            await self.pool.tell_all("remove", **removed.identity)
            self.pool.shrink(self._wanted())
        logger.info("unregistered %s %s", name, removed.version)

    async def set_default(self, name: str, version: str) -> None:
        """Send requests without a version to this one."""
        async with self.pool.change:
            default = self.find(name, version)
            if not default.is_default:
                await self._end_shadow(name)
            for known in self.versions.values():
                if known.name == name:
                    known.is_default = known is default
            self._save()
            if default.min_workers:
                await self.pool.tell_all("set_default", **default.identity)
            else:
                await self.pool.tell_all("set_idle", **default.identity, is_default=True)

    async def scale(self, name: str, version: str | None, least: int, most: int) -> None:
        """Have at least as many workers; none takes the version from all of them."""
        async with self.pool.change:
            scaled = self.find(name, version)
            before = scaled.min_workers
            if not least and (scaled.is_default or scaled.shadow_percent):
                await self._end_shadow(name)
            if least and not before:
                await self._load(scaled, self.store / scaled.archive, least)
            elif before and not least:
                await self.pool.tell_all("remove", **scaled.identity)
                await self.pool.tell_all("set_idle", **scaled.identity, is_default=scaled.is_default)
            scaled.min_workers, scaled.max_workers = least, max(least, most)
            self._save()
            await self.pool.grow(self._wanted())
            self.pool.shrink(self._wanted())

    async def set_shadow(self, name: str, version: str, percent: float) -> None:
        """Have a version answer so many of its model's requests too, in the place of another such; 0 ends it.

        Raises ManagementFailure for one that can't.
        """
        async with self.pool.change:
            shadow, default = self.find(name, version), self.find(name)
            if percent and shadow is default:
                raise bad_request(f"{name} {version} is the default version; a shadow is another one")
            if percent and not (shadow.min_workers and default.min_workers):
                raise bad_request(f"{name}: both versions need workers; scale {version} up first")
            await self._end_shadow(name)
            if percent:
                shadow.shadow_percent = percent
                try:
                    await self._apply_shadow(shadow, percent)
                except ActionFailed as error:
                    await self._end_shadow(name)
                    raise bad_request(f"{name} {version} can't be compared: {error}") from None
            self._save()
        logger.info("%s %s answers %g %% of the requests too", name, version, percent)

    async def shadow_tally(self, name: str, version: str) -> dict[str, Any]:
        """What came of the requests that a version answered beside the default one, since it began."""
        shadow, counts = self.find(name, version), Counter(dict.fromkeys(SHADOW_RESULTS, 0))
        if shadow.shadow_percent:
            for tally in await self._tallies(name):
                counts.update(tally)
        return {"modelVersion": version, "percent": shadow.shadow_percent, **counts}

    async def _end_shadow(self, name: str) -> None:
        for known in self.versions.values():
            if known.name == name and known.shadow_percent:
                known.shadow_percent = 0.0
                await self._apply_shadow(known, 0.0)

    async def _apply_shadow(self, version: Version, percent: float) -> None:
        """Have all who answer for the model begin or end it. Raises ActionFailed for a kind that can't."""
        await self.pool.tell_all("set_shadow", **version.identity, percent=percent)

    async def _tallies(self, name: str) -> list[dict[str, int]]:
        tallies = []
        for worker in list(self.pool.workers):
            with suppress(Disconnected):
                tallies.append(await worker.call("shadow_tally", name=name))
        return tallies

    def find(self, name: str, version: str | None = None) -> Version:
        """A registered version, by default the default one. Raises ModelNotFound or VersionNotFound."""
        of_name = [known for known in self.versions.values() if known.name == name]
        if not of_name:
            raise ModelNotFound(name)
        for known in of_name:
            if known.version == version or (version is None and known.is_default):
                return known
        raise VersionNotFound(name, version or "")

    def all_versions(self, name: str) -> list[Version]:
        """The versions of a model, the default one first. Raises ModelNotFound."""
        self.find(name)
        return sorted(
            (known for known in self.versions.values() if known.name == name),
            key=lambda known: not known.is_default,
        )

    def names(self) -> list[str]:
        """The registered models, sorted."""
        return sorted({name for name, _ in self.versions})

    async def describe(self, version: Version, customized: bool) -> dict[str, Any]:
        """A version as TorchServe describes it. Raises ManagementFailure when what the version says of itself
        is wanted, and none of its workers answers.
        """
        workers = self.pool.workers if version.min_workers else []
        ready = [worker for worker in workers if worker.status == "READY"]
        answers = [
            answer for answer in await asyncio.gather(*(_ask(one, version) for one in ready)) if answer
        ]
        if customized and ready and not answers:
            raise ManagementFailure(
                503, "ServiceUnavailableException", f"no worker says anything within {DESCRIBE_SECONDS:g} s"
            )
        own = answers[0]["described"] if answers else {}
        pending = sum(answer["pending"] for answer in answers)
        queue_size = int(version.config.get("jobQueueSize") or 100)
        return {
            "modelName": version.name,
            "modelVersion": version.version,
            "modelUrl": version.archive,
            "engine": "standalone",
            "runtime": "python",
            **{key: value for key, value in version.config.items() if key != "handler"},
            "minWorkers": version.min_workers,
            "maxWorkers": version.max_workers,
            "loadedAtStartup": False,
            "workers": [_worker_entry(worker) for worker in workers],
            "jobQueueStatus": {
                "remainingCapacity": max(0, queue_size * max(1, len(ready)) - pending),
                "pendingRequests": pending,
            },
            **({"customizedMetadata": own} if customized else {}),
        }

    def _read(self, wanted: Registration) -> tuple[Path, str, str, dict[str, Any]]:
        """The archive of a registration, the name and version to register, and its model-config."""
        archive = self.store / wanted.archive
        try:
            check_unpacked_size(archive, wanted.archive)
            with zipfile.ZipFile(archive) as packed:
                manifest = json.loads(packed.read("MAR-INF/MANIFEST.json"))["model"]
                has_config = "model-config.yaml" in packed.namelist()
                config = yaml.safe_load(packed.read("model-config.yaml")) if has_config else {}
            name = wanted.name or manifest["modelName"]
            return archive, name, manifest["modelVersion"], dict(config or {})
        except FileNotFoundError:
            raise ManagementFailure(
                404, "ModelNotFoundException", f"Model not found in model store: {wanted.archive}"
            ) from None
        except (CallError, *UNREADABLE, TypeError, yaml.YAMLError) as error:
            raise ManagementFailure(
                400, "InvalidModelException", f"{wanted.archive} can't be read as an archive: {error}"
            ) from error

    async def _load(self, version: Version, archive: Path, count: int) -> None:
        """Load on all workers, which become as many as it asks for, or on none. Raises ManagementFailure."""
        try:
            await self.pool.load_everywhere(version, archive, max(self._wanted(), count))
        except ManagementFailure:
            self.pool.shrink(self._wanted())
            raise

    def _wanted(self) -> int:
        return max([1, *(version.min_workers for version in self.versions.values())])

    def _save(self) -> None:
        """Write down what is registered, for the server that takes this one's place."""
        content = [asdict(version) for version in self.versions.values()]
        files.write_atomic(self.folder / REGISTERED, json.dumps(content, indent=1) + "\n")


async def _ask(worker: WorkerProcess, version: Version) -> dict[str, Any]:
    """What a worker says of a version; nothing where it hangs or has ended, which `WorkerPool` sees to."""
    with suppress(Disconnected, ActionFailed, TimeoutError):
        async with asyncio.timeout(DESCRIBE_SECONDS):
            answer: dict[str, Any] = await worker.call("describe", **version.identity)
            return answer
    return {}


def _worker_entry(worker: WorkerProcess) -> dict[str, Any]:
    started = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(worker.started_at))
    return {
        "id": str(worker.number),
        "startTime": started,
        "status": worker.status,
        "memoryUsage": worker.memory_bytes(),
        "pid": worker.pid,
        "gpu": False,
        "gpuUsage": "N/A",
    }
