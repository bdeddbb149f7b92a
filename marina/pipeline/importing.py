"""`marina import`: makes the spec of a model that was trained elsewhere, and runs its import recipe.

The recipes are in training/recipes/imported_*.py; this module selects one and fills in the spec. An existing
spec is used with the command line on top. A new one is written only after the import has succeeded, so that a
failed call leaves no file.
"""

import zipfile
from pathlib import Path
from time import monotonic
from typing import Any

import yaml

from marina.core import kinds, paths
from marina.core.console import Output
from marina.core.errors import CallError
from marina.core.files import write_atomic
from marina.core.spec import NAME, Spec, load, parse
from marina.kinds.kind import Kind
from marina.pipeline import steps


def make_spec(
    name: str,
    arguments: dict[str, Any],
    kind: str | None,
    overrides: dict[str, Any],
    trust_pickle: bool,
    home: Path | None = None,
) -> tuple[Spec, bool]:
    """(the spec of this import in the project `home`, whether it is new) from the command line.

    `arguments` are settings under `training`; None stands for one that is not set. `overrides` are dotted
    keys. Raises CallError if `name` is the spec of something else, and if the kind can't be detected.
    """
    settings = {key: absolute(value) for key, value in arguments.items() if value is not None}
    if isinstance(statistics := overrides.get("training.statistics"), str):
        overrides = {**overrides, "training.statistics": absolute(statistics)}
    changes = {**{f"training.{key}": value for key, value in settings.items()}, **overrides}
    home = home or paths.find_home()
    path = paths.models(home) / f"{name}.yaml"
    if path.is_file():
        return _load_existing(name, path, kind, changes, home), False
    if not NAME.fullmatch(name):
        raise CallError(f"{name!r} is no model name: a letter, then letters, digits, - and _, 64 at most")
    kind = kind or detect_kind(settings["source"], overrides.get("training.arguments", {}), trust_pickle)
    if kind not in kinds.names():
        raise CallError(f"--kind {kind}: choose {', '.join(kinds.names())}")
    registered: Kind = kinds.get(kind)
    registered.check_import(settings["source"], overrides)
    recipe = {"recipe": registered.import_recipe}
    content = {"version": "1.0", "kind": kind, "training": recipe, **registered.import_spec}
    weights = f", weights {Path(settings['weights']).name}" if "weights" in settings else ""
    about = f"# Imported from {Path(settings['source']).name}{weights}.\n"
    text = about + yaml.safe_dump(content, sort_keys=False)
    return parse(text, name, str(path), changes).moved(home), True


def _load_existing(name: str, path: Path, kind: str | None, changes: dict[str, Any], home: Path) -> Spec:
    """The spec in `path` with `changes`. Raises CallError if it is no import, or one of another kind."""
    from training import recipes

    existing = load(name, changes, home)
    if not recipes.recipe_of(existing).is_import or kind not in (None, existing.kind):
        raise CallError(
            f"{path} is there already, a {existing.kind} of the recipe {existing.training.recipe}; choose "
            "another name"
        )
    return existing


def detect_kind(source: str, arguments: dict[str, Any], trust_pickle: bool) -> str:
    """classifier, detector or policy, by what `source` is. Raises CallError if it is none of them."""
    path = paths.expanded(source)
    if path.suffix.lower() in (".skops", ".joblib"):
        raise CallError(f"say what {path.name} answers: --kind regressor or --kind tabular_classifier")
    if path.suffix == ".zip":
        if not path.is_file():  # a pipe would be waited for
            raise CallError(f"no file {path}; name the zip that model.save(...) of stable-baselines3 wrote")
        if zipfile.is_zipfile(path) and "policy.pth" in zipfile.ZipFile(path).namelist():
            return "policy"
        raise CallError(f"{path} is no zip as stable-baselines3 saves it; it would hold a policy.pth")
    from torch import nn
    from torchvision import models
    from torchvision.models import detection

    from training.imports import sources

    kind, name = sources.origin(source)
    if kind == "onnx":
        return "tensor"
    if kind in ("program", "timm"):
        return "classifier"
    if kind == "torchvision":
        sources.torchvision_weights(name)  # raises for an unknown architecture
        if name in models.list_models(module=detection):
            return "detector"
        if name in models.list_models(module=models):
            return "classifier"
        raise CallError(
            f"{name} is neither a classifier nor a detector; torchvision's other models can't be imported yet"
        )
    module: nn.Module = sources.build(
        sources.Source(source=source, arguments=arguments, trust_pickle=trust_pickle)
    )
    detectors = (
        detection.FCOS,
        detection.RetinaNet,
        detection.ssd.SSD,
        detection.generalized_rcnn.GeneralizedRCNN,
    )
    return "detector" if isinstance(module, detectors) else "classifier"


def absolute(text: str) -> str:
    """`text` with its file or folder, if it names one, as an absolute path: specs are read from anywhere."""
    place, colon, function = text.rpartition(":") if ".py:" in text else (text, "", "")
    path = paths.expanded(place)
    return f"{path.resolve()}{colon}{function}" if path.exists() else text


def import_and_export(spec: Spec, trust_pickle: bool, output: Output, strict: bool = False) -> None:
    """Import and export one model, and print its metrics; `strict` turns findings into errors.

    Raises as training does, and WorkError for a model that can't be exported.
    """
    from training.train import train

    started = monotonic()
    output.say(f"{spec.name}: importing {spec.training.settings['source']} ({spec.training.recipe})")
    source = spec
    if trust_pickle:
        training = spec.training.model_copy(update={"trust_pickle": True})
        source = spec.model_copy(update={"training": training})
    folder = train(source, strict=strict)
    metrics = [f"{name} {value:.4g}" for name, value in steps.export_metrics(spec).items()]
    reached = ", ".join(metrics) or "nothing measured, without --data"
    output.say(f"{spec.name}: {reached} after {monotonic() - started:.0f} s; exported to {folder}")
    steps.show_runtimes(spec, output)


def write_spec(spec: Spec) -> Path:
    """Write the file of a new spec."""
    path = paths.models(spec.home) / f"{spec.name}.yaml"
    write_atomic(path, spec.as_yaml())
    return path
