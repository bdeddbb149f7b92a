"""Brings a module of tensors that learned elsewhere: a program of torch.export, an ONNX graph, or a function
of one's own with weights.

Nothing is learned. The inputs of a .pt2 or .onnx are read from it; those of a function are declared in the
spec. What the outputs are is found by running it. Where there are arrays with their truth, it is measured on
them.
"""

import time

import torch
from pydantic import Field
from torch import nn

from handlers.inputs.tensors import Size, TensorField
from marina.core.errors import CallError
from training.data.arrays import load_arrays
from training.export.trained import Trained
from training.imports.files import existing, read_program
from training.imports.sources import ModuleSource, build, fingerprints, origin
from training.runs.run import Run
from training.tensors import evaluation
from training.tensors.onnx_graphs import OnnxModule, inputs_of_graph, module_of, read_onnx
from training.tensors.programs import inputs_of_program, positional
from training.tensors.signatures import (
    Bounds,
    Input,
    Name,
    Output,
    Signature,
    declared_inputs,
    example_of,
    with_outputs,
)

IS_IMPORT = True
METRICS = evaluation.OUTPUT_METRICS
DECLARE = "inputs: {x: {shape: [3]}, scale: {}}"


class Settings(ModuleSource):
    """What a spec may say under `training`."""

    inputs: dict[Name, Input] = Field(
        default={},
        description="the module's inputs by name, in its order; default: as a .pt2 or .onnx has them",
    )
    outputs: dict[Name, Output] = Field(
        default={}, description="what is known of the outputs, by name, in the module's order"
    )
    dimensions: dict[Name, Bounds] = Field(
        default={}, description="bounds of the named dimensions in the inputs' shapes"
    )
    data: str | None = Field(
        default=None,
        description="a file of named arrays, .npz, .safetensors or .csv, inputs and outputs, to measure on",
    )


def train(settings: Settings, run: Run) -> Trained:
    """Bring the module, and measure it where there is data.

    Raises CallError, with what to give instead, for what can't be had, doesn't fit or isn't trusted.
    """
    started = time.monotonic()
    torch.manual_seed(run.seed)
    module, inputs, sizes = _brought(settings)
    graph = module if isinstance(module, OnnxModule) else None
    named, signature = with_outputs(module, inputs, sizes, settings.outputs)
    if settings.data:
        rows, metrics = _measured(settings.data, named, signature)
        word = "row"
    else:
        rows, metrics, word = example_of(signature.inputs, signature.sizes, run.seed), {}, "drawn"
    found = evaluation.outputs_of(named, rows)
    return Trained(
        kind="tensor",
        module=named,
        example=example_of(signature.inputs, signature.sizes, run.seed),
        dimensions=signature.dimensions(),
        metrics=metrics,
        preprocess=signature.preprocess(),
        postprocess=signature.postprocess(),
        onnx=graph.graph if graph else None,
        parameters=graph.count if graph else None,
        samples=evaluation.samples_of(rows, found, signature, word),
        data={
            "name": "not known",
            "source": f"imported: {settings.source}",
            "licence": settings.licence,
            "measured_on": settings.data,
        },
        training={"files": fingerprints(settings), "seconds": round(time.monotonic() - started, 1)},
    )


def _brought(settings: Settings) -> tuple[nn.Module, tuple[TensorField, ...], dict[str, Size]]:
    """The module, its inputs and the sizes of their named dimensions."""
    kind, name = origin(settings.source)
    if kind == "program":
        path = existing(name, "source")
        program = read_program(path, settings.trust_pickle)
        fields, sizes = inputs_of_program(program, settings.inputs, settings.dimensions, str(path))
        return positional(program), fields, sizes
    if kind == "onnx":
        path = existing(name, "source")
        model = read_onnx(path)
        fields, sizes = inputs_of_graph(model, settings.inputs, settings.dimensions, str(path))
        return module_of(model, str(path)), fields, sizes
    if not settings.inputs:
        raise CallError(
            f"{settings.source} doesn't say what it takes; declare its inputs in the order in which it takes "
            f"them, like {DECLARE}, in the spec under training, or with --set training.inputs='{{…}}'"
        )
    fields, sizes = declared_inputs(settings.inputs, settings.dimensions)
    return build(settings, keep_dtypes=True), fields, sizes


def _measured(
    data: str, module: nn.Module, signature: Signature
) -> tuple[tuple[torch.Tensor, ...], dict[str, float]]:
    """The rows of the data, and the metrics of each output on them. Raises CallError for other shapes."""
    wanted = {field.name: f"the input {field.name}" for field in signature.inputs}
    wanted |= {field.name: f"the truth of the output {field.name}" for field in signature.outputs}
    arrays = load_arrays(data, wanted)
    inputs = evaluation.as_inputs(arrays, signature)
    found = evaluation.outputs_of(module, inputs)
    metrics: dict[str, dict[str, float]] = {}
    for field in signature.outputs:
        truth = arrays[field.name]
        if truth.shape != found[field.name].shape:
            raise CallError(
                f"{data}: {field.name!r} has the shape {list(truth.shape)}, the module gives "
                f"{list(found[field.name].shape)}"
            )
        metrics[field.name] = evaluation.metrics_of(found[field.name], truth)
    return inputs, evaluation.by_output(metrics)
