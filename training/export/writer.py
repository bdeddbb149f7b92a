"""The only writer of exports/: a trained model that reached its floor -> exports/<name>/<version>/.

Everything is built in a folder beside the final one and moved there in one step, after the checksums are
written: a folder with SHA256SUMS is complete. Nothing is pickled: `.pt2` and JSON.
"""

import inspect
import io
import json
import platform
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

import marina
from handlers.runtime.checksums import write_checksums
from handlers.runtime.export import ONNX_PROGRAM, PROGRAM, SAMPLES_FOLDER, SAMPLES_INDEX, Export
from handlers.runtime.predictor import Predictor
from handlers.runtime.runtimes import OnnxRuntime, TorchRuntime, arrays, flat, form_of
from marina.core import paths
from marina.core.errors import BelowFloor, CallError, ParityError, WorkError
from marina.core.spec import Spec
from training.export.runtimes.agreement import distance
from training.export.runtimes.choosing import choose
from training.export.runtimes.trial_process import shared_trial_process
from training.export.trained import Sample, Trained, spread
from training.imports.files import first_line, quiet_torch

SUFFIXES = {f"image/{kind}": f".{kind}" for kind in ("png", "webp", "bmp", "gif", "tiff")}
SUFFIXES |= {"image/jpeg": ".jpg", "image/apng": ".png", "application/json": ".json", "text/plain": ".txt"}
SUFFIXES |= {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/x-msvideo": ".avi",
    "video/x-matroska": ".mkv",
    "video/webm": ".webm",
    "audio/wav": ".wav",
    "audio/flac": ".flac",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
}


def export(spec: Spec, trained: Trained, folder: Path) -> Path:
    """Complete `folder` (which holds report/ already) and move it to `spec.export_dir`, which is returned.

    Raises BelowFloor when a metric misses the spec's floor, ParityError when the exported graph differs from
    the trained model, WorkError when a sample of the spec is answered wrongly.
    """
    check_floor(spec, trained.metrics)
    if spec.export.runtimes:
        shared_trial_process().start()  # imports what it needs meanwhile
    _write_json(folder / "model_metadata.json", metadata(spec, trained))
    _write_json(folder / "preprocess_config.json", trained.preprocess)
    _write_json(folder / "postprocess_config.json", trained.postprocess)
    if trained.classes is not None:
        _write_json(
            folder / "class_mapping.json", {str(index): name for index, name in enumerate(trained.classes)}
        )
    for name, content in trained.files.items():
        (folder / name).write_bytes(content)
    handler: Predictor = spec.predictor()
    handler.configure(Export.open(folder))
    handler.model = TorchRuntime(trained.module)
    handler.parts = {name: TorchRuntime(part.module) for name, part in trained.parts.items()}
    write_samples(spec, trained, handler, folder)
    program = None
    if trained.onnx:
        save_onnx(spec, trained, folder / ONNX_PROGRAM)
    else:
        program = save_program(spec, trained, folder / PROGRAM)
    chosen = choose(spec, trained, handler, program, folder)
    for name, part in trained.parts.items():
        (folder / name).mkdir()
        program = save_program(spec, part, folder / name / PROGRAM)
        choose(spec, part, handler, program, folder / name)
    if any(one["precision"] != "fp32" for one in chosen["serve"]):
        _accept_reduced(folder)
    write_checksums(folder)
    return _move(folder, spec.export_dir)


def check_floor(spec: Spec, metrics: dict[str, float]) -> None:
    """Raise BelowFloor, saying by how much, unless every metric of the spec's floor is reached."""
    for name, least in spec.floor.items():
        if name not in metrics:
            raise CallError(
                f"models/{spec.name}.yaml: floor: no metric {name!r}; this recipe measures "
                f"{', '.join(sorted(metrics))}"
            )
        if not metrics[name] >= least:
            missed = (
                f"{spec.name}: {name} {metrics[name]:.4g} is below the floor {least:g} by "
                f"{least - metrics[name]:.4g}"
            )
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
        "data": {**trained.data, **pixel_statistics(trained)},
        "findings": trained.findings,
        "training": {"recipe": spec.training.recipe, "seed": spec.training.seed, **trained.training},
        "parameters": parameter_count(trained),
        "versions": {
            "marina": marina.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
        },
    }


def parameter_count(trained: Trained) -> int:
    """How many numbers a model has learned."""
    if trained.parameters is not None:
        return trained.parameters
    modules = (trained.module, *(part.module for part in trained.parts.values()))
    return sum({id(one): one.numel() for module in modules for one in module.parameters()}.values())


def pixel_statistics(trained: Trained) -> dict[str, Any]:
    """What the held-out pictures or clips look like as the graph takes them: lowest and highest value in
    0..255, mean and standard deviation by channel in 0..1, to compare with a normalization; {} for others.
    """
    pixels: torch.Tensor = spread(trained.validation[0], 32) if trained.validation else torch.empty(0)
    if pixels.dtype != torch.uint8 or pixels.ndim not in (4, 5) or not pixels.numel():
        return {}
    channels = pixels.transpose(0, -3).flatten(1).float() / 255
    return {
        "pixels": {
            "lowest": int(pixels.min()),
            "highest": int(pixels.max()),
            "mean": [round(value, 4) for value in channels.mean(1).tolist()],
            "std": [round(value, 4) for value in channels.std(1).tolist()],
        }
    }


def save_program(spec: Spec, trained: Trained, path: Path) -> ExportedProgram:
    """torch.export with a dynamic batch of 1..max_batch, and whatever other dimensions have no fixed size,
    saved, loaded again and compared with the trained model.
    """
    # the program's file would hold all that they are views of
    example = tuple(part.clone() for part in trained.example)
    program = _exported(spec, trained, example)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    # on a full disk torch's own writer aborts the process instead of raising
    path.write_bytes(buffer.getvalue())
    loaded = torch.export.load(path).module()
    for rows, where in _rows_to_check(spec, trained):
        with torch.inference_mode():
            found = arrays(loaded(*rows))
        _check_equal(spec, trained.module, found, rows, where)
    return program


def save_onnx(spec: Spec, trained: Trained, path: Path) -> None:
    """The ONNX graph that the model came as, saved, loaded again and compared with the module."""
    assert trained.onnx
    path.write_bytes(trained.onnx)
    runtime = OnnxRuntime(path, "fp32", form_of(trained.module(*trained.example)))
    for rows, where in _rows_to_check(spec, trained):
        _check_equal(spec, trained.module, runtime(*(part.numpy() for part in rows)), rows, where)


def _rows_to_check(spec: Spec, trained: Trained) -> Iterator[tuple[tuple[torch.Tensor, ...], str]]:
    """Batches of several sizes, and of several sizes of what has no fixed one, with their names."""
    most = spec.export.max_batch
    for size in sorted({1, 2, min(3, most), min(spec.serving.batch_size, most), most}):
        yield trained.rows(size), f"batch {size}"
    for sizes in trained.sizes_to_check():
        where = ", ".join(f"{name} {size}" for name, size in sizes.items())
        yield trained.rows(2, sizes), where


def _exported(spec: Spec, trained: Trained, example: tuple[torch.Tensor, ...]) -> ExportedProgram:
    """Raises WorkError, with torch's reason, where it can't make a graph of the module."""
    with warnings.catch_warnings(), quiet_torch():
        # torchvision's own affair with torch
        warnings.filterwarnings("ignore", message=".*create_unbacked_symint")
        # torch's recurrent cells list their weights once more, as a graph's trace sets them
        warnings.filterwarnings("ignore", message=".*_flat_weights")
        try:
            return torch.export.export(
                trained.module, example, dynamic_shapes=_dynamic_shapes(spec, trained), strict=False
            )
        except Exception as error:  # whatever its tracing, or the user's own module, raises
            named = sorted({one.name for by_place in trained.dimensions for one in by_place.values()})
            reason, remedy = first_line(error), "a model without such code"
            if named:
                remedy += f", or a fixed size for {' and '.join(named)}"
            elif "onstraint" in reason:
                remedy = "a batch that its graph allows: --set export.max_batch=8"
            raise WorkError(f"{spec.name} can't be exported: {reason}; give {remedy}") from error


def _dynamic_shapes(spec: Spec, trained: Trained) -> tuple[Any, ...]:
    """Per input: index of a dimension without a fixed size -> torch's own dimension."""
    batch = torch.export.Dim("batch", min=1, max=spec.export.max_batch)
    known = {
        dimension.name: torch.export.Dim(dimension.name, min=dimension.least, max=dimension.most)
        for dimensions in trained.dimensions
        for dimension in dimensions.values()
    }
    others = trained.dimensions or ({},) * len(trained.example)
    shapes = tuple(
        {0: batch, **{place: known[dimension.name] for place, dimension in dimensions.items()}}
        for dimensions in others
    )
    parameters = inspect.signature(trained.module.forward).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    return (shapes,) if takes_any else shapes  # torch counts *inputs as one


def _check_equal(
    spec: Spec, module: torch.nn.Module, found: Any, inputs: tuple[torch.Tensor, ...], where: str
) -> None:
    """Raise ParityError where what the loaded program gives differs from the module's outputs."""
    with torch.inference_mode():
        expected = arrays(module(*inputs))
    worst = max(distance(*pair) for pair in zip(flat(expected), flat(found), strict=True))
    if not worst <= spec.export.parity:
        raise ParityError(
            f"{spec.name}: at {where} the exported graph is off by {worst:.3g}, "
            f"allowed {spec.export.parity:g}"
        )


def _accept_reduced(folder: Path) -> None:
    """Mark the golden samples: a worker may answer them in reduced precision."""
    index = folder / SAMPLES_FOLDER / SAMPLES_INDEX
    _write_json(
        index, [{**sample, "reduced": True} for sample in json.loads(index.read_text(encoding="utf-8"))]
    )


def write_samples(spec: Spec, trained: Trained, handler: Predictor, folder: Path) -> None:
    """Golden requests with the answers that the trained model itself gives through the serving code."""
    samples = trained.samples[: spec.samples.held_out] + [
        _own(request, spec.home) for request in spec.samples.requests
    ]
    if not samples:
        raise WorkError(
            f"{spec.name}: the model answers no held-out example rightly by a clear lead, so there is no "
            "sample to prove it with; write some under samples.requests in the spec"
        )
    (folder / SAMPLES_FOLDER).mkdir()
    index = []
    for sample in samples:
        (answer,) = handler.answer_rows([({"body": sample.body}, {})])
        wrong = str(answer) if isinstance(answer, Exception) else handler.mismatch(sample.expect, answer)
        if wrong:
            raise WorkError(
                f"{spec.name}: sample {sample.name!r} is answered wrongly: {wrong}; nothing was exported"
            )
        file = sample.name + SUFFIXES.get(sample.content_type, ".bin")
        (folder / SAMPLES_FOLDER / file).write_bytes(sample.body)
        entry = {"name": sample.name, "file": file, "content_type": sample.content_type}
        index.append({**entry, "expect": sample.expect, "answer": answer})
    _write_json(folder / SAMPLES_FOLDER / SAMPLES_INDEX, index)


def _own(request: Any, home: Path) -> Sample:
    """A sample request that is written in the spec of the project `home`."""
    if request.file is None:
        return Sample(
            request.name, json.dumps(request.json_body).encode(), "application/json", request.expect
        )
    path = paths.models(home) / "samples" / request.file
    if not path.is_file():
        raise CallError(f"sample {request.name!r}: no file {path}")
    kinds = {suffix: kind for kind, suffix in SUFFIXES.items()} | {".jpeg": "image/jpeg"}
    return Sample(
        request.name,
        path.read_bytes(),
        kinds.get(path.suffix.lower(), "application/octet-stream"),
        request.expect,
    )


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
