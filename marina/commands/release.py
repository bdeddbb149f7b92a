"""Commands that bring new versions to an endpoint: release, rollback, history, split."""

from dataclasses import asdict
from typing import Annotated

import typer

from marina import ready
from marina.command import DEFAULT_PORT, Json, Name, PortBase, client_of, guarded
from marina.console import Output
from marina.errors import CallError, ServerError

app = typer.Typer()


@app.command(rich_help_panel="Release")
@guarded
def release(
    name: Name,
    version: Annotated[str, typer.Option(help="The version to release; its archive lies in model_store/.")],
    least_agreement: Annotated[float, typer.Option(min=0, max=1, help="Refuse it when it agrees less with the running version.")] = 0.0,
    keep_older: Annotated[bool, typer.Option("--keep-older", help="Leave versions before the replaced one registered.")] = False,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Register a version, verify it, compare it with the running one, and make it the default; a failing one leaves no trace."""
    from marina import release as releases

    output, client = Output(as_json), client_of(port_base)
    entry = releases.release(client, name, version, least_agreement, keep_older, output.say)
    output.result({"ok": True, **asdict(entry)})


@app.command(rich_help_panel="Release")
@guarded
def rollback(name: Name, port_base: PortBase = DEFAULT_PORT, as_json: Json = False) -> None:
    """Go back to the version that the last release replaced."""
    from marina import release as releases

    output = Output(as_json)
    entry = releases.rollback(client_of(port_base), name, output.say)
    output.result({"ok": True, **asdict(entry)})


@app.command(rich_help_panel="Release")
@guarded
def history(name: Name, as_json: Json = False) -> None:
    """What was released, rolled back and refused; the file is releases/NAME.yaml."""
    from marina import release as releases

    output, entries = Output(as_json), releases.history(name)
    rows = [
        (
            one.time,
            one.action,
            one.version,
            one.replaced or "",
            f"{one.comparison['agreement']:.3f}" if one.comparison else "",
            one.reason or "",
        )
        for one in entries
    ]
    output.table(f"Releases of {name}", ("time", "", "version", "replaced", "agreement", "reason"), rows)
    output.result({"ok": True, "history": [asdict(one) for one in entries]})


@app.command(rich_help_panel="Release")
@guarded
def split(
    name: Name,
    shares: Annotated[
        list[str] | None, typer.Argument(metavar="VERSION=PERCENT", help="1.0=90 1.1=10; none: show what is in force.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="End all splits of this server, and nginx.")] = False,
    listen: Annotated[int | None, typer.Option(help="The port of the split endpoint; default: --port-base + 10.")] = None,
    sticky_header: Annotated[str, typer.Option(help="Callers that send it stay with one version.")] = "X-Session-Id",
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Send a model's requests to several of its versions by weight (A/B test, canary), through nginx in front of TorchServe."""
    from marina import archive
    from marina import split as splits

    output = Output(as_json)
    if off:
        stopped = splits.stop(port_base)
        output.say("splits ended" if stopped else "no split was in force")
        output.result({"ok": True, "stopped": stopped})
        return
    if shares:
        weights, client, port = splits.weights_of(shares), client_of(port_base), listen or port_base + 10
        reasons = [reason for version in weights for reason in ready.problems(client, archive.spec_of(name, version))]
        if reasons:
            raise ServerError("not ready:\n  " + "\n  ".join(reasons))
        file = splits.configure(port_base, port, {**splits.current(port_base), name: weights}, sticky_header)
        if splits.apply(port_base):
            output.say(f"http://127.0.0.1:{port} sends {name} to {', '.join(f'{one}: {share} %' for one, share in weights.items())}")
        else:
            output.say(f"nginx is not installed here; its configuration is {file}")
    counted = splits.served(port_base)
    rows = [
        (version, sum(by.values()), sum(count for status, count in by.items() if status < "400")) for version, by in sorted(counted.items())
    ]
    output.table(f"Answered through the split of {port_base}", ("version", "requests", "below 400"), rows)
    if not shares and not splits.current(port_base):
        raise CallError(f"no split is in force; begin one with: marina split {name} 1.0=90 1.1=10")
    output.result({"ok": True, "splits": splits.current(port_base), "served": counted})
