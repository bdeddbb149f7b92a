"""The wheel, installed outside of the repository: a project is made, trained, archived, served and asked."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from marina.core import paths
from marina.engines import server_process as server
from tests.support import installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file."""
    return installed.build_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_code_configuration_and_templates(wheel: Path) -> None:
    """All files of the three packages, and those of the repository that the tool uses."""
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}
    packages = ("handlers", "marina", "training")
    files = {file for name in packages for file in (paths.SOURCE / name).rglob("*") if file.is_file()}
    sources = {str(file.relative_to(paths.SOURCE)) for file in files if "__pycache__" not in file.parts}
    used = ("config.properties", "log4j2.xml", "metrics.yaml", "loadtest/locustfile.py")
    specs = (f"models/{file.name}" for file in (paths.SOURCE / "models").glob("*.yaml"))

    assert names == sources | {f"marina/resources/repository/{name}" for name in (*used, *specs)}


@pytest.mark.slow
def test_init_and_up_work_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    environment, project = tmp_path / "venv", tmp_path / "project"
    installed.install(wheel, environment)
    project.mkdir()

    made = installed.call(environment, project, "init")
    port = server.free_port_base()
    answered = installed.call(environment, project, "up", "--once", "--port-base", str(port))

    assert {Path(file).name for file in made["files"]} >= {"cartpole.yaml", "Makefile"}
    assert len(answered["answers"]) == 6
    assert not any(answer["problem"] for answer in answered["answers"])
    assert (project / "model_store" / "cartpole-1.0.mar").is_file()
    assert server.read_state(port, project) is None


@pytest.mark.slow
def test_a_recipe_a_network_and_an_environment_of_ones_own_work_there(wheel: Path, tmp_path: Path) -> None:
    """Those of examples/, found in the project's folder from a folder below it."""
    environment, project = tmp_path / "venv", tmp_path / "project"
    installed.install(wheel, environment)
    generated = shutil.ignore_patterns("exports", "cache", "run", "model_store", "__pycache__")
    shutil.copytree(paths.SOURCE / "examples", project, ignore=generated)
    (project / "below").mkdir()

    trained = installed.call(environment, project / "below", "train", "linear", "residual", "river")

    assert trained["ok"] is True
    for name in ("linear", "residual", "river"):
        assert (project / "exports" / name / "1.0" / "SHA256SUMS").is_file()


@pytest.mark.slow
def test_without_what_only_linux_has_the_whole_way_works(wheel: Path, tmp_path: Path) -> None:
    """The built-in policy is trained, archived, served and asked; workers are without it too."""
    environment, project = tmp_path / "venv", tmp_path / "project"
    site_packages = installed.install(wheel, environment)
    shutil.copy(paths.SOURCE / "tests" / "support" / "without_linux.py", site_packages)
    (site_packages / "without_linux.pth").write_text("import without_linux\n")
    project.mkdir()
    code = (
        "import os; from marina.core import processes; from handlers.runtime import machine;"
        "print(processes.created(os.getpid()) > 1e9, hasattr(os, 'sched_getaffinity'), "
        "machine.usable_cores() > 0,"
        "machine.processor_instructions(), machine.processor_name() != '')"
    )

    python = environment / "bin" / "python"
    hidden = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    installed.call(environment, project, "init")
    answered = installed.call(
        environment, project, "up", "--once", "--port-base", str(server.free_port_base())
    )

    assert hidden.stdout.split() == ["True", "False", "True", "set()", "True"]
    assert not any(answer["problem"] for answer in answered["answers"])
