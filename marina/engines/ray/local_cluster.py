"""A Ray cluster on this machine, for trying: a head that computes nothing, and nodes that do.

All of it listens at 127.0.0.1, each node at ports of its own: the front of the head at the port base, that of
node k at the port base + 100 k. Its files are in run/cluster/: state.json, lock, token, a log of each node.
No process is left behind: the kernel ends the nodes with the process that has started them.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
from filelock import BaseFileLock

from marina.core import files, paths, processes, scratch, signals
from marina.core.errors import CallError, ServerError
from marina.engines import ports
from marina.engines.ray.environment import LOOPBACK, check_installed, node_environment, write_token
from marina.engines.ray.limits import NODE_SECONDS
from marina.engines.ray.node_command import ADDRESS, free_ports, head_command, worker_command
from marina.engines.ray.routes import FRONT_PORT, SERVE_PORT

PREFIX = f"{processes.PREFIX}cluster-"
TOKEN_FILE = "token"  # noqa: S105  # the name of a file
STEP = 100  # from the ports of a node to those of the next
TRIES = 3  # Ray gives its own processes 15 s to start, which is little on a busy machine
STARTED = "Ray runtime started"  # in a node's log
LOG_LINES = 15

Command = Callable[[dict[str, str]], list[str]]  # of a node, from its labels


@dataclass(frozen=True)
class LocalNode:
    """A node: its process, and the port at which its front listens once a replica runs there."""

    name: str
    front_port: int
    pid: int
    created: float

    def process(self) -> psutil.Process | None:
        """Its process, or None after its end."""
        return processes.find(self.pid, self.created)


@dataclass(frozen=True)
class ClusterState:
    """The content of state.json: who runs it, the address that others join, its nodes; `is_up` when all of
    them have joined.
    """

    owner: int
    owner_created: float
    temporary: str
    address: str
    port: int
    cpus: float
    nodes: tuple[LocalNode, ...] = ()
    is_up: bool = False

    def owner_process(self) -> psutil.Process | None:
        """The process that has started it, or None after its end."""
        return processes.find(self.owner, self.owner_created)


def folder_of(home: Path | None = None) -> Path:
    """Where the files of the project's cluster are."""
    return paths.run(0, home).with_name("cluster")


def read_state(home: Path | None = None) -> ClusterState | None:
    """The state of the project's cluster; None where none runs."""
    state = _written_state(home)
    return state if state and state.owner_process() else None


def cluster_at(address: str, home: Path | None = None) -> ClusterState | None:
    """The project's own cluster, if it is the one at this address."""
    state = read_state(home)
    return state if state and state.address == address else None


class LocalCluster:
    """The cluster that this process runs. Start it in the main thread, with which its nodes end."""

    def __init__(self, nodes: int, cpus: float, port: int, home: Path | None = None) -> None:
        self.count, self.cpus, self.port = nodes, cpus, port
        self.home = home or paths.find_home()
        self.folder = folder_of(self.home)
        self.state: ClusterState | None = None
        self._lock: BaseFileLock | None = None
        self._temporary_lock: int | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> ClusterState:
        """Start the head, then the nodes, and wait until they have joined.

        Raises CallError where one runs or a port is taken, ServerError with the end of a node's log when it
        does not start.
        """
        if not 1024 <= self.port <= 65000 - STEP * self.count:
            most = 65000 - STEP * self.count
            raise CallError(f"--port-base {self.port}: choose a number from 1024 to {most}")
        temporary = scratch.new_path(PREFIX, Path(tempfile.gettempdir()))
        check_installed(str(temporary))
        self._claim()
        owner, (head_port,) = os.getpid(), free_ports(1)
        created, address = processes.created(owner), f"{ADDRESS}:{head_port}"
        state = ClusterState(owner, created, str(temporary), address, self.port, self.cpus)
        self._write(state)  # before there is a folder or a process, so that none is ever unrecorded
        self._temporary_lock = scratch.make_locked(temporary)
        (temporary / "metrics").mkdir()
        write_token(self.folder / TOKEN_FILE)
        commands: dict[str, Command] = {"head": lambda _: head_command(head_port, temporary / "r", 0)}
        self._launch("head", state, commands["head"])
        nodes = [self._joined("head", state, commands["head"])]
        commands = {
            f"node-{number}": lambda labels: worker_command(address, self.cpus, labels)
            for number in range(1, self.count + 1)
        }
        for name, command in commands.items():
            self._launch(name, state, command)
        nodes += [self._joined(name, state, command) for name, command in commands.items()]
        return self._write(replace(state, nodes=tuple(nodes), is_up=True))

    def ended(self) -> list[str]:
        """The nodes whose processes have ended."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def stop(self) -> None:
        """End all nodes, and remove what they have left but the logs."""
        with signals.ignored():
            if self._lock is None:
                return
            if self.state:
                processes.remove(self.state.temporary)
            for process in self._processes.values():
                process.kill()
                process.wait()  # no limit: it was killed
            if self._temporary_lock is not None:
                os.close(self._temporary_lock)
            _forget(self.folder)
            self._lock.release()

    def _claim(self) -> None:
        """Lock the folder, remove leftovers, and check that the ports are free. Raises CallError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # the token lies here
        running = "a cluster of this project runs, or is starting; stop it with: marina cluster down"
        self._lock = files.lock_file(self.folder / "lock", running)
        if left := _written_state(self.home):
            processes.remove(left.temporary)
        scratch.remove_leftovers(PREFIX, lambda folder: processes.remove(str(folder)))
        for number in range(self.count + 1):
            ports.check_free(self.port + number * STEP)

    def _launch(self, name: str, state: ClusterState, command: Command) -> None:
        """Start the process of a node."""
        front, (serve, fallback) = self._front(name), free_ports(2)
        environment = {
            **os.environ,
            **LOOPBACK,
            **node_environment(
                self.folder, Path(state.temporary), f"{ADDRESS}:{front}", self.folder / TOKEN_FILE
            ),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), state.temporary),
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(serve),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
            "PROMETHEUS_MULTIPROC_DIR": f"{state.temporary}/metrics",
            "PYTHONPATH": str(paths.SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        with self._log(name).open("wb") as output:
            self._processes[name] = subprocess.Popen(
                command({FRONT_PORT: str(front), SERVE_PORT: str(serve)}),
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach it: it is stopped in order
            )

    def _joined(self, name: str, state: ClusterState, command: Command) -> LocalNode:
        """Wait until a node has joined; start it again where it failed. Raises ServerError."""
        for tries_left in reversed(range(TRIES)):
            process, deadline = self._processes[name], time.monotonic() + NODE_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                if STARTED in self._log(name).read_text(encoding="utf-8", errors="replace"):
                    return LocalNode(name, self._front(name), process.pid, processes.created(process.pid))
                time.sleep(0.1)
            process.kill()
            process.wait()  # no limit: it was killed
            if tries_left:
                self._launch(name, state, command)
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(lines[-LOG_LINES:])
        raise ServerError(f"{name} of the cluster did not start within {NODE_SECONDS:.0f} s:\n{tail}")

    def _front(self, name: str) -> int:
        """The port of a node's front."""
        return self.port + STEP * (0 if name == "head" else int(name.partition("-")[2]))

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _write(self, state: ClusterState) -> ClusterState:
        self.state = state
        files.write_atomic(self.folder / "state.json", json.dumps(asdict(state)) + "\n")
        return state


def stop(home: Path | None = None) -> bool:
    """Stop the project's cluster, whoever has started it; False where none runs."""
    state = read_state(home)
    if state is None:
        return False
    if owner := state.owner_process():
        with suppress(psutil.NoSuchProcess):
            owner.terminate()
            _, alive = psutil.wait_procs([owner], timeout=NODE_SECONDS)
            for process in alive:
                process.kill()
    processes.remove(state.temporary)
    return True


def _written_state(home: Path | None) -> ClusterState | None:
    try:
        content = json.loads((folder_of(home) / "state.json").read_text(encoding="utf-8"))
        nodes = tuple(LocalNode(**node) for node in content.pop("nodes"))
        return ClusterState(**content, nodes=nodes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _forget(folder: Path) -> None:
    for name in ("state.json", TOKEN_FILE):
        (folder / name).unlink(missing_ok=True)
