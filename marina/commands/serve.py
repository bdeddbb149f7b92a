"""Commands around the server: start, stop, register, list, readiness, tokens."""

from dataclasses import asdict
from typing import Annotated

import typer

from marina.commands.session import LOOK, STEPS, Name, Names, Result, ServerSession, command
from marina.core.errors import CallError
from marina.engines import server_process, supervisor
from marina.engines.engine import Access
from marina.pipeline import steps
from marina.release import history, traffic_split

app = typer.Typer()


@command(app, "serve", panel=STEPS)
def serve(
    session: ServerSession,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Models to register; default: none.")
    ] = None,
    background: Annotated[
        bool, typer.Option("--background", help="Return when the server is ready; `marina stop` stops it.")
    ] = False,
    host: Annotated[
        str,
        typer.Option(help="Address of inference and metrics; 0.0.0.0 makes them reachable from the network."),
    ] = "127.0.0.1",
    no_tokens: Annotated[
        bool, typer.Option("--no-tokens", help="Require no tokens: a proxy in front decides who may call.")
    ] = False,
) -> Result:
    """Start a server and keep it alive until Ctrl-C; if it dies, restart it with the same models."""
    output, port = session.output, session.port
    specs, access = steps.choose(names) if names else [], Access(host, not no_tokens)
    inference = f"http://127.0.0.1:{port}"
    if background:
        log = supervisor.detach([spec.name for spec in specs], port, output, access, session.engine)
        output.say(f"serving in the background; log: {log}")
    else:
        with steps.started(specs, port, output, access, session.engine) as (server, client):
            output.say(f"serving at {inference}; Ctrl-C stops it, or: marina stop --port-base {port}")
            supervisor.watch(server, client, output)
    return {"ok": True, "inference": inference, "management": f"http://127.0.0.1:{port + 1}"}


@command(app, "stop", panel=STEPS)
def stop(session: ServerSession) -> Result:
    """Stop the server at --port-base, its workers and the nginx of a split; it is no error when none runs."""
    output, port = session.output, session.port
    if traffic_split.stop(port):  # first, so that it finishes the requests under way
        output.say(f"ended the traffic split in front of {port}")
    stopped = server_process.stop(port)
    output.say(f"stopped the server at {port}" if stopped else f"no server of this home runs at {port}")
    return {"ok": True, "stopped": stopped}


@command(app, "register", panel=STEPS)
def register(session: ServerSession, names: Names = None) -> Result:
    """Register archives of the model store and wait for their workers; registered ones stay as they are."""
    specs = steps.choose(names or [])
    steps.register(session.client(), specs, session.output)
    return {"ok": True, "registered": {spec.name: spec.version for spec in specs}}


@command(app, "unregister", panel=STEPS)
def unregister(
    session: ServerSession,
    name: Name,
    version: Annotated[str | None, typer.Option(help="Only this version; default: all of them.")] = None,
) -> Result:
    """Remove a model from the server; its archive stays in the store."""
    removed = session.client().unregister(name, version)
    session.output.say(f"{name}: {'unregistered' if removed else 'was not registered'}")
    return {"ok": True, "removed": removed}


@command(app, "ready", panel=LOOK)
def check_ready(
    session: ServerSession,
    names: Names = None,
    workers_only: Annotated[
        bool,
        typer.Option("--workers-only", help="Check only that workers are READY: cheap, for liveness probes."),
    ] = False,
) -> Result:
    """Exit 0 when every model has its workers and answers its golden samples; else 1, with reasons."""
    client, specs = session.client(), steps.choose(names or [])
    steps.check_ready(client, specs, workers_only)
    session.output.say(f"ready: {', '.join(f'{spec.name} {spec.version}' for spec in specs)}")
    return {"ok": True, "ready": [spec.name for spec in specs]}


@command(app, "list", panel=LOOK)
def list_models(session: ServerSession) -> Result:
    """List the registered models: versions, workers and their states; and releases that were killed."""
    client = session.client()
    entries = [entry for name in client.models() for entry in client.describe(name)]
    rows = []
    for entry in entries:
        states = " ".join(worker["status"] for worker in entry["workers"]) or "none"
        rows.append((entry["modelName"], entry["modelVersion"], entry["modelUrl"], states))
    columns = ("model", "version", "archive", "workers")
    session.output.table(f"Registered at {client.management}", columns, rows)
    killed = history.killed(port=session.port)
    for name, left in killed:
        session.output.say(history.what_to_do(name, left))
    unfinished = {name: asdict(left) for name, left in killed}
    return {"ok": True, "models": entries, "unfinished": unfinished}


@command(app, "token", panel=LOOK)
def show_token(
    session: ServerSession,
    api: Annotated[str, typer.Argument(help="inference or management")] = "inference",
) -> Result:
    """Print the Authorization header of an API, for: curl -H "$(marina token inference)" ..."""
    if api not in ("inference", "management"):
        raise CallError(f"no API {api!r}; choose inference or management")
    header = f"Authorization: Bearer {session.client().token(api)}"
    session.output.show(header)
    return {"ok": True, "header": header}
