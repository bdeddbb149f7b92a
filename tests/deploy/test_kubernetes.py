"""The manifests for Kubernetes and KServe: valid by Kubernetes' own schemas, consistent with each other and
with Marina.

KServe publishes its schema in a cluster only, so what is checked of an InferenceService is written out here
from its v1beta1 API: KServe's own fields by name and type, everything else as the pod that it becomes, and
what Knative refuses.
"""

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

import marina
from marina import cli
from marina.core import paths, processes, spec
from marina.engines import server_process as server

FOLDER = paths.SOURCE / "deploy" / "kubernetes"
KSERVE = paths.SOURCE / "deploy" / "kserve"
# from the first that has everything we use
VERSIONS = ["1.30", "1.32", "1.34", kubernetes_validate.latest_version()]
CONFIG = paths.CONFIG.read_text(encoding="utf-8")
INFERENCE, MANAGEMENT, METRICS = (
    int(port) for port in re.findall(r"^\w+_address=http://127\.0\.0\.1:(\d+)$", CONFIG, re.MULTILINE)
)
KSERVE_FIELDS: dict[str, type] = {
    "minReplicas": int,
    "maxReplicas": int,
    "scaleMetric": str,
    "scaleTarget": int,
    "timeout": int,
    "canaryTrafficPercent": int,
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def base() -> dict[str, dict[str, Any]]:
    """Every manifest of the base, by its kind."""
    manifests = [read(file) for file in FOLDER.glob("base/*.yaml") if file.name != "kustomization.yaml"]
    return {manifest["kind"]: manifest for manifest in manifests}


def patched(overlay: str) -> dict[str, dict[str, Any]]:
    """The base with an overlay's patches (RFC 6902, of which the overlays use remove and replace) and its
    own manifests.
    """
    kustomization = read(FOLDER / overlay / "kustomization.yaml")
    manifests = copy.deepcopy(base())
    for patch in kustomization["patches"]:
        for change in read(FOLDER / overlay / patch["path"]):
            *keys, last = change["path"].strip("/").split("/")
            place: Any = manifests[patch["target"]["kind"]]
            for key in keys:
                place = place[int(key) if isinstance(place, list) else key]
            last = int(last) if isinstance(place, list) else last
            place[last]  # must be there, for both
            if change["op"] == "remove":
                del place[last]
            else:
                assert change["op"] == "replace"
                place[last] = change["value"]
    for name in kustomization["resources"]:
        if name.endswith(".yaml"):
            manifests["added"] = read(FOLDER / overlay / name)
    return manifests


def service(name: str) -> Any:
    return read(KSERVE / f"{name}.yaml")


def pod_of(predictor: dict[str, Any]) -> dict[str, Any]:
    """The pod that an InferenceService's predictor becomes: what is not KServe's own is Kubernetes'
    PodSpec.
    """
    inner = {key: value for key, value in predictor.items() if key not in KSERVE_FIELDS}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "marina"}, "spec": inner}


PODS = {
    **{
        name: lambda name=name: patched(name)["Deployment"]["spec"]["template"]["spec"]
        for name in ("volume", "queue-autoscaling")
    },
    "base": lambda: base()["Deployment"]["spec"]["template"]["spec"],
    "inferenceservice": lambda: pod_of(service("inferenceservice")["spec"]["predictor"])["spec"],
    "canary": lambda: pod_of(service("canary")["spec"]["predictor"])["spec"],
}


@pytest.fixture(params=PODS)
def pod(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PODS[request.param]()


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = [one for one in pod["containers"] if one["image"].startswith(("marina:", "marina-bundle:"))]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", ["base", "volume", "queue-autoscaling"])
def test_every_manifest_is_valid_down_to_unknown_fields(overlay: str, version: str) -> None:
    manifests = base() if overlay == "base" else patched(overlay)

    assert len(manifests) >= 6
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    manifest = base()["Deployment"]
    manifest["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_each_kustomization_names_every_file_beside_it() -> None:
    for folder in ("base", "volume", "queue-autoscaling"):
        kustomization = read(FOLDER / folder / "kustomization.yaml")
        named = {
            *kustomization["resources"],
            *(patch["path"] for patch in kustomization.get("patches", [])),
        } - {"../base"}

        assert named | {"kustomization.yaml"} == {file.name for file in (FOLDER / folder).iterdir()}


def test_the_images_are_those_of_the_containerfile_in_this_version() -> None:
    images = {one["name"]: one["newTag"] for one in read(FOLDER / "base" / "kustomization.yaml")["images"]}
    spec_of = base()["Deployment"]["spec"]["template"]["spec"]
    used = [one["image"].split(":") for one in (*spec_of["initContainers"], *spec_of["containers"])]
    compose = read(paths.SOURCE / "deploy" / "compose.yaml")["services"]["marina"]["image"]

    assert (
        images
        == {name: tag for name, tag in used if name.startswith("marina")}
        == dict.fromkeys(images, marina.__version__)
    )
    assert compose == f"marina:{images['marina']}"
    stages = re.findall(
        r"--target (\w+) -t (marina[a-z-]*):",
        (paths.SOURCE / "deploy" / "Containerfile").read_text(encoding="utf-8"),
    )
    assert dict(stages) == {
        "server": "marina",
        "standalone": "marina-standalone",
        "models": "marina-models",
        "bundle": "marina-bundle",
        "ray": "marina-ray",
    }


def test_every_container_keeps_to_the_restricted_pod_security_standard(pod: dict[str, Any]) -> None:
    outer = pod.get("securityContext", {})
    for one in (*pod.get("initContainers", []), *pod["containers"]):
        inner = {**outer, **one["securityContext"]}

        assert inner["runAsNonRoot"] is True
        assert inner["runAsUser"] == 10001
        assert inner["seccompProfile"] == {"type": "RuntimeDefault"}
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["limits"]["memory"]
        assert one["resources"]["requests"]["cpu"]
    assert pod["automountServiceAccountToken"] is False
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_every_folder_that_marina_writes_is_a_mounted_volume(pod: dict[str, Any]) -> None:
    """Every volume is mounted, and every folder that Marina writes to is a volume."""
    mounts = [
        mount for one in (*pod.get("initContainers", []), *pod["containers"]) for mount in one["volumeMounts"]
    ]
    writable = {
        mount["mountPath"] for mount in container_of(pod)["volumeMounts"] if not mount.get("readOnly")
    }

    assert {mount["name"] for mount in mounts} == {volume["name"] for volume in pod["volumes"]}
    assert writable == {"/srv/marina/run", "/tmp"}


def test_models_and_archives_lie_where_marina_looks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARINA_HOME", "/srv/marina")

    for overlay in (base(), patched("volume")):
        pod = overlay["Deployment"]["spec"]["template"]["spec"]
        read_only = {
            mount["mountPath"]: mount["subPath"]
            for mount in container_of(pod)["volumeMounts"]
            if mount.get("readOnly")
        }
        (logs,) = [one for one in pod["containers"] if one["name"] == "logs"]
        assert read_only == {str(folder): folder.name for folder in (paths.models(), paths.model_store())}
        assert logs["command"][-1] == str(paths.run(INFERENCE) / "logs" / "models.log")
    assert "MARINA_HOME=/srv/marina" in (paths.SOURCE / "deploy" / "Containerfile").read_text(
        encoding="utf-8"
    )


def test_ports_are_those_of_config_properties_and_management_is_nowhere(pod: dict[str, Any]) -> None:
    manifests = base()
    ports = {port["containerPort"]: port.get("name") for port in container_of(pod)["ports"]}
    named = {port["name"]: port["containerPort"] for port in container_of(PODS["base"]())["ports"]}
    allowed = [
        port["port"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]
    ]

    assert ports.keys() <= {INFERENCE, METRICS}
    assert [named[port["targetPort"]] for port in manifests["Service"]["spec"]["ports"]] == [INFERENCE]
    assert allowed == [INFERENCE, METRICS]
    assert manifests["NetworkPolicy"]["spec"]["egress"] == []
    assert all(rule["from"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"])
    assert manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"][
        "prometheus.io/port"
    ] == str(METRICS)
    assert not any(str(MANAGEMENT) in file.read_text(encoding="utf-8") for file in FOLDER.rglob("*.yaml"))


def test_probes_run_commands_of_marina_for_the_models_that_are_served(pod: dict[str, Any]) -> None:
    one = container_of(pod)
    probes = {name: one[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in one}
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]

    served = commands["serve"].make_context("serve", list(one["args"])).params["names"]
    for name, probe in probes.items():
        program, command, *words = probe["exec"]["command"]
        asked = commands[command].make_context(command, list(words)).params
        assert (program, command) == ("marina", "ready")
        assert asked["names"] == served == spec.names()
        assert asked["workers_only"] is (name == "livenessProbe")
    assert {"readinessProbe", "livenessProbe"} <= probes.keys()


def test_a_pod_is_restarted_only_after_torchserve_has_given_up_on_a_worker(pod: dict[str, Any]) -> None:
    liveness = container_of(pod)["livenessProbe"]

    waits = liveness["periodSeconds"] * (liveness["failureThreshold"] - 1)
    assert waits > max(spec.load(name).serving.max_retry_timeout_s for name in spec.names())


def test_a_pod_that_goes_has_time_for_its_last_requests() -> None:
    pod = base()["Deployment"]["spec"]["template"]["spec"]
    sleeps = container_of(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert sleeps >= 5 + max(spec.load(name).serving.response_timeout_s for name in spec.names())
    assert pod["terminationGracePeriodSeconds"] > sleeps + server.STOP_SECONDS + processes.KILL_SECONDS


def test_everything_selects_the_pods_of_the_deployment() -> None:
    manifests = base()
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        manifests["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"][
            "matchLabels"
        ],
    ]
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]
    one = container_of(manifests["Deployment"]["spec"]["template"]["spec"])

    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    assert scaled["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]
    assert scaled["metrics"][0]["containerResource"]["container"] == one["name"]
    assert "replicas" not in manifests["Deployment"]["spec"]
    assert scaled["minReplicas"] > manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    assert (
        manifests["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"]
        == manifests["ServiceAccount"]["metadata"]["name"]
    )


@pytest.mark.parametrize("name", ["inferenceservice", "canary"])
def test_an_inference_service_has_kserves_fields_and_a_valid_pod(name: str) -> None:
    manifest = service(name)
    predictor = manifest["spec"]["predictor"]

    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert manifest["spec"].keys() == {"predictor"}
    assert all(type(predictor[key]) is kind for key, kind in KSERVE_FIELDS.items() if key in predictor)
    assert 0 < predictor["minReplicas"] <= predictor["maxReplicas"]
    assert predictor["scaleMetric"] in ("concurrency", "rps", "cpu", "memory")
    kubernetes_validate.validate(pod_of(predictor), VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", ["inferenceservice", "canary"])
def test_inference_service_passes_knatives_defaults(name: str) -> None:
    """An InferenceService has no field that Knative rejects by default."""
    pod = pod_of(service(name)["spec"]["predictor"])["spec"]
    (one,) = pod["containers"]

    assert pod.keys() == {"automountServiceAccountToken", "containers", "volumes"}
    assert one.keys().isdisjoint({"lifecycle", "stdin", "tty", "volumeDevices"})
    assert all(volume.keys() == {"name", "emptyDir"} for volume in pod["volumes"])
    assert len(one["ports"]) == 1
    assert one["name"] == "kserve-container"


def test_the_canary_is_the_service_with_another_release_and_a_share() -> None:
    stable, canary = service("inferenceservice"), service("canary")

    assert 0 < canary["spec"]["predictor"].pop("canaryTrafficPercent") < 50
    assert "canaryTrafficPercent" not in stable["spec"]["predictor"]
    images = [one["spec"]["predictor"]["containers"][0].pop("image").split(":") for one in (stable, canary)]
    assert images[0][0] == images[1][0] == "marina-bundle"
    assert images[0][1] != images[1][1]
    assert canary == stable
    # the only one that has canaries
    assert stable["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
