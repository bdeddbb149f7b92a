"""The management API's calls, done by Serve: an application for each version, and a route for each model.

What is registered is decided as the standalone engine decides it; `Replicas` stands for its worker processes.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from marina.engines.gateway.management import ManagementFailure, Registration, bad_request
from marina.engines.ray.archives import sha256
from marina.engines.ray.catalog import RemoteModels
from marina.engines.ray.cluster import Cluster, DeploymentFailed
from marina.engines.ray.ledger import Kept, KeptVersion, Ledger
from marina.engines.ray.limits import CHANGE_SECONDS, PROCESS_SECONDS
from marina.engines.ray.replica import ReplicaOptions
from marina.engines.ray.replica_jobs import JobSetup
from marina.engines.ray.routes import LONGEST_PREFIX, NAME, VERSION, application, idle, model_prefix
from marina.engines.ray.scale import Scale, per_node_of
from marina.engines.standalone.fleet import Fleet
from marina.engines.standalone.version import Version

logger = logging.getLogger(__name__)

# Serve's states in the words of TorchServe's workers
STATES = {"RUNNING": "READY", "UPDATING": "READY", "RECOVERING": "READY", "STARTING": "LOADING"}

Key = tuple[str, str]  # name, version


@dataclass(frozen=True)
class Deployed:
    """A deployment: its code version, the checksum of its archive, how many of its replicas a node may have
    (None for all), and its scale.

    All but the scale stay for as long as the version is deployed: another code version or placing would
    restart all replicas, and another archive under the same name is none of this version.
    """

    code: str
    sha256: str
    per_node: int | None
    scale: Scale


@dataclass(frozen=True)
class Setup:
    """What the replicas of all versions have in common: archives lie in `store`, and nodes fetch them from
    `archives`, where that is an address; `keys` is the content of the key file.
    """

    store: Path
    archives: str | None
    keys: Mapping[str, Any] | None
    log_folder: Path
    jobs: JobSetup | None


class Replicas:
    """The replicas of all versions, which follow what is `registered`."""

    def __init__(self, cluster: Cluster, setup: Setup, registered: Callable[[], Collection[Version]]) -> None:
        self.cluster, self.setup, self.registered = cluster, setup, registered
        self.models = RemoteModels(cluster.routes)
        self.workers: list[Any] = []  # no process has all versions
        self.change = asyncio.Lock()
        self._deployed: dict[Key, Deployed] = {}

    def take_over(self, version: Version, kept: KeptVersion) -> None:
        """A version was deployed by an earlier controller, in this way."""
        if version.min_workers:
            scale = _scale(version, version.min_workers, version.max_workers)
            deployed = Deployed(kept.code, kept.sha256, kept.per_node, scale)
            self._deployed[version.name, version.version] = deployed

    def kept(self, version: Version) -> KeptVersion:
        """A version and how it is deployed, for another controller's `take_over`."""
        deployed = self._deployed.get((version.name, version.version))
        how = (deployed.code, deployed.sha256, deployed.per_node) if deployed else ()
        return KeptVersion(asdict(version), *how)

    async def load(self, version: Version, count: int) -> None:
        """Deploy so many replicas of a version and show it when all have answered their golden samples; after
        a failure it is gone. Raises ManagementFailure.
        """
        if not NAME.fullmatch(version.name) or not VERSION.fullmatch(version.version):
            raise bad_request(f"{version.name} {version.version}: use letters, digits, _ and -")
        if len(model_prefix(version.name, *self._versions_of(version.name, version))) > LONGEST_PREFIX:
            raise bad_request(f"{version.name} has too many versions; unregister some")
        try:
            scale = _scale(version, count, max(count, version.max_workers))
            per_node = per_node_of(scale, await asyncio.to_thread(self.cluster.computing_nodes))
            checksum = await asyncio.to_thread(sha256, self.setup.store / version.archive)
            deployed = Deployed(secrets.token_hex(4), checksum, per_node, scale)
            await asyncio.to_thread(self._deploy, version, deployed)
        except (DeploymentFailed, TimeoutError) as error:
            self._deployed.pop((version.name, version.version), None)
            await asyncio.to_thread(self.cluster.remove, [application(version.name, version.version)])
            raise _failed(version, str(error)) from None
        await self.show(version)

    async def tell_all(self, _action: str, **_arguments: Any) -> None:
        """Bring Serve to what is registered."""
        await self.show()

    async def grow(self, _count: int) -> None:
        """Give each version the number of replicas that it is registered with."""
        for version in self.registered():
            deployed = self._deployed.get((version.name, version.version))
            wanted = _scale(version, version.min_workers, version.max_workers)
            if deployed and version.min_workers and wanted != deployed.scale:
                nodes = await asyncio.to_thread(self.cluster.computing_nodes)
                if deployed.per_node and wanted.most > deployed.per_node * nodes:
                    deployed = replace(deployed, per_node=per_node_of(wanted, nodes))
                try:
                    await asyncio.to_thread(self._deploy, version, replace(deployed, scale=wanted))
                except (DeploymentFailed, TimeoutError) as error:
                    raise _failed(version, str(error)) from None
        await self.show()

    def shrink(self, _count: int) -> None:
        """`grow` and `tell_all` have done it."""

    async def set_shadow(self, default: Version) -> None:
        """Tell the replicas of a default version which shadow is registered. Raises ManagementFailure."""
        if deployed := self._deployed.get((default.name, default.version)):
            try:
                await asyncio.to_thread(self._deploy, default, deployed)
            except (DeploymentFailed, TimeoutError) as error:
                raise _failed(default, str(error)) from None

    async def show(self, new: Version | None = None) -> None:
        """Route to what is registered, and to `new`; remove what is not."""
        await asyncio.to_thread(self._show, new)
        await self.learn()

    async def learn(self) -> None:
        """Read for gRPC what is registered; without an answer in time it knows what it has known."""
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                await self.models.refresh(is_due=True)
        except (RayError, RayServeException, TimeoutError) as error:
            logger.warning("gRPC does not know yet what is registered: %r", error)

    def _show(self, new: Version | None) -> None:
        names = {version.name for version in [*self.registered(), *([new] if new else [])]}
        self.cluster.show({name: self._versions_of(name, new) for name in names})
        loaded = {(one.name, one.version) for one in self.registered() if one.min_workers}
        if new:
            loaded.add((new.name, new.version))
        if gone := self._deployed.keys() - loaded:
            self.cluster.remove([application(*key) for key in gone])
        for key in gone:
            del self._deployed[key]

    def _versions_of(self, name: str, new: Version | None) -> tuple[str, list[str]]:
        """The default version of a model, and the others, as the model's route has them."""
        versions = {one.version: one for one in self.registered() if one.name == name}
        if new and new.name == name:
            versions[new.version] = new
        shown = {
            version: version if one.min_workers or one is new else idle(version)
            for version, one in versions.items()
        }
        default = next(version for version, one in versions.items() if one.is_default)
        return shown.pop(default), list(shown.values())

    def _deploy(self, version: Version, deployed: Deployed) -> None:
        key = version.name, version.version
        if key not in self._deployed:
            self.cluster.wait_gone(application(*key))  # an earlier one, which still answers
        setup = self.setup
        archive = setup.store / version.archive
        options = ReplicaOptions(
            archive=f"{setup.archives}{version.archive}" if setup.archives else str(archive),
            sha256=deployed.sha256,
            name=version.name,
            version=version.version,
            keys=setup.keys,
            log_folder=str(setup.log_folder),
            startup_seconds=version.startup_seconds,
            settings=version.settings,
            jobs=setup.jobs,
        )
        queue = int(version.config.get("jobQueueSize") or 100) + int(version.config.get("batchSize") or 1)
        self._deployed[key] = deployed
        seconds = version.startup_seconds + PROCESS_SECONDS
        own: dict[str, Any] = {"version": deployed.code, "max_replicas_per_node": deployed.per_node}
        own |= {"max_ongoing_requests": queue, "user_config": self._shadow_of(version)}
        self.cluster.deploy(options, deployed.scale, seconds, own)

    def _shadow_of(self, version: Version) -> dict[str, Any]:
        """The version that answers a share of this one's requests too, as its replicas are told."""
        shadows = [one for one in self.registered() if one.name == version.name and one.shadow_percent]
        if not (version.is_default and shadows):
            return {}
        return {"version": shadows[0].version, "percent": shadows[0].shadow_percent}


class RayFleet(Fleet):
    """The registered versions of one Serve."""

    def __init__(self, folder: Path, cluster: Cluster, setup: Setup, ledger: Ledger) -> None:
        self.folder, self.store, self.cluster, self.ledger = folder, setup.store, cluster, ledger
        self.versions: dict[Key, Version] = {}
        self.replicas = Replicas(cluster, setup, self.versions.values)
        self.pool = self.replicas  # type: ignore[assignment]
        self.models = self.replicas.models

    def take_over(self, kept: Kept | None) -> None:
        """Go on with the versions that the cluster serves since an earlier controller."""
        running = self.cluster.applications()
        for one in kept.versions if kept else ():
            version = Version(**one.version)
            if version.min_workers and application(version.name, version.version) not in running:
                logger.warning("%s %s is not served any more", version.name, version.version)
                continue
            self.versions[version.name, version.version] = version
            self.replicas.take_over(version, one)
        if self.versions:
            logger.info("took over %s", ", ".join(f"{name} {number}" for name, number in self.versions))

    async def register(self, wanted: Registration) -> Version:
        """As in Fleet."""
        new = await super().register(wanted)
        if not new.min_workers:
            await self.replicas.show()
        return new

    async def _load(self, version: Version, archive: Path, count: int) -> None:
        """As in Fleet, with as many replicas as this version asks for."""
        await self.replicas.load(version, count)

    async def _apply_shadow(self, version: Version, percent: float) -> None:
        """As in Fleet."""
        await self.replicas.set_shadow(self.find(version.name))

    async def _tallies(self, name: str) -> list[dict[str, int]]:
        """As in Fleet."""
        default = application(name, self.find(name).version)
        try:
            return await asyncio.to_thread(self.cluster.ask_all, default, "shadow_tally")
        except (RayError, RayServeException, TimeoutError) as error:
            words = f"the replicas of {default} don't say what they have compared"
            raise ManagementFailure(503, "ServiceUnavailableException", words) from error

    def _save(self) -> None:
        """As in Fleet; in the cluster too, for a controller that takes this one's place."""
        super()._save()
        versions = [self.replicas.kept(version) for version in self.versions.values()]
        self.ledger.write(Kept(self.replicas.setup.keys, versions))

    async def describe(self, version: Version, customized: bool) -> dict[str, Any]:
        """As in Fleet. Raises ManagementFailure when none of its replicas says what it is."""
        entry = await super().describe(version, customized=False)
        name = application(version.name, version.version)
        replicas = await asyncio.to_thread(self.cluster.replicas, name) if version.min_workers else []
        workers = [_worker_entry(replica) for replica in replicas if replica["state"] in STATES]
        entry |= {"engine": "ray", "workers": workers}
        if customized and workers:
            try:
                told = await asyncio.to_thread(self.cluster.ask, name)
            except (RayError, RayServeException, TimeoutError) as error:
                raise ManagementFailure(
                    503, "ServiceUnavailableException", f"no replica of {name} answers"
                ) from error
            entry["customizedMetadata"] = told["described"]
        elif customized:
            entry["customizedMetadata"] = {}
        return entry


def _scale(version: Version, least: int, most: int) -> Scale:
    """One more replica when each computes a whole batch and more waits."""
    return Scale(least, most, int(version.config.get("batchSize") or 1))


def _worker_entry(replica: dict[str, Any]) -> dict[str, Any]:
    """A replica as TorchServe describes a worker; its memory where it runs on this machine."""
    started = time.gmtime(replica["start_time_s"])
    pid = replica.get("pid") or 0
    try:
        memory = int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        memory = 0
    return {
        "id": replica["replica_id"],
        "startTime": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", started),
        "status": STATES[replica["state"]],
        "memoryUsage": memory,
        "pid": pid,
        "gpu": False,
        "gpuUsage": "N/A",
        "node": replica.get("node_ip"),
    }


def _failed(version: Version, reason: str) -> ManagementFailure:
    logger.error("%s %s did not come up: %s", version.name, version.version, reason)
    words = f"Failed to start workers for model {version.name} version: {version.version}: {reason}"
    return ManagementFailure(500, "InternalServerException", words)
