"""Commands that make models: train and archive."""

from pathlib import Path
from typing import Annotated

import typer

from marina import spec, up
from marina.command import (
    Json,
    Name,
    Names,
    guarded,
    overrides,
)
from marina.console import Output
from marina.errors import CallError

app = typer.Typer()


@app.command(rich_help_panel="Step by step")
@guarded
def train(
    names: Annotated[list[str], typer.Argument(help="Models to train; what was exported before is replaced.")],
    data: Annotated[str | None, typer.Option(help="A folder of your own: ImageFolder, Pascal VOC or COCO json.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrule the spec: training.epochs=1")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew where a training was cut off, instead of going on.")] = False,
    devices: Annotated[int, typer.Option(min=1, max=64, help="GPUs, or processes of a CPU, that learn together.")] = 1,
    nodes: Annotated[
        int,
        typer.Option(min=1, max=64, help="Machines of so many devices each; MASTER_ADDR, MASTER_PORT and NODE_RANK say which is which."),
    ] = 1,
    as_json: Json = False,
) -> None:
    """Train models and export those that reach their floor; a training that was cut off goes on where it stood."""
    output, changes = Output(as_json), overrides(setting or [])
    if devices * nodes > 1 and len(names) > 1:
        raise CallError("several devices train one model at a time; name one")
    if data is not None:
        changes["training.data"] = str(Path(data).expanduser().resolve()) if Path(data).expanduser().exists() else data
    chosen = [spec.load(name, changes) for name in names]
    for one in chosen:
        up.train(one, output, fresh, devices, nodes)
    output.result({"ok": True, "exports": {one.name: str(one.export_dir) for one in chosen}})


@app.command("import", rich_help_panel="Step by step")
@guarded
def import_(
    name: Annotated[str, typer.Argument(help="What the model will be called; models/NAME.yaml is written if there is none.")],
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="SOURCE", help="torchvision:NAME, timm:NAME, package.module:function, file.py:function, .pt2, .pth, .zip"
        ),
    ],
    weights: Annotated[str | None, typer.Option(help="A file .safetensors or .pth, or the library's name of them.")] = None,
    data: Annotated[str | None, typer.Option(help="Pictures with their truth to measure on: ImageFolder, Pascal VOC, COCO json.")] = None,
    kind: Annotated[str | None, typer.Option(help="classifier, detector or policy; found by looking when left out.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the classes: a file, imagenet or coco.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Like training.mean='[0.5]'")] = None,
    trust_pickle: Annotated[bool, typer.Option("--trust-pickle", help="Read a pickle once, which runs whatever code is in it.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a model that learned elsewhere: export it as if it had been trained here, with what it answers as proof."""
    from marina import importing

    output, changes = Output(as_json), overrides(setting or [])
    given = {"source": source, "weights": weights, "data": data, "classes": classes}
    one, written = importing.chosen(name, given, kind, changes, trust_pickle)
    importing.bring(one, trust_pickle, output)
    if written:
        path = importing.write(one)
        output.say(f"{name}: written to {path}; the next import or training of {name} takes it from there")
    output.result({"ok": True, "export": str(one.export_dir), "spec": one.as_yaml(), "metrics": up.export_metrics(one)})


@app.command(rich_help_panel="Step by step")
@guarded
def report(
    name: Name,
    version: Annotated[str | None, typer.Option(help="Another version than the spec's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write it; NAME-VERSION.html here when left out.")] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page on an export: metrics, curves, pictures, what it answers, the spec, the machine, the files."""
    from marina import report as reports

    one = spec.load(name, {"version": version} if version else None)
    path = (out or Path(f"{one.name}-{one.version}.html")).expanduser()
    content = reports.page(one)
    path.write_text(content, encoding="utf-8")
    output = Output(as_json)
    output.say(f"{one.name}: {path} ({len(content.encode()) / 1e6:.1f} MB)")
    output.result({"ok": True, "report": str(path.resolve())})


@app.command(rich_help_panel="Step by step")
@guarded
def archive(
    names: Names = None,
    stock_check: Annotated[
        bool, typer.Option("--stock-check", help="Also load each where there are torchserve, torch and torchvision alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack exports into model_store/<name>-<version>.mar; without names, every model that has an export."""
    chosen = up.choose(names or [])
    if not names:
        chosen = [one for one in chosen if one.is_exported]
    if not chosen:
        raise CallError("no model has an export yet; run: marina train NAME")
    output = Output(as_json)
    built = {one.name: up.pack(one, output) for one in chosen}
    if stock_check:
        from marina.stock_check import check

        for one in output.track(chosen, "loading in a plain environment"):
            output.say(f"{one.name}: answers its {check(one)} golden samples where there are torchserve, torch and torchvision alone")
    output.result({"ok": True, "archives": {name: {"path": str(one.path), "sha256": one.sha256} for name, one in built.items()}})
