"""The only writer of exports/: a trained model that reached its floor -> exports/<name>/<version>/.

Everything is built in a folder beside the final one and moved there in one step, after the checksums are written: a folder
with SHA256SUMS is complete. Nothing is pickled: `.pt2` and JSON.
"""

import importlib
import io
import json
import platform
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

import marina
from marina import paths
from marina.errors import BelowFloor, CallError, ParityError, WorkError
from marina.samples import mismatch
from marina.spec import Spec
from training import runtimes
from training.trained import Sample, Trained

from bundle_checksums import write_checksums
from bundle_golden import FOLDER, INDEX
from bundle_handler import BundleHandler
from bundle_runtimes import TorchRuntime, arrays, flat

SUFFIXES = {f"image/{kind}": f".{kind}" for kind in ("png", "webp", "bmp", "gif", "tiff")}
SUFFIXES |= {"image/jpeg": ".jpg", "image/apng": ".png", "application/json": ".json"}
SUFFIXES |= {"video/mp4": ".mp4", "video/quicktime": ".mov", "video/x-msvideo": ".avi", "video/x-matroska": ".mkv", "video/webm": ".webm"}


def export(spec: Spec, trained: Trained, folder: Path) -> Path:
    """Complete `folder` (which holds report/ already) and move it to `spec.export_dir`, which is returned.

    Raises BelowFloor when a metric misses the spec's floor, ParityError when the exported graph differs from the trained
    model, WorkError when a sample of the spec is answered wrongly.
    """
    check_floor(spec, trained.metrics)
    _write_json(folder / "model_metadata.json", metadata(spec, trained))
    _write_json(folder / "preprocess_config.json", trained.preprocess)
    _write_json(folder / "postprocess_config.json", trained.postprocess)
    if trained.classes is not None:
        _write_json(folder / "class_mapping.json", {str(index): name for index, name in enumerate(trained.classes)})
    handler = handler_of(spec.kind)
    handler.read_configs(folder)
    handler.model = TorchRuntime(trained.module)
    write_samples(spec, trained, handler, folder)
    program = save_program(spec, trained, folder / "model.pt2")
    chosen = runtimes.choose(spec, trained, handler, program, folder)
    if any(one["precision"] != "fp32" for one in chosen["serve"]):
        _accept_reduced(folder)
    write_checksums(folder)
    return _move(folder, spec.export_dir)


def handler_of(kind: str) -> BundleHandler:
    """The handler that serves `kind`, not initialised: handlers/<kind>_handler.py has one class."""
    name = "".join(part.capitalize() for part in kind.split("_"))
    handler: BundleHandler = getattr(importlib.import_module(f"{kind}_handler"), f"{name}Handler")()
    return handler


def check_floor(spec: Spec, metrics: dict[str, float]) -> None:
    """Raise BelowFloor, saying by how much, unless every metric of the spec's floor is reached."""
    for name, least in spec.floor.items():
        if name not in metrics:
            raise CallError(f"models/{spec.name}.yaml: floor: no metric {name!r}; this recipe measures {', '.join(sorted(metrics))}")
        if not metrics[name] >= least:
            missed = f"{spec.name}: {name} {metrics[name]:.4g} is below the floor {least:g} by {least - metrics[name]:.4g}"
            raise BelowFloor(f"{missed}; nothing was exported")


def metadata(spec: Spec, trained: Trained) -> dict[str, Any]:
    """model_metadata.json: what the model is, what it learned from, how good it is, and what made it."""
    return {
        "name": spec.name,
        "version": spec.version,
        "kind": spec.kind,
        "about": spec.about,
        "max_batch": spec.export.max_batch,
        "metrics": trained.metrics,
        "floor": spec.floor,
        "data": trained.data,
        "training": {"recipe": spec.training.recipe, "seed": spec.training.seed, **trained.training},
        "parameters": sum(parameter.numel() for parameter in trained.module.parameters()),
        "versions": {
            "marina": marina.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
        },
    }


def save_program(spec: Spec, trained: Trained, path: Path) -> ExportedProgram:
    """torch.export with a dynamic batch of 1..max_batch, saved, loaded again and compared with the trained model."""
    batch = torch.export.Dim("batch", min=1, max=spec.export.max_batch)
    shapes = tuple({0: batch} for _ in trained.example)
    example = tuple(part.clone() for part in trained.example)  # the program's file would hold all that they are views of
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*create_unbacked_symint")  # torchvision's own affair with torch
        program = torch.export.export(trained.module, example, dynamic_shapes=shapes, strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())  # on a full disk torch's own writer aborts the process instead of raising
    loaded = torch.export.load(path).module()
    for size in sorted({1, 2, min(3, spec.export.max_batch), min(spec.serving.batch_size, spec.export.max_batch), spec.export.max_batch}):
        rows = torch.arange(size) % len(trained.example[0])
        inputs = [part[rows] for part in trained.example]
        with torch.inference_mode():
            expected, found = arrays(trained.module(*inputs)), arrays(loaded(*inputs))
        worst = max(runtimes.distance(*pair) for pair in zip(flat(expected), flat(found), strict=True))
        if not worst <= spec.export.parity:
            raise ParityError(f"{spec.name}: at batch {size} the exported graph is off by {worst:.3g}, allowed {spec.export.parity:g}")
    return program


def _accept_reduced(folder: Path) -> None:
    """Mark the golden samples: a worker may answer them in reduced precision."""
    index = folder / FOLDER / INDEX
    _write_json(index, [{**sample, "reduced": True} for sample in json.loads(index.read_text(encoding="utf-8"))])


def write_samples(spec: Spec, trained: Trained, handler: BundleHandler, folder: Path) -> None:
    """Golden requests with the answers that the trained model itself gives through the serving code."""
    samples = trained.samples[: spec.samples.held_out] + [_own(request) for request in spec.samples.requests]
    if not samples:
        raise WorkError(f"{spec.name}: the model answers no held-out example rightly, so there is no sample to prove it with")
    (folder / FOLDER).mkdir()
    index = []
    for sample in samples:
        (answer,) = handler.answer_rows([({"body": sample.body}, {})])
        wrong = str(answer) if isinstance(answer, Exception) else mismatch(sample.expect, answer)
        if wrong:
            raise WorkError(f"{spec.name}: sample {sample.name!r} is answered wrongly: {wrong}; nothing was exported")
        file = sample.name + SUFFIXES.get(sample.content_type, ".bin")
        (folder / FOLDER / file).write_bytes(sample.body)
        entry = {"name": sample.name, "file": file, "content_type": sample.content_type}
        index.append({**entry, "expect": sample.expect, "answer": answer})
    _write_json(folder / FOLDER / INDEX, index)


def _own(request: Any) -> Sample:
    """A sample request that is written in the spec."""
    if request.file is None:
        return Sample(request.name, json.dumps(request.json_body).encode(), "application/json", request.expect)
    path = paths.models() / "samples" / request.file
    if not path.is_file():
        raise CallError(f"sample {request.name!r}: no file {path}")
    kinds = {suffix: kind for kind, suffix in SUFFIXES.items()} | {".jpeg": "image/jpeg"}
    return Sample(request.name, path.read_bytes(), kinds.get(path.suffix.lower(), "application/octet-stream"), request.expect)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _move(folder: Path, target: Path) -> Path:
    """Put `folder` in the place of `target`, which may exist."""
    old = folder.with_name(folder.name + ".old")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target
