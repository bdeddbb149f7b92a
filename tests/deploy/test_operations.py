"""docs/guide/operations.md: the commands, settings and metrics that it names exist."""

import re

import pytest
import typer
import yaml

from marina import cli
from marina.core import paths
from marina.engines import supervisor

TEXT = (paths.SOURCE / "docs" / "guide" / "operations.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
CONFIG = paths.CONFIG.read_text(encoding="utf-8")


def test_every_command_and_option_that_it_names_exists() -> None:
    named = set(re.findall(r"(?<![/\w-])marina (?!marina)([a-z]+)\b", TEXT))
    options = {
        option
        for command in COMMANDS.values()
        for parameter in command.params
        for option in parameter.opts + parameter.secondary_opts
    }
    ours = set(re.findall(r"`(?:\w+ )?(--[a-z-]+)[ `]", TEXT))

    assert named <= COMMANDS.keys()
    assert len(named) > 8
    assert ours <= options


def test_what_it_says_is_closed_is_closed_in_the_configuration() -> None:
    said = dict(re.findall(r"^(\w+)=(.*)$", CONFIG, re.MULTILINE))

    for name in (
        "inference_address",
        "management_address",
        "metrics_address",
        "grpc_inference_address",
        "grpc_management_address",
    ):
        assert "127.0.0.1" in said[name]
    assert re.fullmatch(
        said["allowed_urls"].replace("$$MARINA_MODEL_STORE$$", "/store"), "file:///store/digits-1.0.mar"
    )
    for address in (
        "file:///store/../x.mar",
        "file:///store/a/x.mar",
        "file:///store/%2e%2e/x.mar",
        "http://x/x.mar",
        "file:///etc/x.mar",
    ):
        assert not re.fullmatch(
            said["allowed_urls"].replace("$$MARINA_MODEL_STORE$$", "/store"), address, re.IGNORECASE
        )
    assert (said["disable_token_authorization"], said["install_py_dep_per_model"]) == ("false", "false")
    assert said["use_env_allowed_urls"] == "false"


@pytest.mark.parametrize("number", ["CVE-2023-43654", "CVE-2022-1471", "CVE-2024-35198", "CVE-2024-35199"])
def test_it_answers_the_known_holes_of_torchserve(number: str) -> None:
    assert number in TEXT


def test_its_numbers_are_those_of_the_code() -> None:
    compose = yaml.safe_load((paths.SOURCE / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    deployment = yaml.safe_load(
        (paths.SOURCE / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text(encoding="utf-8")
    )
    (one,) = [one for one in deployment["spec"]["template"]["spec"]["containers"] if one["name"] == "marina"]

    assert f"`preStop` waits {one['lifecycle']['preStop']['sleep']['seconds']} s" in TEXT
    assert f"After {supervisor.TRIES} failed starts" in TEXT
    assert f"{supervisor.FIRST_PAUSE:.0f} s to {supervisor.LONGEST_PAUSE:.0f} s" in TEXT
    assert (
        f"after {one['livenessProbe']['periodSeconds'] * one['livenessProbe']['failureThreshold'] // 60} "
        "minutes" in TEXT
    )
    assert f"JDK_JAVA_OPTIONS={compose['services']['marina']['environment']['JDK_JAVA_OPTIONS']}" in TEXT
    in_pods = {variable["name"]: variable["value"] for variable in one["env"]}
    assert in_pods["JDK_JAVA_OPTIONS"] == compose["services"]["marina"]["environment"]["JDK_JAVA_OPTIONS"]
    assert all(
        f"{size} MB" in TEXT
        for size in re.findall(r'SizeBasedTriggeringPolicy size="(\d+) MB"', paths.LOGGING.read_text())
    )
