"""Commands that make models: train and archive."""

from pathlib import Path
from typing import Annotated

import typer

from marina import spec, up
from marina.command import (
    Json,
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
