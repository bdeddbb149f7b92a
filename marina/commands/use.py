"""Commands that use a served model: predict, explain, evaluate, play, load-test, describe."""

import json
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from marina import archive, paths, spec, up
from marina.command import (
    DEFAULT_PORT,
    FileOptions,
    Json,
    Name,
    PortBase,
    file_request,
    guarded,
    serving_client,
)
from marina.console import Output
from marina.errors import CallError, WorkError
from marina.spec import Spec

app = typer.Typer()


@app.command(rich_help_panel="Use")
@guarded
def predict(
    name: Name,
    file: Annotated[Path, typer.Argument(help="An image or clip, or a .json file with the body.")],
    draw: Annotated[Path | None, typer.Option(help="Write the image with the answer drawn on it.")] = None,
    option: FileOptions = None,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Send one file and print the answer; where no server runs, a private one is started for the time."""
    output, chosen = Output(as_json), spec.load(name)
    body, content_type, headers = file_request(file, option)
    with serving_client([chosen], port_base, output) as client:
        answer = client.predict(name, body, content_type=content_type, headers=headers)
    if draw:
        from marina.draw import draw as draw_answer

        draw_answer(body, answer, draw, clip=chosen.kind == "video_classifier")
        output.say(f"drawn to {draw}")
    output.result(answer) if as_json else output.console.print_json(json.dumps(answer))


@app.command(rich_help_panel="Use")
@guarded
def explain(
    name: Name,
    file: Annotated[Path, typer.Argument(help="An image, or a .json file with the body.")],
    draw: Annotated[Path | None, typer.Option(help="Write the image with the heat laid over it, as PNG.")] = None,
    option: FileOptions = None,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Show why a file is answered as it is: where in the picture the evidence lies, which numbers move the action."""
    output, chosen = Output(as_json), spec.load(name)
    body, content_type, headers = file_request(file, option)
    with serving_client([chosen], port_base, output) as client:
        answer = client.explain(name, body, content_type=content_type, headers=headers)
        if draw:
            picture = client.explain(name, body, content_type=content_type, headers={**headers, "format": "png"})
            if not isinstance(picture, bytes):
                raise CallError(f"the explanation of a {chosen.kind} is no picture; leave --draw out")
            draw.parent.mkdir(parents=True, exist_ok=True)
            draw.write_bytes(picture)
            output.say(f"drawn to {draw}")
    output.result(answer) if as_json else output.console.print_json(json.dumps(answer))


@app.command(rich_help_panel="Use")
@guarded
def evaluate(
    name: Name,
    data: Annotated[str | None, typer.Option(help="A folder instead of the data it was trained on.")] = None,
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Episodes, for a policy.")] = 100,
    sampled: Annotated[bool, typer.Option("--sampled", help="A policy's draws, by seeds, not its deterministic actions.")] = False,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Measure a model through its endpoint, beside the same in process and what training recorded."""
    from marina import evaluate as evaluation

    output, chosen = Output(as_json), spec.load(name)
    chosen.check_exported()
    if chosen.kind == "policy":
        _evaluate_policy(chosen, episodes, sampled, port_base, output)
        return
    images = evaluation.held_out(chosen, data)
    local = evaluation.measure(chosen, evaluation.in_process(chosen), images, episodes, lambda rows: output.track(rows, "in process"))
    with serving_client([chosen], port_base, output) as client:
        answer = evaluation.through_endpoint(client, chosen)
        served = evaluation.measure(chosen, answer, images, episodes, lambda rows: output.track(rows, "through the endpoint"))
    _compared(chosen, served, local, up.export_metrics(chosen) if data is None else {}, output)


def _evaluate_policy(chosen: Spec, episodes: int, sampled: bool, port_base: int, output: Output) -> None:
    """The same episodes in process and through the endpoint, whose actions must be the same."""
    from marina import episodes as playing
    from marina import evaluate as evaluation

    if sampled and not playing.can_sample(chosen):
        raise CallError(f"{chosen.name} has no distribution to sample from; leave --sampled out")
    seed = 0 if sampled else None
    local = playing.play_episodes(chosen, evaluation.single(evaluation.in_process(chosen)), episodes, seed=seed)
    with serving_client([chosen], port_base, output) as client:
        ask = evaluation.single(evaluation.through_endpoint(client, chosen))
        served = playing.play_episodes(chosen, ask, episodes, stacks=False, seed=seed)
    recorded = {} if sampled else up.export_metrics(chosen)
    same = playing.check_same(served, local)
    _compared(chosen, served.summary(), local.summary(), recorded, output, {"steps": sum(map(len, served.actions)), "equal": True})
    output.say(same)


def _compared(
    chosen: Spec,
    served: dict[str, float],
    local: dict[str, float],
    recorded: dict[str, float],
    output: Output,
    more: dict[str, Any] | None = None,
) -> None:
    rows = [(metric, served[metric], local[metric], recorded.get(metric, "")) for metric in served]
    output.table(f"{chosen.name} {chosen.version}", ("metric", "endpoint", "in process", "at training"), rows)
    output.result({"ok": True, "endpoint": served, "in_process": local, "at_training": recorded, **(more or {})})


@app.command(rich_help_panel="Use")
@guarded
def play(
    name: Name,
    episodes: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 1,
    gif: Annotated[Path | None, typer.Option(help="Write the first episode as an animated GIF.")] = None,
    mp4: Annotated[Path | None, typer.Option(help="Write the first episode as an MP4; needs the extra 'video'.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first episode.")] = 0,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Let a served policy act in its environment, and record it."""
    from marina.episodes import Requests, configuration
    from marina.play import play as run
    from training.policies.environments import made_with

    output, chosen = Output(as_json), spec.load(name)
    if chosen.kind != "policy":
        raise CallError(f"{name} is a {chosen.kind}; only policies play. For images see: marina predict {name} FILE --draw OUT.png")
    chosen.check_exported()
    config = configuration(chosen)
    environment, asked, steps = config["environment"], Requests(config, stacks=False), count()
    with serving_client([chosen], port_base, output) as client:

        def begin() -> None:
            nonlocal steps
            steps = count()

        def act(observation: Any, *allowed: Any) -> tuple[Any, dict[str, Any]]:
            answer = asked.answered(0, client.predict(name, asked.instance(0, next(steps), observation[0], *allowed), chosen.version))
            return answer["action"], answer

        returns = run(act, environment, episodes, seed, gif, made_with(config), mp4=mp4, began=begin)
    output.table(f"{name} in {environment}", ("episode", "return"), list(enumerate(returns, 1)))
    for film in filter(None, (gif, mp4)):
        output.say(f"recorded to {film}")
    output.result({"ok": True, "returns": returns, "gif": str(gif) if gif else None, "mp4": str(mp4) if mp4 else None})


@app.command(rich_help_panel="Use")
@guarded
def loadtest(
    name: Name,
    users: Annotated[int, typer.Option(min=1, max=1000, help="How many send at a time.")] = 8,
    seconds: Annotated[int, typer.Option(min=1, max=3600, help="For how long.")] = 15,
    report: Annotated[Path | None, typer.Option(help="Locust's HTML page; by default run/loadtest/NAME.html")] = None,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Put a model under load, check every answer, and hold it to its spec's service level."""
    from marina import loadtest as load

    output, chosen = Output(as_json), spec.load(name)
    page = report or paths.run(0).parent / "loadtest" / f"{name}.html"
    with serving_client([chosen], port_base, output) as client:
        figures = load.run(chosen, int(client.inference.rsplit(":", 1)[1]), users, seconds, page)
    columns = ("users", "requests", "failures", "requests/s", "p50 ms", "p95 ms", "p99 ms")
    row = (users, figures.requests, figures.failures, figures.requests_per_second, figures.p50_ms, figures.p95_ms, figures.p99_ms)
    output.table(f"{name} {chosen.version}, {seconds} s", columns, [row])
    output.say(f"report: {page}")
    breaches = figures.breaches(chosen)
    if breaches:
        raise WorkError("; ".join([f"{name} misses its service level: {breaches[0]}", *breaches[1:], *figures.errors]))
    output.result({"ok": True, **figures.__dict__, "report": str(page)})


@app.command(rich_help_panel="Look")
@guarded
def openapi(
    name: Name,
    file: Annotated[Path | None, typer.Option("--output", help="Write it to a file instead of printing it.")] = None,
    as_json: Json = False,
) -> None:
    """Print the OpenAPI document of a model: every way to call it, what it takes, what it answers, how it refuses."""
    from marina.openapi import document

    output, content = Output(as_json), document(spec.load(name))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        output.say(f"written to {file}")
        output.result({"ok": True, "file": str(file)})
    else:
        print(json.dumps(content, indent=None if as_json else 2))


@app.command(rich_help_panel="Use")
@guarded
def tune(
    name: Name,
    users: Annotated[int, typer.Option(min=1, max=256, help="Who ask at once.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Of load per trial.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.1, max=60, help="No trial begins later.")] = 6,
    write: Annotated[bool, typer.Option("--write", help="Put what was best under 'serving' of the spec.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the trials here; default: run/tune/NAME.png.")] = None,
    as_json: Json = False,
) -> None:
    """Find how this machine serves a model best: workers, threads, batch size and delay, tried on a server of its own."""
    from marina import tune as tuning

    output, chosen = Output(as_json), spec.load(name)
    archive.check_export(chosen)
    trials = tuning.tune(chosen, users, seconds, minutes, output)
    columns = ("workers", "threads", "batch size", "delay ms", "per second", "p50 ms", "p95 ms", "alone ms")
    figures = [(trial.rate, trial.p50_ms, trial.p95_ms, trial.alone_ms) for trial in trials]
    output.table(
        f"{name} with {users} users, best first",
        columns,
        [(*trial.settings.values(), *(round(value, 1) for value in row)) for trial, row in zip(trials, figures, strict=True)],
    )
    file = picture or paths.run(0).parent / "tune" / f"{name}.png"
    tuning.draw(trials, file)
    output.say(f"drawn to {file}")
    best = trials[0].settings
    if write:
        output.say(f"written to {tuning.written(chosen, best)}; it counts from the next archive on: marina archive {name}")
    else:
        output.say("serving:\n" + "\n".join(f"  {key}: {value}" for key, value in best.items()))
    output.result({"serving": best, "trials": [trial.__dict__ for trial in trials]})
