"""The command line: thin; every command says what it does, calls the module that does it, and shows the result.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong.
"""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from marina import paths, server, spec, up
from marina.client import Client
from marina.command import (
    DEFAULT_PORT,
    FileOptions,
    Json,
    Name,
    Names,
    PortBase,
    client_of,
    file_request,
    guarded,
    overrides,
    serving_client,
    wait_for_ctrl_c,
)
from marina.console import Output
from marina.errors import CallError, WorkError

app = typer.Typer(
    help="Carries a PyTorch model from its data to a released endpoint on TorchServe. `marina up` goes the whole way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of `marina` and `python -m marina`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("ts").setLevel(logging.ERROR)  # it reports every optional runtime that is not installed
    app()


@app.command("up", rich_help_panel="The whole way")
@guarded
def up_(
    names: Names = None,
    once: Annotated[bool, typer.Option("--once", help="End after the table instead of serving until Ctrl-C.")] = False,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Train what is missing, archive, serve, register, wait for readiness, send every sample, show the answers."""
    output, chosen = Output(as_json), up.choose(names or [])
    up.prepare(chosen, output)
    with up.serving(chosen, port_base, output) as client:
        answered = up.show_samples(client, chosen, output)
        if not once:
            output.say(f"serving at {client.inference} (tokens: marina token inference --port-base {port_base}); Ctrl-C stops it")
            wait_for_ctrl_c(port_base)
    if wrong := [one for one in answered if one.problem]:
        reasons = "\n  ".join(f"{one.model}, {one.sample}: {one.problem}" for one in wrong)
        raise WorkError(f"{len(wrong)} of {len(answered)} answers are wrong:\n  {reasons}")
    output.result({"ok": True, "answers": [asdict(one) for one in answered]})


@app.command(rich_help_panel="Step by step")
@guarded
def train(
    names: Annotated[list[str], typer.Argument(help="Models to train; what was exported before is replaced.")],
    data: Annotated[str | None, typer.Option(help="A folder of your own: ImageFolder, Pascal VOC or COCO json.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrule the spec: training.epochs=1")] = None,
    as_json: Json = False,
) -> None:
    """Train models and export those that reach their floor."""
    output, changes = Output(as_json), overrides(setting or [])
    if data is not None:
        changes["training.data"] = str(Path(data).expanduser().resolve()) if Path(data).expanduser().exists() else data
    chosen = [spec.load(name, changes) for name in names]
    for one in chosen:
        up.train(one, output)
    output.result({"ok": True, "exports": {one.name: str(one.export_dir) for one in chosen}})


@app.command(rich_help_panel="Step by step")
@guarded
def archive(names: Names = None, as_json: Json = False) -> None:
    """Pack exports into model_store/<name>-<version>.mar; without names, every model that has an export."""
    chosen = up.choose(names or [])
    if not names:
        chosen = [one for one in chosen if one.is_exported]
    if not chosen:
        raise CallError("no model has an export yet; run: marina train NAME")
    output = Output(as_json)
    built = {one.name: up.pack(one, output) for one in chosen}
    output.result({"ok": True, "archives": {name: {"path": str(one.path), "sha256": one.sha256} for name, one in built.items()}})


@app.command(rich_help_panel="Step by step")
@guarded
def serve(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Models to register at once; none when left out.")] = None,
    background: Annotated[bool, typer.Option("--background", help="Return when it serves; `marina stop` stops it.")] = False,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Start TorchServe, by default until Ctrl-C."""
    output, chosen = Output(as_json), up.choose(names) if names else []
    where = {"ok": True, "inference": f"http://127.0.0.1:{port_base}", "management": f"http://127.0.0.1:{port_base + 1}"}
    if background:
        state = server.start(port_base)
        try:
            up.register(Client(port_base), chosen, output)
        except BaseException:
            server.stop(state)
            raise
        output.say(f"serving at {where['inference']}; stop it with: marina stop --port-base {port_base}")
    else:
        with up.serving(chosen, port_base, output):
            output.say(f"serving at {where['inference']}; Ctrl-C stops it")
            wait_for_ctrl_c(port_base)
    output.result(where)


@app.command(rich_help_panel="Step by step")
@guarded
def stop(port_base: PortBase = DEFAULT_PORT, as_json: Json = False) -> None:
    """Stop the server at --port-base, its workers included; it is no error when none runs."""
    state, output = server.read_state(port_base), Output(as_json)
    if state:
        server.stop(state)
    output.say(f"stopped the server at {port_base}" if state else f"no server of this home runs at {port_base}")
    output.result({"ok": True, "stopped": bool(state)})


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
def ready(names: Names = None, port_base: PortBase = DEFAULT_PORT, as_json: Json = False) -> None:
    """Exit 0 when every model has its workers and answers its golden samples; otherwise 1, with the reasons."""
    client, chosen = client_of(port_base), up.choose(names or [])
    up.check_ready(client, chosen)
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


@app.command(rich_help_panel="Use")
@guarded
def predict(
    name: Name,
    file: Annotated[Path, typer.Argument(help="An image, or a .json file with the body.")],
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

        draw_answer(body, answer, draw)
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
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Measure a model through its endpoint, beside the same in process and what training recorded."""
    from marina import evaluate as evaluation

    output, chosen = Output(as_json), spec.load(name)
    chosen.check_exported()
    images = evaluation.held_out(chosen, data)
    local = evaluation.measure(chosen, evaluation.in_process(chosen), images, episodes, lambda rows: output.track(rows, "in process"))
    with serving_client([chosen], port_base, output) as client:
        answer = evaluation.through_endpoint(client, chosen)
        served = evaluation.measure(chosen, answer, images, episodes, lambda rows: output.track(rows, "through the endpoint"))
    recorded = up.export_metrics(chosen) if data is None else {}
    rows = [(metric, served[metric], local[metric], recorded.get(metric, "")) for metric in served]
    output.table(f"{name} {chosen.version}", ("metric", "endpoint", "in process", "at training"), rows)
    output.result({"ok": True, "endpoint": served, "in_process": local, "at_training": recorded})


@app.command(rich_help_panel="Use")
@guarded
def play(
    name: Name,
    episodes: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 1,
    gif: Annotated[Path | None, typer.Option(help="Write the first episode as an animated GIF.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first episode.")] = 0,
    port_base: PortBase = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Let a served policy act in its environment, and record it."""
    from marina.play import play as run

    output, chosen = Output(as_json), spec.load(name)
    if chosen.kind != "policy":
        raise CallError(f"{name} is a {chosen.kind}; only policies play. For images see: marina predict {name} FILE --draw OUT.png")
    chosen.check_exported()
    environment = json.loads((chosen.export_dir / "preprocess_config.json").read_text(encoding="utf-8"))["environment"]
    with serving_client([chosen], port_base, output) as client:

        def act(observation: Any) -> tuple[Any, dict[str, Any]]:
            answer = client.predict(name, {"observation": observation[0].tolist()}, chosen.version)
            return answer["action"], answer

        returns = run(act, environment, episodes, seed, gif)
    output.table(f"{name} in {environment}", ("episode", "return"), list(enumerate(returns, 1)))
    if gif:
        output.say(f"recorded to {gif}")
    output.result({"ok": True, "returns": returns, "gif": str(gif) if gif else None})


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
