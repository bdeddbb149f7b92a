"""The standalone engine on KServe: the manifests are what KServe takes, refer to each other, and their
command serves.

KServe publishes its schema in a cluster only. What is checked here is written out from its API: the fields
of `ServingRuntimeSpec` (pkg/apis/serving/v1alpha1/servingruntime_types.go), of `PredictorSpec` and
`ComponentExtensionSpec` (pkg/apis/serving/v1beta1), and of `CanarySpec` (kserve/kserve, pull request 5672).
The pod is checked by Kubernetes' own schemas.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
import yaml
from prometheus_client.parser import text_string_to_metric_families

import marina
from marina.core import paths
from marina.core.spec import Spec
from marina.engines.standalone.model_server import MOUNTED, Options
from marina.engines.standalone.pool import STOP_SECONDS
from marina.engines.standalone.worker_process import KILL_SECONDS
from marina.packaging import archive
from tests.support.archived_code import SLOW_ANSWERS, append
from tests.support.model_servers import ModelServer, model_server

FOLDER = paths.SOURCE / "deploy" / "kserve" / "standalone"
RUNTIME, SERVICE, CANARY = (
    yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("servingruntime", "inferenceservice", "canary")
)
(CONTAINER,) = RUNTIME["spec"]["containers"]
PREDICTORS = [SERVICE["spec"]["predictor"], *(one["predictor"] for one in CANARY["spec"]["canary"])]
VERSIONS = ["1.30", kubernetes_validate.latest_version()]

RUNTIME_FIELDS = {
    "annotations",
    "labels",
    "supportedModelFormats",
    "protocolVersions",
    "containers",
    "volumes",
}
MODEL_FIELDS = {"modelFormat", "runtime", "protocolVersion", "storageUri"}
SCALING = {"minReplicas": int, "maxReplicas": int, "scaleMetric": str, "scaleTarget": int, "timeout": int}
OF_PODS = {"automountServiceAccountToken", "terminationGracePeriodSeconds"}

LEFT, SLOW = [0.0, 0.0, 0.1, 0.2], [3.0, 0.0, 0.0, 0.0]


def pod() -> dict[str, Any]:
    """The pod that KServe makes of the service and its runtime, as far as both say it."""
    predictor = SERVICE["spec"]["predictor"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "marina", "annotations": RUNTIME["spec"]["annotations"]},
        "spec": {
            **{key: predictor[key] for key in OF_PODS & predictor.keys()},
            "containers": RUNTIME["spec"]["containers"],
            "volumes": RUNTIME["spec"]["volumes"],
        },
    }


def test_the_runtime_has_kserves_fields_and_a_valid_pod() -> None:
    spec = RUNTIME["spec"]

    assert (RUNTIME["apiVersion"], RUNTIME["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert spec.keys() <= RUNTIME_FIELDS
    assert set(spec["protocolVersions"]) == {"v1", "v2", "grpc-v2"}
    assert CONTAINER["name"] == "kserve-container"  # KServe mounts the model into this one
    assert CONTAINER["image"] == f"marina-standalone:{marina.__version__}"
    for version in VERSIONS:
        kubernetes_validate.validate(pod(), version, strict=True)


def test_the_container_has_no_rights_and_one_place_to_write() -> None:
    allowed = CONTAINER["securityContext"]

    assert allowed["runAsNonRoot"]
    assert allowed["runAsUser"] == 10001
    assert allowed["readOnlyRootFilesystem"]
    assert not allowed["allowPrivilegeEscalation"]
    assert allowed["capabilities"] == {"drop": ["ALL"]}
    assert CONTAINER["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert [volume["name"] for volume in RUNTIME["spec"]["volumes"]] == ["tmp"]
    assert RUNTIME["spec"]["volumes"][0]["emptyDir"]["sizeLimit"]
    assert CONTAINER["resources"].keys() == {"requests", "limits"}


def test_the_command_has_the_ports_that_the_pod_names() -> None:
    """The model is read where KServe mounts it; probes and Prometheus ask the ports that are served."""
    options = Options.parse(CONTAINER["args"])
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    annotations = RUNTIME["spec"]["annotations"]

    assert CONTAINER["command"] == ["python", "-m", "marina.engines.standalone.model_server"]
    assert (str(options.folder), options.host) == (MOUNTED, "0.0.0.0")
    assert ports == {"http": options.port, "grpc": options.grpc_port}
    assert CONTAINER["ports"][0]["name"] == "http"  # becomes the service's port 80
    assert annotations["prometheus.kserve.io/port"] == str(options.metrics_port)
    assert {probe["httpGet"]["port"] for probe in probes().values()} == {options.port}
    grace = SERVICE["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert grace > options.drain_seconds + STOP_SECONDS + KILL_SECONDS


def probes() -> dict[str, Any]:
    return {name: probe for name, probe in CONTAINER.items() if name.endswith("Probe")}


@pytest.mark.parametrize("predictor", PREDICTORS, ids=["service", "canary"])
def test_a_service_asks_for_what_the_runtime_has(predictor: dict[str, Any]) -> None:
    model, spec = predictor["model"], RUNTIME["spec"]

    assert model.keys() == MODEL_FIELDS
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["protocolVersion"] in spec["protocolVersions"]
    assert model["modelFormat"] in [
        {"name": known["name"], "version": known["version"]} for known in spec["supportedModelFormats"]
    ]
    assert model["storageUri"].startswith("pvc://")
    assert predictor.keys() <= {"name", "model", "deploymentStrategy", *SCALING, *OF_PODS}
    assert all(type(predictor[key]) is kind for key, kind in SCALING.items() if key in predictor)


def test_the_canary_is_the_service_with_another_folder_and_a_share() -> None:
    """As KServe 0.20 has it in Standard mode: a named predictor that does not scale by itself."""
    (canary,) = CANARY["spec"]["canary"]
    without = {**CANARY, "spec": {"predictor": CANARY["spec"]["predictor"]}}
    stable = SERVICE["spec"]["predictor"]

    assert without == SERVICE
    assert SERVICE["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert canary.keys() == {"trafficPercent", "predictor"}
    assert 0 < canary["trafficPercent"] < 50
    assert canary["predictor"]["name"]
    assert canary["predictor"].keys().isdisjoint({"maxReplicas", "scaleMetric", "scaleTarget"})
    assert canary["predictor"]["model"]["storageUri"] != stable["model"]["storageUri"]
    assert 0 < stable["minReplicas"] <= stable["maxReplicas"]


@contextmanager
def container(folder: Path, *options: str) -> Iterator[ModelServer]:
    """The container's command, with `folder` in the place of the mounted one and on ports that are free; it
    gets the manifest's environment, and may write to its temporary folder alone.
    """
    mounted, *words = CONTAINER["args"]
    assert mounted == MOUNTED
    temporary = folder.parent / "tmp"
    temporary.mkdir()
    own = {one["name"]: one["value"].replace("/tmp", str(temporary)) for one in CONTAINER["env"]}
    environment = {**os.environ, **own, "TMPDIR": str(temporary)}
    command = [sys.executable, *CONTAINER["command"][1:]]
    with model_server(folder, *options, command=command, env=environment, words=words) as server:
        yield server


def test_the_containers_command_serves_every_protocol(exported: Callable[..., Spec], home: Path) -> None:
    """KServe v1, Triton's clients of v2 over HTTP and gRPC, metrics, probes; nothing manages."""
    spec = exported()
    archive.build(spec)

    with container(spec.archive_path.parent) as server:
        server.wait_until_ready()
        first = server.predict(LEFT)
        over_http = triton_http(server)
        over_grpc = triton_grpc(server)
        health = {name: server.get(probe["httpGet"]["path"]) for name, probe in probes().items()}
        requests_total = counted(server, 3)
        family = [one := psutil.Process(server.process.pid), *one.children(recursive=True)]
        listening = {
            connection.laddr
            for process in family
            for connection in process.net_connections("tcp")
            if connection.status == "LISTEN"
        }

    assert first.json()["predictions"][0]["action"] == over_http == over_grpc == 1
    assert {name: answer.status_code for name, answer in health.items()} == dict.fromkeys(probes(), 200)
    assert requests_total == 3
    assert {address.port - server.port for address in listening} == {0, 1, 2}
    assert {address.ip for address in listening} <= {"0.0.0.0", "::"}


def counted(server: ModelServer, count: int) -> float:
    """The requests that the metrics have, which come a moment later, at the latest after 10 s."""
    path = RUNTIME["spec"]["annotations"]["prometheus.kserve.io/path"]
    total, deadline = 0.0, time.monotonic() + 10
    while total < count and time.monotonic() < deadline:
        page = requests.get(f"http://127.0.0.1:{server.port + 2}{path}", timeout=10).text
        families = {metric.name: metric for metric in text_string_to_metric_families(page)}
        if "marina_requests" in families:
            total = families["marina_requests"].samples[0].value
    return total


def triton_http(server: ModelServer) -> int:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_ready()
        assert client.is_model_ready("balance")
        return int(client.infer("balance", tensors(tritonclient.http)).as_numpy("action")[0])


def triton_grpc(server: ModelServer) -> int:
    with closing(tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.port + 1}")) as client:
        assert client.is_server_ready()
        return int(client.infer("balance", tensors(tritonclient.grpc)).as_numpy("action")[0])


def tensors(library: Any) -> list[Any]:
    tensor = library.InferInput("observation", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.array([LEFT], np.float32))
    return [tensor]


@pytest.mark.slow
def test_a_pod_that_goes_loses_no_request(exported: Callable[..., Spec], home: Path) -> None:
    """Under load, as in a cluster: callers learn from the probe that the pod goes, send to another one from
    then on, and have got an answer to everything that they sent. Requests that take a second are among them.
    """
    spec = exported(more="serving: {batch_size: 1}\n")
    archive.build(spec)
    append(spec, SLOW_ANSWERS)
    statuses: list[int] = []
    gone = threading.Event()

    def call(observation: list[float]) -> None:
        with requests.Session() as session:  # keeps its connection until it is told not to
            body = {"instances": [{"observation": observation}]}
            while not gone.is_set():
                answer = session.post(f"{server.url}/v1/models/balance:predict", json=body, timeout=60)
                statuses.append(answer.status_code)

    with container(spec.archive_path.parent, "--drain-seconds=2") as server:
        server.wait_until_ready()
        callers = [threading.Thread(target=call, args=(one,)) for one in [LEFT] * 6 + [SLOW] * 2]
        for caller in callers:
            caller.start()
        while len(statuses) < 50:
            assert server.process.poll() is None
        before = len(statuses)
        server.terminate()
        server.wait_for("/v2/health/ready", 503)
        gone.set()
        for caller in callers:
            caller.join(60)
        code = server.process.wait(60)

    assert set(statuses) == {200}
    assert len(statuses) >= before + len(callers) - 1
    assert code == 0
    assert list((home / "tmp").iterdir()) == []
