"""`marina import`: makes the spec of a model that learned elsewhere, and runs it.

What the recipes do is in training/imported_*.py; here is found which of them, and what the spec says. A spec that exists is used
as it is, with the command line on top; a new one is written after the import has come about, so that a wrong call leaves nothing.
"""

import zipfile
from pathlib import Path
from time import monotonic
from typing import Any, get_args

import yaml

from marina import paths, spec, up
from marina.console import Output
from marina.errors import CallError, WorkError
from marina.spec import Kind, Spec

LARGEST_DETECTOR_BATCH = 8  # detectors' inputs are large, and the export computes a whole batch of this size


def chosen(name: str, given: dict[str, Any], kind: str | None, overrides: dict[str, Any], trust_pickle: bool) -> tuple[Spec, bool]:
    """(the spec of this import, whether it is a new one) from what was `given` under `training` and the further `overrides`.

    Raises CallError for a spec of another sort, and where the kind can't be found by looking.
    """
    given = {key: absolute(value) for key, value in given.items() if value is not None}
    if isinstance(statistics := overrides.get("training.statistics"), str):
        overrides = {**overrides, "training.statistics": absolute(statistics)}
    changes = {**{f"training.{key}": value for key, value in given.items()}, **overrides}
    path = paths.models() / f"{name}.yaml"
    if path.is_file():
        one = spec.load(name, changes)
        if not one.training.is_import or kind not in (None, one.kind):
            raise CallError(f"{path} is there already, a {one.kind} of the recipe {one.training.recipe}; choose another name")
        return one, False
    if not spec.NAME.fullmatch(name):
        raise CallError(f"{name!r} is no model name: a letter, then letters, digits, - and _, 64 at most")
    arguments = overrides.get("training.arguments", {})
    found = kind or kind_of(given["source"], arguments, trust_pickle)
    if found not in get_args(Kind):
        raise CallError(f"--kind {found}: choose {', '.join(get_args(Kind))}")
    if found == "policy" and "training.environment" not in overrides:
        raise CallError(f"{given['source']} doesn't say where it learnt; add its environment: --set training.environment=CartPole-v1")
    content: dict[str, Any] = {"version": "1.0", "kind": found, "training": {"recipe": f"imported_{found}"}}
    if found == "detector":
        content["export"] = {"max_batch": LARGEST_DETECTOR_BATCH}
    about = f"# Imported from {Path(given['source']).name}{', weights ' + Path(given['weights']).name if 'weights' in given else ''}.\n"
    return spec.parse(about + yaml.safe_dump(content, sort_keys=False), name, str(path), changes), True


def kind_of(source: str, arguments: dict[str, Any], trust_pickle: bool) -> str:
    """classifier, detector or policy, by looking at what `source` is. Raises CallError where it is none of them."""
    path = Path(source).expanduser()
    if path.suffix == ".zip":
        if zipfile.is_zipfile(path) and "policy.pth" in zipfile.ZipFile(path).namelist():
            return "policy"
        raise CallError(f"{path} is no zip as stable-baselines3 saves it; it would hold a policy.pth")
    from torch import nn
    from torchvision import models
    from torchvision.models import detection

    from training.imports import sources

    kind, name = sources.origin(source)
    if kind in ("program", "timm"):
        return "classifier"
    if kind == "torchvision":
        sources.torchvision_weights(name)  # says so where there is no such architecture
        if name in models.list_models(module=detection):
            return "detector"
        if name in models.list_models(module=models):
            return "classifier"
        raise CallError(f"{name} is neither a classifier nor a detector; torchvision's other models can't be imported yet")
    module: nn.Module = sources.build(sources.Source(source=source, arguments=arguments, trust_pickle=trust_pickle))
    detectors = (detection.FCOS, detection.RetinaNet, detection.ssd.SSD, detection.generalized_rcnn.GeneralizedRCNN)
    return "detector" if isinstance(module, detectors) else "classifier"


def absolute(text: str) -> str:
    """`text` with the file or folder that it names, if there is one, by its whole path: a spec is read from anywhere."""
    place, colon, function = text.rpartition(":") if ".py:" in text else (text, "", "")
    path = Path(place).expanduser()
    return f"{path.resolve()}{colon}{function}" if path.exists() else text


def bring(one: Spec, trust_pickle: bool, output: Output) -> None:
    """Import and export one model, and say what it reached. Raises as training does, and WorkError for what can't be exported."""
    from training.train import train

    started = monotonic()
    output.say(f"{one.name}: importing {one.training.settings['source']} ({one.training.recipe})")
    trusting = one.model_copy(update={"training": one.training.model_copy(update={"trust_pickle": True})}) if trust_pickle else one
    try:
        folder = train(trusting)
    except RuntimeError as error:  # torch.export says of a model what it can't follow
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        smaller = "a batch that its graph allows: --set export.max_batch=8" if "onstraint" in reason else "a model without such code"
        raise WorkError(f"{one.name} can't be exported: {reason}; give {smaller}") from error
    reached = ", ".join(f"{name} {value:.4g}" for name, value in up.export_metrics(one).items()) or "nothing measured, without --data"
    output.say(f"{one.name}: {reached} after {monotonic() - started:.0f} s; exported to {folder}")
    up.show_runtimes(one, output)


def write(one: Spec) -> Path:
    """The file of a new spec."""
    path = paths.models() / f"{one.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(one.as_yaml(), encoding="utf-8")
    return path
