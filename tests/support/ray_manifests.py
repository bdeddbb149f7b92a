"""The files of deploy/ray, as the tests read them."""

from typing import Any

import yaml

from marina.core import paths

FOLDER = paths.SOURCE / "deploy" / "ray"
KUBERNETES = ("cluster.yaml", "network.yaml", "volume.yaml")


def manifests() -> list[dict[str, Any]]:
    """All manifests for Kubernetes."""
    return [
        manifest
        for name in KUBERNETES
        for manifest in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    ]


(RAY_CLUSTER,) = (one for one in manifests() if one["kind"] == "RayCluster")
HEAD: dict[str, Any] = RAY_CLUSTER["spec"]["headGroupSpec"]
(WORKERS,) = RAY_CLUSTER["spec"]["workerGroupSpecs"]


def start_command(group: dict[str, Any]) -> str:
    """What the container of a node runs in its shell."""
    (command,) = group["template"]["spec"]["containers"][0]["args"]
    return str(command)


def ray_start(group: dict[str, Any], *role: str) -> str:
    """The command that KubeRay writes for a node of a group: rayStartParams, and the words of its role."""
    words = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
    return " ".join(["ray", "start", *words, *role, "--block"])
