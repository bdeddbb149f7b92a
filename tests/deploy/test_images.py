"""The images: what goes in is there, what runs in them exists, nobody is root, and every package is checked
by its hash.

Not covered: the build itself, which needs an engine and a registry. Instead the image's own tree serves,
read-only, in the last test.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import requests
import typer

import marina
from marina import cli
from marina.core import paths, spec
from marina.core.spec import Spec
from marina.engines import server_process as server
from marina.packaging import archive
from tests.support.containerfile import CONTAINERFILE, STAGES, copied, copy_image, instructions

LOCK = (paths.SOURCE / "requirements.lock").read_text(encoding="utf-8")
REQUEST = {"instances": [{"observation": [0, 0, 1, 0]}]}


def parses(command: list[str]) -> None:
    """Fail unless `command` is one of Marina's, with options that it has."""
    program, name, *words = command
    assert program == "marina"
    typer.main.get_command(cli.app).commands[name].make_context(name, words)  # type: ignore[attr-defined]


def models_of(command: list[str]) -> list[str]:
    """The models that a command names."""
    return [word for word in command if word in spec.names()]


def test_build_context_is_what_the_image_copies() -> None:
    """All that is copied is in the repository, and nothing else reaches the build."""
    wanted = {source for stage in STAGES for source in copied(stage)}
    ignore = (paths.SOURCE / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert all((paths.SOURCE / source).exists() for source in wanted)
    assert {line[1:] for line in ignore if line.startswith("!")} == wanted
    assert "*" in ignore
    assert "**/__pycache__" in ignore


def test_the_server_gets_all_that_the_package_finds_beside_itself() -> None:
    inside = {Path(source).name for source in copied("server")}

    assert {
        file.relative_to(paths.SOURCE).parts[0]
        for file in (paths.CONFIG, paths.LOGGING, paths.METRICS, paths.HANDLERS)
    } <= inside
    assert {"marina", "training", "models"} <= inside


def test_images_run_as_a_numeric_user_that_is_not_root() -> None:
    """No image runs as root; the user is a number, which Kubernetes can check."""
    for stage in ("models", "server", "standalone"):
        assert instructions(stage, "USER")[-1] == "10001:10001"
    assert CONTAINERFILE.count("FROM server AS bundle") == 1
    assert instructions("bundle", "USER") == []


def test_what_runs_and_what_tells_health_are_commands_of_marina() -> None:
    (entry,), (default,), (health,) = (
        instructions("server", name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK")
    )
    command = json.loads(entry)

    parses(command + json.loads(default))
    parses(json.loads(health.split("CMD ", 1)[1]))
    assert json.loads(default) == spec.names()


def test_the_ports_are_inference_and_metrics_of_config_properties() -> None:
    text = paths.CONFIG.read_text(encoding="utf-8")
    ports = [
        re.search(rf"^{name}_address=http://127.0.0.1:(\d+)$", text, re.MULTILINE)[1]
        for name in ("inference", "metrics")
    ]  # type: ignore[index]

    assert instructions("server", "EXPOSE") == [" ".join(ports)]


def test_the_images_version_is_the_packages() -> None:
    assert f'image.version="{marina.__version__}"' in STAGES["server"]
    assert set(re.findall(r"-t marina[a-z-]*:(\S+)", CONTAINERFILE)) == {marina.__version__}


def test_every_package_of_the_lock_has_hashes_so_that_all_can_be_demanded() -> None:
    packages = re.findall(r"^[a-zA-Z0-9._-]+==.*?(?=^\S|\Z)", LOCK, re.MULTILINE | re.DOTALL)

    assert len(packages) > 100
    assert all("--hash=sha256:" in package for package in packages)
    for stage in ("installer", "environment", "serving"):
        assert STAGES[stage].count("--require-hashes") == 1


def filtered_lock(command: str, stage: str, folder: Path) -> str:
    """What the command of a stage that matches `command` makes of the lock."""
    (line,) = re.findall(command, STAGES[stage])
    (folder / "requirements.lock").write_text(LOCK)
    done = subprocess.run(["bash", "-c", line], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def test_other_torch_builds_drop_only_their_own_hashes(tmp_path: Path) -> None:
    """Another build of torch drops the hashes of torch and torchvision, and no others."""
    changed = filtered_lock(r"sed -E '.*?' requirements.lock", "environment", tmp_path)

    bare = re.findall(r"^(\S+)==\S+(?: ; [^\\\n]*)?$", changed, re.MULTILINE)
    assert bare == ["torch", "torchvision"]
    lost = LOCK.count("--hash=") - changed.count("--hash=")
    assert lost == sum(
        package.count("--hash=")
        for package in re.findall(r"^(?:torch|torchvision)==.*?(?=^\S)", LOCK, re.MULTILINE | re.DOTALL)
    )


def test_uv_is_taken_out_of_the_lock_with_its_hashes(tmp_path: Path) -> None:
    taken = filtered_lock(r"awk '.*?' requirements.lock", "installer", tmp_path)

    assert taken.startswith("uv==")
    assert len(re.findall(r"^\S", taken, re.MULTILINE)) == 1
    assert "--hash=sha256:" in taken


def test_the_images_own_tree_serves_for_everybody_and_stays_as_it_was(
    exported: Callable[..., Spec], home: Path, tmp_path: Path
) -> None:
    archive.build(exported())
    tree, port = tmp_path / "image", str(server.free_port_base())
    copy_image("server", tree)
    before = {file: file.stat().st_mtime_ns for file in sorted(tree.rglob("*"))}
    for file in before:
        file.chmod(file.stat().st_mode & ~0o222)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "HOME": "/nonexistent",
        "MARINA_PORT_BASE": port,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    (entry,) = instructions("server", "ENTRYPOINT")

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "marina", *words]

    run = partial(subprocess.run, cwd=home, env=environment, check=False, capture_output=True)
    words = [*json.loads(entry)[1:], "--no-tokens", "balance"]  # as in Kubernetes
    process = subprocess.Popen(command(*words), cwd=home, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while run(command("ready", "balance")).returncode:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(1)
        workers = run(command("ready", "--workers-only", "balance"))
        answer = requests.post(f"http://127.0.0.1:{port}/v1/models/balance:predict", json=REQUEST, timeout=30)
        listening = {connection.laddr for connection in _listening(int(port))}
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)

    assert workers.returncode == 0
    assert answer.json()["predictions"][0]["action"] == 1
    assert process.returncode == 0, said
    assert {file: file.stat().st_mtime_ns for file in sorted(tree.rglob("*"))} == before
    everybody = {address.port - int(port) for address in listening if address.ip in ("::", "0.0.0.0")}
    assert everybody == {0, 2}  # inference and metrics
    assert {address.port - int(port) for address in listening} == {0, 1, 2, 3, 4}


def _listening(port: int) -> list:
    return [
        one
        for one in psutil.net_connections("tcp")
        if one.status == "LISTEN" and port <= one.laddr.port < port + 5
    ]
