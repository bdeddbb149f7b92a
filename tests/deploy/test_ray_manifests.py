"""The files of deploy/ray: valid, consistent with each other and with Marina.

Not covered: KubeRay itself, which needs a Kubernetes cluster. What is checked of a RayCluster is written out
from its API (ray-project/kuberay, ray-operator/apis/ray/v1/raycluster_types.go); its pods are checked by
Kubernetes' own schemas, and machines.yaml by the schema that Ray brings. tests/server/test_ray_machines.py
runs the commands of the containers.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

import marina
from marina import cli
from marina.core import paths, spec
from tests.support.containerfile import STAGES, instructions
from tests.support.ray_manifests import FOLDER, HEAD, RAY_CLUSTER, WORKERS, manifests

VERSIONS = ["1.30", kubernetes_validate.latest_version()]
OTHERS = {one["kind"]: one for one in manifests() if one["kind"] != "RayCluster"}
GROUP_FIELDS = {"rayStartParams", "template"}
HEAD_FIELDS = {*GROUP_FIELDS, "serviceType", "headService", "enableIngress"}
WORKER_FIELDS = {*GROUP_FIELDS, "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts"}
FRONT, STORE = 8080, 6379


def containers(group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in group["template"]["spec"]["containers"]}


def ports(container: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_a_ray_cluster_has_the_fields_of_its_api() -> None:
    declared = RAY_CLUSTER["spec"]

    assert (RAY_CLUSTER["apiVersion"], RAY_CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    assert declared.keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert HEAD.keys() <= HEAD_FIELDS
    assert WORKERS.keys() <= WORKER_FIELDS
    assert WORKERS["minReplicas"] <= WORKERS["replicas"] <= WORKERS["maxReplicas"]
    for group in (HEAD, WORKERS):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_and_all_else_are_valid(version: str) -> None:
    for group in (HEAD, WORKERS):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, **group["template"]}
        kubernetes_validate.validate({**pod, "metadata": {"name": "node"}}, version, strict=True)
    for manifest in OTHERS.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_ray_is_the_locked_one_in_the_image_of_this_version() -> None:
    lock = (paths.SOURCE / "requirements.lock").read_text(encoding="utf-8")
    images = {one["image"] for group in (HEAD, WORKERS) for one in containers(group).values()}

    assert re.search(rf"^ray==({re.escape(RAY_CLUSTER['spec']['rayVersion'])}) ", lock, re.MULTILINE)
    assert images == {f"marina-ray:{marina.__version__}"}
    assert "--extra ray" in STAGES["cluster"]
    assert instructions("ray", "USER")[-1] == "10001:10001"
    assert instructions("ray", "EXPOSE") == [f"{STORE} {FRONT}"]


def test_nobody_has_rights_and_what_is_written_has_a_place() -> None:
    """Every mount is a volume of its pod; the model store and the token can't be changed."""
    for group in (HEAD, WORKERS):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in containers(group).values():
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"]
            assert not allowed["allowPrivilegeEscalation"]
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {mount["name"] for mount in mounts.values()} <= volumes.keys()
            assert all(mounts[f"/srv/marina/{name}"]["readOnly"] for name in ("models", "model_store"))
            assert mounts["/etc/marina"]["readOnly"]
            assert {"/tmp", "/tmp/ray"} <= mounts.keys()


def test_ports_are_those_that_the_commands_open() -> None:
    """Ray's metrics keep away from the front, which is where KubeRay would put them."""
    head, workers = containers(HEAD), containers(WORKERS)
    worker = workers["ray-worker"]
    (service,) = OTHERS["Service"]["spec"]["ports"]

    for group, container in ((HEAD, head["ray-head"]), (WORKERS, worker)):
        assert group["rayStartParams"]["metrics-export-port"] == str(ports(container)["metrics"])
        assert f"--front 0.0.0.0:{FRONT}" in container["args"][0]
        assert ports(container)["metrics"] != FRONT
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert ports(head["ray-head"])["gcs-server"] == STORE
    environment = {one["name"]: one.get("value") for one in head["controller"]["env"]}
    assert environment["MARINA_RAY_ADDRESS"] == f"$(POD_IP):{STORE}"
    assert service["targetPort"] == "inference"
    assert ports(worker)["inference"] == service["port"] == FRONT
    assert worker["readinessProbe"]["httpGet"] == {"path": "/ping", "port": FRONT}


def test_commands_are_those_of_marina() -> None:
    """Of the controller, its probes, and those before `ray start`."""
    controller = containers(HEAD)["controller"]
    probes = [controller[name]["exec"]["command"] for name in ("startupProbe", "livenessProbe")]
    group = typer.main.get_command(cli.app)

    for program, name, *words in ([*controller["command"], *controller["args"]], *probes):
        assert program == "marina"
        group.commands[name].make_context(name, list(words))  # type: ignore[attr-defined]
        assert [word for word in words if word in spec.names()] == spec.names()


def test_only_the_clusters_pods_reach_ray() -> None:
    """Clients reach the front alone; every selector finds the pods of this cluster."""
    policy = OTHERS["NetworkPolicy"]["spec"]
    name = RAY_CLUSTER["metadata"]["name"]
    own, clients, monitoring = policy["ingress"]

    assert policy["podSelector"]["matchLabels"] == {"ray.io/cluster": name}
    assert "ports" not in own
    assert own["from"] == [{"podSelector": policy["podSelector"]}]
    assert [port["port"] for port in clients["ports"]] == [FRONT]
    assert FRONT not in {port["port"] for port in monitoring["ports"]}
    for selector in (
        OTHERS["Service"]["spec"]["selector"],
        OTHERS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == {"ray.io/cluster": name, "ray.io/node-type": "worker"}
    claim = OTHERS["PersistentVolumeClaim"]["metadata"]["name"]
    for group in (HEAD, WORKERS):
        claims = [
            one["persistentVolumeClaim"]
            for one in group["template"]["spec"]["volumes"]
            if len(one) > 1 and "persistentVolumeClaim" in one
        ]
        assert claims == [{"claimName": claim, "readOnly": True}]


def test_rays_launcher_takes_the_file_for_machines() -> None:
    """By its own schema, and as it is completed when it is read; the machines' ports are the guide's."""
    ray = pytest.importorskip("ray", reason="pip install marina[ray]")
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    machines = yaml.safe_load((FOLDER / "machines.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(json.loads(schema.read_text(encoding="utf-8"))).validate(machines)
    validate_config(prepare_config(machines))

    head, provider = " ".join(machines["head_start_ray_commands"]), machines["provider"]
    assert f"--node-ip-address={provider['head_ip']}" in head
    assert f"MARINA_RAY_ADDRESS={provider['head_ip']}:{STORE}" in head
    assert len(provider["worker_ips"]) == machines["max_workers"]
    assert [word for word in head.split() if word in spec.names()] == spec.names()
