"""Commands that make models: train, import, report, archive."""

from pathlib import Path
from typing import Annotated, Any

import typer

from handlers.runtime.export import Export
from marina.commands.session import STEPS, Name, Names, Result, Session, command, parse_settings
from marina.core import paths
from marina.core.errors import CallError
from marina.core.spec import Spec, load
from marina.pipeline import importing, steps

Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse what is otherwise a warning: data left out, cut, guessed, copied."),
]

StockCheck = Annotated[
    bool,
    typer.Option(
        "--stock-check", help="Also load each one with only torchserve, torch and torchvision installed."
    ),
]

app = typer.Typer()


@command(app, "train", panel=STEPS)
def train(
    session: Session,
    names: Annotated[list[str], typer.Argument(help="Models to train; an existing export is replaced.")],
    data: Annotated[
        str | None, typer.Option(help="A folder of your own: ImageFolder, Pascal VOC or COCO JSON.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override the spec, like training.epochs=1."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again instead of resuming an interrupted run.")
    ] = False,
    devices: Annotated[
        int, typer.Option(min=1, max=64, help="GPUs, or processes on a CPU, that train one model.")
    ] = 1,
    nodes: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="Machines with this many devices each; set MASTER_ADDR, MASTER_PORT and NODE_RANK on each.",
        ),
    ] = 1,
    strict: Strict = False,
) -> Result:
    """Train models and export those that reach their floor; an interrupted run is resumed."""
    changes = parse_settings(setting)
    if devices * nodes > 1 and len(names) > 1:
        raise CallError("several devices train one model at a time; name one")
    if data is not None:
        folder = paths.expanded(data)
        changes["training.data"] = str(folder.resolve()) if folder.exists() else data
    specs = [load(name, changes) for name in names]
    for spec in specs:
        steps.train(spec, session.output, fresh, devices, nodes, strict)
    exports = {spec.name: str(spec.export_dir) for spec in specs}
    return {"ok": True, "exports": exports, "findings": {spec.name: _findings(spec) for spec in specs}}


@command(app, "import", panel=STEPS)
def import_model(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(help="The model's name here; models/NAME.yaml is written if there is none."),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="torchvision:NAME, timm:NAME, package.module:function, file.py:function, .pt2, .onnx, .zip",
        ),
    ],
    weights: Annotated[
        str | None, typer.Option(help="A .safetensors or .pth file, or the library's name of them.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labeled images to measure on: ImageFolder, Pascal VOC, COCO JSON."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="classifier, detector or policy; default: found from the source.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes: a file, imagenet or coco.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Like training.mean='[0.5]'")
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read a pickle once, which runs any code that is in it.")
    ] = False,
    strict: Strict = False,
) -> Result:
    """Import a model that was trained elsewhere and export it, with samples of its answers as proof."""
    output, changes = session.output, parse_settings(setting)
    arguments = {"source": source, "weights": weights, "data": data, "classes": classes}
    spec, is_new = importing.make_spec(name, arguments, kind, changes, trust_pickle)
    importing.import_and_export(spec, trust_pickle, output, strict)
    if is_new:
        path = importing.write_spec(spec)
        output.say(f"{name}: written to {path}; the next import or training of {name} uses it")
    made = {"export": str(spec.export_dir), "spec": spec.as_yaml()}
    return {"ok": True, **made, "metrics": steps.export_metrics(spec), "findings": _findings(spec)}


def _findings(spec: Spec) -> list[dict[str, Any]]:
    """What training or import recorded of data that was left out, cut or guessed."""
    return Export.open(spec.export_dir).metadata.get("findings", [])


@command(app, "report", panel=STEPS)
def write_report(
    session: Session,
    name: Name,
    version: Annotated[str | None, typer.Option(help="Another version than the spec's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file; default: NAME-VERSION.html here.")] = None,
) -> Result:
    """Write an HTML page on an export: metrics, curves, pictures, answers, spec, machine, files."""
    from marina.evaluation import report

    spec = load(name, {"version": version} if version else None)
    path = paths.expanded(out or f"{spec.name}-{spec.version}.html")
    content = report.page(spec)
    path.write_text(content, encoding="utf-8")
    session.output.say(f"{spec.name}: {path} ({len(content.encode()) / 1e6:.1f} MB)")
    return {"ok": True, "report": str(path.resolve())}


@command(app, "archive", panel=STEPS)
def archive(
    session: Session,
    names: Names = None,
    stock_check: StockCheck = False,
) -> Result:
    """Pack exports into model_store/<name>-<version>.mar; without names, every model that has an export."""
    output, specs = session.output, steps.choose(names or [])
    if not names:
        specs = [spec for spec in specs if spec.is_exported]
    if not specs:
        raise CallError("no model has an export yet; run: marina train NAME")
    archives = {spec.name: steps.pack(spec, output) for spec in specs}
    if stock_check:
        from marina.packaging.stock_check import check

        for spec in output.track(specs, "loading in a plain environment"):
            samples = f"answers its {check(spec)} golden samples"
            output.say(f"{spec.name}: {samples} with only torchserve, torch and torchvision installed")
    packed = {name: {"path": str(made.path), "sha256": made.sha256} for name, made in archives.items()}
    return {"ok": True, "archives": packed}
