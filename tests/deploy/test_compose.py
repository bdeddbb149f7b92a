"""The compose file: valid by the compose specification, with least privilege, consistent with the image and
the monitoring.
"""

import re
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from marina import cli
from marina.core import paths, processes, spec
from marina.engines import server_process as server

FOLDER = paths.SOURCE / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONTAINERFILE = (FOLDER / "Containerfile").read_text(encoding="utf-8")


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_it_is_valid_by_the_compose_specification() -> None:
    schema = get_builtin_schema("vendor.compose-spec")

    jsonschema.validate(COMPOSE, schema)
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        jsonschema.validate(
            {**COMPOSE, "services": {"marina": {**SERVICES["marina"], "helthcheck": {}}}}, schema
        )


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_locked_down(name: str) -> None:
    one = SERVICES[name]

    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert int(one["user"].split(":")[0]) > 0
    assert one["mem_limit"]
    assert re.search(r":v?\d+\.\d+", one["image"])
    assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & one.keys()
    assert all(port.startswith("127.0.0.1:") for port in one["ports"])


def test_management_and_grpc_are_published_nowhere() -> None:
    published = {port.split(":")[-1] for one in SERVICES.values() for port in one["ports"]}

    assert published == {"8080", "9090", "3000"}


def test_compose_commands_exist_and_cover_the_built_in_models() -> None:
    """The service starts and checks all built-in models with commands that exist."""
    one = SERVICES["marina"]
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    word, *probe = one["healthcheck"]["test"]

    served = commands["serve"].make_context("serve", list(one["command"])).params["names"]
    asked = commands["ready"].make_context("ready", probe[2:]).params
    assert (word, *probe[:2]) == ("CMD", "marina", "ready")
    assert asked["names"] == served == spec.names()
    assert asked["workers_only"] is False
    assert one["user"] in CONTAINERFILE
    assert f"AS {one['build']['target']}\n" in CONTAINERFILE
    assert f"ARG {next(iter(one['build']['args']))}=" in CONTAINERFILE
    assert (FOLDER / one["build"]["context"] / one["build"]["dockerfile"]).is_file()


def test_marina_is_given_the_time_that_it_needs_to_stop() -> None:
    assert seconds(SERVICES["marina"]["stop_grace_period"]) > server.STOP_SECONDS + processes.KILL_SECONDS


def test_everything_that_marina_keeps_is_mounted_and_models_are_read_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MARINA_HOME", "/srv/marina")
    mounts = {mount["target"]: mount for mount in SERVICES["marina"]["volumes"]}

    assert mounts.keys() == {
        str(folder) for folder in (paths.models(), paths.model_store(), paths.run(0).parent, paths.releases())
    }
    for folder in (paths.models(), paths.model_store()):
        assert mounts[str(folder)]["read_only"] is True
        assert mounts[str(folder)]["source"] == f"../{folder.name}"
    assert [entry.split(":")[0] for entry in SERVICES["marina"]["tmpfs"]] == ["/tmp"]
    assert f"/opt/venv/bin:$PATH MARINA_HOME={paths.find_home()}" in CONTAINERFILE


def test_compose_mounts_volumes_networks_and_secrets_are_declared() -> None:
    """Every mounted folder exists; every volume, network and secret is declared and used."""
    mounts = [mount for one in SERVICES.values() for mount in one["volumes"]]
    used = {
        "volumes": {mount["source"] for mount in mounts if mount["type"] == "volume"},
        "networks": {name for one in SERVICES.values() for name in one["networks"]},
        "secrets": {name for one in SERVICES.values() for name in one.get("secrets", [])},
    }

    assert all(
        (FOLDER / mount["source"]).is_dir() and mount["read_only"]
        for mount in mounts
        if mount["type"] == "bind"
    )
    assert used == {kind: set(COMPOSE[kind]) for kind in used}


def test_grafanas_password_comes_from_a_file_outside_and_has_no_default() -> None:
    environment = SERVICES["grafana"]["environment"]

    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana_password"
    assert COMPOSE["secrets"]["grafana_password"]["file"].startswith("${GRAFANA_PASSWORD_FILE:?")
    assert not any(
        re.search(r"PASSWORD$", key) for one in SERVICES.values() for key in one.get("environment", {})
    )
