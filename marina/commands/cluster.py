"""The commands around a Ray cluster on this machine: up, status, down."""

import os
import re
import shlex
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from marina.commands.session import DEFAULT_PORT, STEPS, PortBase, Result, Session, command
from marina.core.console import Output, err
from marina.core.errors import CallError, ServerError
from marina.engines import supervisor
from marina.engines.ray import local_cluster
from marina.engines.ray.environment import check_installed, node_environment
from marina.engines.ray.local_cluster import ClusterState, LocalCluster, LocalNode

MOST_NODES = 16
WATCH_SECONDS = 0.5
PROBE_SECONDS = 1.0  # for a front to say that it answers

app = typer.Typer()
cluster = typer.Typer(
    no_args_is_help=True,
    help="A cluster of Ray nodes on this machine, to try the engine ray on several nodes: up, status, down.",
)
app.add_typer(cluster, name="cluster", rich_help_panel=STEPS)


@command(cluster, "up")
def start_cluster(
    session: Session,
    nodes: Annotated[int, typer.Option(min=1, max=MOST_NODES, help="Nodes that compute.")] = 3,
    cpus: Annotated[
        float,
        typer.Option(min=0.1, max=1024, help="Cores of each node; a replica takes ray.cpus_per_replica."),
    ] = 1.0,
    background: Annotated[
        bool, typer.Option("--background", help="Return when all nodes run; `marina cluster down` stops it.")
    ] = False,
    port_base: PortBase = DEFAULT_PORT,
) -> Result:
    """Start a head that computes nothing and N nodes, at loopback addresses, until Ctrl-C."""
    output = session.output
    if background:
        words = ["--nodes", str(nodes), "--cpus", f"{cpus:g}", "--port-base", str(port_base)]
        log = supervisor.run_in_background(
            ["cluster", "up", *words], local_cluster.folder_of() / "cluster.log", _is_up, output
        )
        output.say(f"the cluster runs in the background; log: {log}")
    else:
        _run(LocalCluster(nodes, cpus, port_base), output)
    state = local_cluster.read_state()
    return {"ok": True, "address": state.address if state else None}


@command(cluster, "status")
def show_cluster(session: Session) -> Result:
    """Show the nodes of this project's cluster: whether they run, whether they answer, what listens where."""
    state = _running()
    nodes = [_describe(node) for node in state.nodes]
    columns = ("node", "process", "state", "front", "answers", "MiB")
    rows = [
        tuple(node[column] for column in ("name", "pid", "state", "front", "answers", "memory_mib"))
        for node in nodes
    ]
    session.output.table(f"Ray cluster at {state.address}", columns, rows)
    _say_how_to_join(state, session.output)
    return {"ok": True, "address": state.address, "is_up": state.is_up, "nodes": nodes}


@command(cluster, "environment")
def show_environment(
    session: Session,
    token: Annotated[Path, typer.Option(metavar="FILE", help="The cluster's token, the same on every node.")],
    front: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the node answers; PORT is that of marina serve.")
    ] = "0.0.0.0:8080",  # a node of a cluster is there for others
) -> Result:
    """Print what `ray start` needs in its environment on a machine of your own, as lines for eval."""
    if not token.is_file():
        raise CallError(f"no file {token}; make one with: openssl rand -hex 32 > {token}")
    if not re.fullmatch(r"[^/\s]*:\d{1,5}", front):
        raise CallError(f"--front {front}: write it like 0.0.0.0:8080")
    folder = Path(tempfile.gettempdir()) / f"marina-front-{os.getuid()}"
    check_installed(str(folder))
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise CallError(f"{folder} is another user's; remove it")
    environment = node_environment(folder, folder, front, token.resolve())
    for name, value in environment.items():
        session.output.show(f"export {name}={shlex.quote(value)}")
    return {"ok": True, "environment": environment}


@command(cluster, "down")
def stop_cluster(session: Session) -> Result:
    """Stop the cluster that `up` has started, with all that it serves; it is no error when none runs."""
    stopped = local_cluster.stop()
    session.output.say("stopped the cluster" if stopped else "no cluster of this project runs")
    return {"ok": True, "stopped": stopped}


def _run(local: LocalCluster, output: Output) -> None:
    """Run it until a signal comes. Raises ServerError where the head ends."""
    try:
        started = time.monotonic()
        state = local.start()
        output.say(f"{len(state.nodes) - 1} nodes and a head run after {time.monotonic() - started:.0f} s")
        _say_how_to_join(state, output)
        said: set[str] = set()
        with suppress(KeyboardInterrupt):
            # no limit: it runs until it is told to stop
            while "head" not in (ended := local.ended()):
                for name in set(ended) - said:
                    output.say(f"{name} has ended; what it ran starts on another node, if one has room")
                said |= set(ended)
                time.sleep(WATCH_SECONDS)
            raise ServerError(f"the head of the cluster ended; its log: {local.folder / 'head.log'}")
        with suppress(OSError):
            err.print("stopping")
    finally:
        local.stop()


def _is_up(pid: int) -> bool:
    state = local_cluster.read_state()
    return bool(state and state.is_up and state.owner == pid)


def _running() -> ClusterState:
    state = local_cluster.read_state()
    if state is None:
        raise ServerError("no cluster of this project runs; start one with: marina cluster up --nodes 3")
    return state


def _describe(node: LocalNode) -> dict[str, Any]:
    """What `status` shows of a node; `memory_mib` is of all its processes."""
    process = node.process()
    front = f"http://127.0.0.1:{node.front_port}"
    family = [process, *process.children(recursive=True)] if process else []
    memory = 0
    for member in family:
        with suppress(psutil.Error):
            memory += member.memory_info().rss
    return {
        "name": node.name,
        "pid": node.pid,
        "state": "runs" if process else "ended",
        "front": front,
        "answers": "yes" if _answers(front) else "no",
        "memory_mib": round(memory / 2**20),
    }


def _answers(front: str) -> bool:
    """Whether a node's front answers: it does once a replica runs on the node."""
    import httpx

    try:
        return httpx.get(f"{front}/ping", timeout=PROBE_SECONDS, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _say_how_to_join(state: ClusterState, output: Output) -> None:
    fronts = ", ".join(str(node.front_port) for node in state.nodes)
    output.say(
        f"everything listens at 127.0.0.1; who joins needs the token {local_cluster.folder_of() / 'token'}"
    )
    output.say(f"inference, once something is served: ports {fronts}")
    output.say(
        f"serve on it: MARINA_RAY_ADDRESS={state.address} marina serve NAME --engine ray "
        f"--port-base {state.port}"
    )
