"""Marina as a wheel, in an environment outside of the repository that shares the packages it depends on."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from marina.core import paths

UV = Path(sys.executable).with_name("uv")
SECONDS = 400  # for the whole way


def build_wheel(folder: Path) -> Path:
    """Built as `uv build` builds it, without fetching the build's own packages."""
    build = [UV, "build", "--wheel", "--quiet", "--offline", "--no-build-isolation"]
    subprocess.run([*build, "--python", sys.executable, "--out-dir", folder, paths.SOURCE], check=True)
    (built,) = folder.glob("*.whl")
    return built


def install(wheel: Path, folder: Path) -> Path:
    """An environment in `folder`; returns its site-packages."""
    subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
    install = [
        UV,
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--python",
        folder / "bin" / "python",
    ]
    subprocess.run([*install, wheel], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    return site_packages


def call(environment: Path, project: Path, *words: str) -> dict[str, Any]:
    """The JSON that `marina WORDS` prints in the folder `project`; it must end well."""
    variables = {
        name: value for name, value in os.environ.items() if name not in ("MARINA_HOME", "PYTHONPATH")
    }
    done = subprocess.run(
        [environment / "bin" / "marina", *words, "--json"],
        check=False,
        capture_output=True,
        text=True,
        cwd=project,
        env=variables,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
