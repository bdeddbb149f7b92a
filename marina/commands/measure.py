"""Commands that measure a served model: evaluate, loadtest, tune."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from marina.commands.session import USE, EngineSession, Name, Result, ServerSession, command
from marina.core import kinds, paths
from marina.core.errors import WorkError
from marina.core.spec import load
from marina.kinds.kind import MeasurementOptions
from marina.packaging import archive
from marina.pipeline import steps

Data = Annotated[
    str | None, typer.Option(help="A folder to measure on; default: the data it was trained on.")
]
Users = Annotated[int, typer.Option(min=1, max=1000, help="How many users send at a time.")]
Seconds = Annotated[int, typer.Option(min=1, max=3600, help="For how long.")]

app = typer.Typer()


@command(app, "evaluate", panel=USE)
def evaluate(
    session: ServerSession,
    name: Name,
    data: Data = None,
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Episodes, for a policy.")] = 100,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Sample a policy's actions, with seeds; default: deterministic.")
    ] = False,
) -> Result:
    """Measure a model through its endpoint, beside the same in process and what training recorded."""
    from marina.evaluation.measurement import in_process, through_endpoint

    spec, output = load(name), session.output
    archive.check_export(spec)
    measurement = kinds.get(spec.kind).measurement(spec, MeasurementOptions(data, episodes, sampled))
    local = measurement.run(
        in_process(spec), lambda rows: output.track(rows, "in process"), is_endpoint=False
    )
    with session.serving(spec) as client:
        answer = through_endpoint(client, spec)
        served = measurement.run(
            answer, lambda rows: output.track(rows, "through the endpoint"), is_endpoint=True
        )
    recorded = steps.export_metrics(spec) if measurement.is_recorded else {}
    compared = measurement.compare(served, local)
    rows = [
        (name, value, local.metrics[name], recorded.get(name, "")) for name, value in served.metrics.items()
    ]
    output.table(f"{spec.name} {spec.version}", ("metric", "endpoint", "in process", "at training"), rows)
    if "compared" in compared:
        output.say(compared["compared"])
    figures = {"endpoint": served.metrics, "in_process": local.metrics, "at_training": recorded}
    return {"ok": True, **figures, **compared}


@command(app, "loadtest", panel=USE)
def run_load_test(
    session: ServerSession,
    name: Name,
    users: Users = 8,
    seconds: Seconds = 15,
    report: Annotated[
        Path | None, typer.Option(help="Locust's HTML page; default: run/loadtest/NAME.html")
    ] = None,
) -> Result:
    """Put a model under load, check every answer, and compare with the service level of its spec."""
    from marina.load import load_test

    spec, page = load(name), report or paths.run(0).parent / "loadtest" / f"{name}.html"
    with session.serving(spec) as client:
        figures = load_test.run(spec, int(client.inference.rsplit(":", 1)[1]), users, seconds, page)
    times = (figures.p50_ms, figures.p95_ms, figures.p99_ms)
    row = (users, figures.requests, figures.failures, figures.requests_per_second, *times)
    columns = ("users", "requests", "failures", "requests/s", "p50 ms", "p95 ms", "p99 ms")
    session.output.table(f"{name} {spec.version}, {seconds} s", columns, [row])
    session.output.say(f"report: {page}")
    if breaches := figures.breaches(spec):
        reasons = [f"{name} misses its service level: {breaches[0]}", *breaches[1:], *figures.errors]
        raise WorkError("; ".join(reasons))
    return {"ok": True, **asdict(figures), "report": str(page)}


@command(app, "tune", panel=USE)
def tune(
    session: EngineSession,
    name: Name,
    users: Annotated[int, typer.Option(min=1, max=256, help="How many users send at a time.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Load per trial.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.1, max=60, help="No trial starts later.")] = 6,
    write: Annotated[
        bool, typer.Option("--write", help="Write the best settings under 'serving' of the spec.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Plot the trials here; default: run/tune/NAME.png.")
    ] = None,
) -> Result:
    """Find the best workers, threads, batch size and delay to serve with, on a server of its own."""
    from marina.load import tuning

    spec, output = load(name), session.output
    archive.check_export(spec)
    trials = tuning.tune(spec, users, seconds, minutes, output, session.engine)
    rows: list[tuple[Any, ...]] = []
    for trial in trials:
        measured = (trial.rate, trial.p50_ms, trial.p95_ms, trial.alone_ms)
        rows.append((*trial.settings.values(), *(round(value, 1) for value in measured)))
    columns = ("workers", "threads", "batch size", "delay ms", "per second", "p50 ms", "p95 ms", "alone ms")
    output.table(f"{name} with {users} users, best first", columns, rows)
    file = picture or paths.run(0).parent / "tune" / f"{name}.png"
    tuning.plot(trials, file)
    output.say(f"plotted to {file}")
    best = trials[0].settings
    if write:
        path = tuning.write_settings(spec, best)
        output.say(f"written to {path}; used from the next archive on: marina archive {name}")
    else:
        output.say("serving:\n" + "\n".join(f"  {key}: {value}" for key, value in best.items()))
    return {"ok": True, "serving": best, "trials": [asdict(trial) for trial in trials]}
