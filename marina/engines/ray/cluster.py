"""Serve's applications as Marina wants them: deploys, waits, reads and removes. All calls block.

Applications keep their code version, so that a new number of replicas or a new route leaves the replicas that
run alone.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.api import RunTarget
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from marina.engines.ray.catalog import Catalog, CatalogOptions
from marina.engines.ray.limits import (
    ASK_SECONDS,
    CATALOG_SECONDS,
    CHANGE_SECONDS,
    FRONTS_SECONDS,
    ROUTES_SECONDS,
)
from marina.engines.ray.replica import Replica, ReplicaOptions
from marina.engines.ray.routes import (
    CATALOG,
    FRONT_PORT,
    SERVE_PORT,
    application,
    is_idle,
    model_prefix,
    version_prefix,
)
from marina.engines.ray.scale import Scale

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
QUIET = {"enable_access_log": False}  # Marina has its own
COMMON = {
    "logging_config": QUIET,
    "health_check_period_s": 1,
    "health_check_timeout_s": 3,
    "graceful_shutdown_wait_loop_s": 0.2,
    "max_surge_percent": 100,  # a new version starts before the old one stops
}
ROUTES = "/-/routes"


class DeploymentFailed(Exception):
    """A version did not come up; the message says why."""


class Model:
    """A registered model, which is nothing but its route prefix."""


REPLICA: Any = serve.deployment(name="Replica", **COMMON)(serve.ingress(None)(Replica))
CATALOG_REPLICA: Any = serve.deployment(name="Catalog", **COMMON)(serve.ingress(None)(Catalog))
NO_REPLICAS = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
MODEL: Any = serve.deployment(name="Model", autoscaling_config=NO_REPLICAS, **COMMON)(Model)


@dataclass(frozen=True)
class Node:
    """A node that lives: its address, the ports of Marina's front and of Serve's own, its cores."""

    address: str
    front_port: int
    serve_port: int
    cpus: float


class Cluster:
    """A Serve that runs; its HTTP port and that of the front are those of nodes that have no other."""

    def __init__(self, front_port: int, serve_port: int, resources: Mapping[str, float]) -> None:
        self.front_port, self.serve_port, self.resources = front_port, serve_port, dict(resources)
        self.routes = f"http://127.0.0.1:{serve_port}{ROUTES}"  # what Serve itself says of its applications

    def deploy_catalog(self, options: CatalogOptions) -> None:
        """Deploy the catalog, twice where there are several nodes, and wait until it runs. Raises
        DeploymentFailed or TimeoutError.
        """
        count = min(2, len(self.nodes()))
        catalog = CATALOG_REPLICA.options(
            num_replicas=count, max_replicas_per_node=1, ray_actor_options={"num_cpus": 0}
        )
        self._run(RunTarget(catalog.bind(options), CATALOG, "/"))
        self._wait_running(CATALOG, Scale(count, count), CATALOG_SECONDS)

    def deploy(
        self, options: ReplicaOptions, scale: Scale, seconds: float, settings: Mapping[str, Any]
    ) -> None:
        """Deploy a version, and wait until it has its replicas. Raises DeploymentFailed or TimeoutError.

        `settings` are Serve's: its code version, of which another restarts the replicas, queue and placing;
        another scale or user_config (see `Replica.reconfigure`) changes replicas that run.
        """
        name = application(options.name, options.version)
        replica = REPLICA.options(
            _internal=True,
            max_constructor_retry_count=1,
            ray_actor_options=self.resources,
            **settings,
            **scale.options(),
        )
        self._run(RunTarget(replica.bind(options), name, version_prefix(options.name, options.version)))
        self._wait_running(name, scale, seconds)

    def show(self, models: Mapping[str, tuple[str, Iterable[str]]]) -> None:
        """Route to these models, given as {name: (default, other versions)}, and to no others; wait until all
        proxies do.
        """
        wanted = {name: model_prefix(name, *versions) for name, versions in models.items()}
        shown = {name: prefix for name, prefix in self.applications().items() if name.count("/") == 0}
        changed = [name for name, prefix in wanted.items() if shown.get(name) != prefix]
        self._run(*(RunTarget(MODEL.bind(), name, wanted[name]) for name in changed))
        if gone := [name for name in shown if name not in wanted and name != CATALOG]:
            self.remove(gone)
        self._wait_for_routes({prefix for name, prefix in wanted.items()}, {shown[name] for name in gone})
        self._wait_for_fronts(name for name, (default, _) in models.items() if not is_idle(default))
        serve.get_app_handle(CATALOG).broadcast("refresh").results(timeout_s=CHANGE_SECONDS)

    def remove(self, names: Iterable[str]) -> None:
        """Remove applications when they have answered what they have accepted; doesn't wait for that."""
        _client().delete_apps(list(names), blocking=False)

    def wait_gone(self, name: str) -> None:
        """Return when an application of that name exists no more."""
        _wait(lambda: name not in serve.status().applications, CHANGE_SECONDS, f"{name} is not gone")

    def applications(self) -> dict[str, str]:
        """The applications with their route prefixes."""
        return {
            name: details["route_prefix"] or ""
            for name, details in self._details().items()
            if details["status"] != ApplicationStatus.DELETING
        }

    def counted(self) -> dict[str, str]:
        """What the replicas of all applications that run have counted, by their names; those of one that does
        not answer are left out.
        """
        pages: dict[str, str] = {}
        for name, details in self._details().items():
            if (name == CATALOG or "/" in name) and details["status"] == ApplicationStatus.RUNNING:
                try:
                    pages.update(self.ask_all(name, "counted"))
                except (RayError, RayServeException, TimeoutError) as error:
                    logger.warning("the replicas of %s do not say what they have counted: %s", name, error)
        return pages

    def replicas(self, name: str) -> list[dict[str, Any]]:
        """The replicas of an application as Serve describes them."""
        deployments = self._details().get(name, {}).get("deployments", {})
        return [replica for details in deployments.values() for replica in details["replicas"]]

    def ask(self, name: str) -> dict[str, Any]:
        """What a replica of an application says of its version. Raises RayError or TimeoutError."""
        told: dict[str, Any] = serve.get_app_handle(name).describe.remote().result(timeout_s=ASK_SECONDS)
        return told

    def ask_all(self, name: str, method: str) -> list[Any]:
        """What all replicas of an application answer. Raises RayError or TimeoutError."""
        return list(serve.get_app_handle(name).broadcast(method).results(timeout_s=ASK_SECONDS))

    def nodes(self) -> list[Node]:
        """The nodes that live."""
        return [
            Node(
                node["NodeManagerAddress"],
                int(node["Labels"].get(FRONT_PORT, self.front_port)),
                int(node["Labels"].get(SERVE_PORT, self.serve_port)),
                float(node["Resources"].get("CPU", 0)),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def computing_nodes(self) -> int:
        """How many nodes have cores for replicas."""
        return sum(node.cpus > 0 for node in self.nodes())

    def _details(self) -> dict[str, Any]:
        applications: dict[str, Any] = _client().get_serve_details().get("applications", {})
        return applications

    def _run(self, *targets: RunTarget) -> None:
        if targets:
            serve.run_many(
                targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
            )

    def _wait_running(self, name: str, scale: Scale, seconds: float) -> None:
        def runs() -> bool:
            status = serve.status().applications.get(name)
            if status is None:
                return False
            deployments = list(status.deployments.values())
            if status.status == ApplicationStatus.DEPLOY_FAILED:
                reasons = [deployment.message for deployment in deployments] or [status.message]
                raise DeploymentFailed(reason_in("\n".join(reasons)))
            running = sum(one.replica_states.get("RUNNING", 0) for one in deployments)
            total = sum(sum(one.replica_states.values()) for one in deployments)
            is_scaled = scale.least <= running == total <= scale.most
            return bool(status.status == ApplicationStatus.RUNNING and is_scaled)

        _wait(runs, seconds, f"{name} does not run")

    def _wait_for_routes(self, present: Iterable[str], absent: Iterable[str]) -> None:
        """Wait until every node's proxy has and has not these prefixes."""
        present, absent = set(present), set(absent)

        def has_routes() -> bool:
            for node in self.nodes():
                url = f"http://{node.address}:{node.serve_port}{ROUTES}"
                try:
                    routes = httpx.get(url, timeout=ROUTES_SECONDS, trust_env=False).json()
                except (httpx.HTTPError, ValueError):
                    continue  # a node without a replica has no proxy
                if not present <= routes.keys() or absent & routes.keys():
                    return False
            return True

        _wait(has_routes, CHANGE_SECONDS, "the proxies don't take the new routes")

    def _wait_for_fronts(self, names: Iterable[str]) -> None:
        """Wait until the front of every node that has one reaches these models: HAProxy has asked a replica
        for its health first. One that takes longer is only told: others answer.
        """
        fronts = [f"http://{node.address}:{node.front_port}" for node in self.nodes()]
        asked = list(itertools.product(fronts, names))
        try:
            _wait(lambda: all(_reaches(*one) for one in asked), FRONTS_SECONDS, "a front reaches no replica")
        except TimeoutError as error:
            logger.warning("%s", error)


def _reaches(front: str, name: str) -> bool:
    """Whether a front has a replica of a model: one refuses a request without a key, which costs nothing. A
    node without a front reaches nobody and is waited for by nobody.
    """
    try:
        answer = httpx.post(f"{front}/predictions/{name}", timeout=ROUTES_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return True
    return answer.status_code != httpx.codes.SERVICE_UNAVAILABLE


def running_port() -> int:
    """The HTTP port of the Serve that runs."""
    return int(_client().get_serve_details()["http_options"]["port"])


def reason_in(message: str) -> str:
    """The last line of a traceback in Serve's message: what the constructor raised."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    raised = [line for line in lines if ": " in line and line.split(":")[0].replace(".", "").isidentifier()]
    last = (raised or lines or ["no reason is known"])[-1]
    return last.partition(": ")[2] or last


def _client() -> Any:
    from ray.serve.context import _get_global_client

    return _get_global_client()


def _wait(condition: Callable[[], bool], seconds: float, problem: str) -> None:
    """Raises TimeoutError, with the problem, when the condition is not met in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{problem} after {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
