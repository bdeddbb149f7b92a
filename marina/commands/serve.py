"""Commands around the server: start, stop, register, look, readiness, tokens."""

from typing import Annotated

import typer

from marina import server, split, up
from marina.command import (
    DEFAULT_PORT,
    Json,
    Name,
    Names,
    PortBase,
    client_of,
    guarded,
)
from marina.console import Output
from marina.errors import CallError
from marina.server import supervisor
from marina.server.java import Access

app = typer.Typer()


@app.command(rich_help_panel="Step by step")
@guarded
def serve(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Models to register at once; none when left out.")] = None,
    background: Annotated[bool, typer.Option("--background", help="Return when it serves; `marina stop` stops it.")] = False,
    host: Annotated[str, typer.Option(help="Where inference and metrics listen; 0.0.0.0 opens them to the network.")] = "127.0.0.1",
    no_tokens: Annotated[bool, typer.Option("--no-tokens", help="Calls need no tokens: something in front decides who may call.")] = False,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Start TorchServe and keep it alive, by default until Ctrl-C; one that dies is started again with what it had registered."""
    output, chosen, access = Output(as_json), up.choose(names) if names else [], Access(host, not no_tokens)
    where = {"ok": True, "inference": f"http://127.0.0.1:{port_base}", "management": f"http://127.0.0.1:{port_base + 1}"}
    if background:
        log = supervisor.detach([one.name for one in chosen], port_base, output, access)
        output.say(f"it goes on in the background; log: {log}")
    else:
        with up.started(chosen, port_base, output, access) as (running, client):
            output.say(f"serving at {where['inference']}; Ctrl-C stops it, or: marina stop --port-base {port_base}")
            supervisor.watch(running, client, output)
    output.result(where)


@app.command(rich_help_panel="Step by step")
@guarded
def stop(port_base: PortBase = DEFAULT_PORT, as_json: Json = False) -> None:
    """Stop the server at --port-base, its workers and the nginx of a split included; it is no error when none runs."""
    output = Output(as_json)
    if split.stop(port_base):  # first, so that it finishes what is under way
        output.say(f"ended the traffic split in front of {port_base}")
    stopped = server.stop(port_base)
    output.say(f"stopped the server at {port_base}" if stopped else f"no server of this home runs at {port_base}")
    output.result({"ok": True, "stopped": stopped})


@app.command(rich_help_panel="Step by step")
@guarded
def register(names: Names = None, port_base: PortBase = DEFAULT_PORT, as_json: Json = False) -> None:
    """Register archives of the model store and wait for their workers; what is registered already stays."""
    output, chosen, client = Output(as_json), up.choose(names or []), client_of(port_base)
    up.register(client, chosen, output)
    output.result({"ok": True, "registered": {one.name: one.version for one in chosen}})


@app.command(rich_help_panel="Step by step")
@guarded
def unregister(
    name: Name,
    version: Annotated[str | None, typer.Option(help="This version only; all when left out.")] = None,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Remove a model from the server; its archive stays in the store."""
    removed, output = client_of(port_base).unregister(name, version), Output(as_json)
    output.say(f"{name}: {'unregistered' if removed else 'was not registered'}")
    output.result({"ok": True, "removed": removed})


@app.command(rich_help_panel="Look")
@guarded
def ready(
    names: Names = None,
    workers_only: Annotated[bool, typer.Option("--workers-only", help="Ask for READY workers alone: a light check, for liveness.")] = False,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Exit 0 when every model has its workers and answers its golden samples; otherwise 1, with the reasons."""
    client, chosen = client_of(port_base), up.choose(names or [])
    up.check_ready(client, chosen, workers_only)
    output = Output(as_json)
    output.say(f"ready: {', '.join(f'{one.name} {one.version}' for one in chosen)}")
    output.result({"ok": True, "ready": [one.name for one in chosen]})


@app.command("list", rich_help_panel="Look")
@guarded
def list_(port_base: PortBase = DEFAULT_PORT, as_json: Json = False) -> None:
    """What the server has registered: versions, workers and their states."""
    client, output = client_of(port_base), Output(as_json)
    entries = [entry for name in client.models() for entry in client.describe(name)]
    states = [" ".join(worker["status"] for worker in entry["workers"]) or "none" for entry in entries]
    rows = [(entry["modelName"], entry["modelVersion"], entry["modelUrl"], state) for entry, state in zip(entries, states, strict=True)]
    output.table(f"Registered at {client.management}", ("model", "version", "archive", "workers"), rows)
    output.result({"ok": True, "models": entries})


@app.command(rich_help_panel="Look")
@guarded
def token(
    api: Annotated[str, typer.Argument(help="inference or management")] = "inference",
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Print the Authorization header of an API, for: curl -H "$(marina token inference)" ..."""
    if api not in ("inference", "management"):
        raise CallError(f"no API {api!r}; choose inference or management")
    header = f"Authorization: Bearer {client_of(port_base).token(api)}"
    Output(as_json).result({"ok": True, "header": header}) if as_json else print(header)
