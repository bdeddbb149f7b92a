"""Commands that bring new versions to an endpoint: release, rollback, history, split."""

from dataclasses import asdict
from typing import Annotated

import typer

from marina.commands.session import RELEASE, Name, Result, ServerSession, Session, command
from marina.core.errors import CallError, ServerError
from marina.packaging import archive
from marina.pipeline import readiness
from marina.release import history, rollout, traffic_split

NewVersion = Annotated[str, typer.Option(help="The version to release; its archive is in model_store/.")]
RegisteredVersion = Annotated[str, typer.Argument(help="A registered version, not the default one.")]
LeastAgreement = Annotated[
    float, typer.Option(min=0, max=1, help="Reject it if it agrees less than this with the running version.")
]

app = typer.Typer()


@command(app, "release", panel=RELEASE)
def release(
    session: ServerSession,
    name: Name,
    version: NewVersion,
    least_agreement: LeastAgreement = 0.0,
    keep_older: Annotated[
        bool, typer.Option("--keep-older", help="Keep versions older than the replaced one registered.")
    ] = False,
) -> Result:
    """Register, verify and compare a version, then make it the default; a failure is undone."""
    say = session.output.say
    entry = rollout.release(session.client(), name, version, least_agreement, keep_older, say)
    return {"ok": True, **asdict(entry)}


@command(app, "rollback", panel=RELEASE)
def rollback(session: ServerSession, name: Name) -> Result:
    """Return to the version that the last release replaced."""
    return {"ok": True, **asdict(rollout.rollback(session.client(), name, session.output.say))}


@command(app, "history", panel=RELEASE)
def show_history(session: Session, name: Name) -> Result:
    """Show what was released, rolled back and rejected; the file is releases/NAME.yaml."""
    entries, rows = history.read(name), []
    for entry in entries:
        agreement = (entry.comparison or {}).get("agreement")
        share = "" if agreement is None else f"{agreement:.3f}"
        rows.append(
            (entry.time, entry.action, entry.version, entry.replaced or "", share, entry.reason or "")
        )
    columns = ("time", "", "version", "replaced", "agreement", "reason")
    session.output.table(f"Releases of {name}", columns, rows)
    killed = history.killed(name)
    for _, entry in killed:
        session.output.say(history.what_to_do(name, entry))
    unfinished = [asdict(entry) for _, entry in killed]
    return {"ok": True, "history": [asdict(entry) for entry in entries], "unfinished": unfinished}


@command(app, "shadow", panel=RELEASE)
def shadow(
    session: ServerSession,
    name: Name,
    version: RegisteredVersion,
    percent: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Share of the requests; 0 ends it. Default: show the tally."),
    ] = None,
) -> Result:
    """Have a version answer a share of the requests too, compare, and give its answers to nobody."""
    client, engine = session.client(), session.running_engine()
    if not engine.has_shadows:
        raise CallError(f"{engine.title} has no shadows; take --engine standalone or ray")
    if percent is None:
        tally = client.shadow(name, version)
    else:
        if percent:
            spec = archive.spec_of(name, version)
            client.register(name, version, spec.archive_name, spec.serving.startup_timeout_s + 60)
        tally = client.set_shadow(name, version, percent)
    columns = ("percent", "same", "different", "failed", "skipped")
    row = [tally[column] for column in columns]
    session.output.table(f"{name}: {version} beside {rollout.default_version(client, name)}", columns, [row])
    return {"ok": True, **tally}


@command(app, "split", panel=RELEASE)
def split(
    session: ServerSession,
    name: Name,
    shares: Annotated[
        list[str] | None,
        typer.Argument(metavar="VERSION=PERCENT", help="Like 1.0=90 1.1=10; none shows the current split."),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="End all splits of this server, and nginx.")] = False,
    listen: Annotated[
        int | None, typer.Option(help="The port of the split endpoint; default: --port-base + 10.")
    ] = None,
    sticky_header: Annotated[
        str, typer.Option(help="Requests with the same value of this header go to the same version.")
    ] = "X-Session-Id",
) -> Result:
    """Divide a model's requests among versions by weight (A/B test, canary), with nginx in front."""
    output, port = session.output, session.port
    if off:
        stopped = traffic_split.stop(port)
        output.say("splits ended" if stopped else "there was no split")
        return {"ok": True, "stopped": stopped}
    if shares:
        _apply_split(session, name, traffic_split.weights_of(shares), listen or port + 10, sticky_header)
    served = traffic_split.served(port)
    rows = []
    for version, by_status in sorted(served.items()):
        answered = sum(count for status, count in by_status.items() if status < "400")
        rows.append((version, sum(by_status.values()), answered))
    output.table(f"Answered through the split of {port}", ("version", "requests", "below 400"), rows)
    if not shares and not traffic_split.current(port):
        raise CallError(f"there is no split; begin one with: marina split {name} 1.0=90 1.1=10")
    return {"ok": True, "splits": traffic_split.current(port), "served": served}


def _apply_split(
    session: ServerSession, name: str, weights: dict[str, int], listen: int, sticky_header: str
) -> None:
    """Check that all versions are ready, then configure nginx and start or reload it."""
    client, reasons = session.client(), list[str]()
    for version in weights:
        reasons += readiness.problems(client, archive.spec_of(name, version))
    if reasons:
        raise ServerError("not ready:\n  " + "\n  ".join(reasons))
    splits = {**traffic_split.current(session.port), name: weights}
    file = traffic_split.configure(session.port, listen, splits, sticky_header)
    if traffic_split.apply(session.port):
        parts = ", ".join(f"{version}: {share} %" for version, share in weights.items())
        session.output.say(f"http://127.0.0.1:{listen} sends {name} to {parts}")
    else:
        session.output.say(f"nginx is not installed here; its configuration is {file}")
