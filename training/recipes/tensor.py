"""Learns any module with tensors in and out: a network of one's own, or a perceptron, with a loss per head.

The data is one file of named arrays with a row per example: inputs and targets. Of the epochs the one with
the least validation loss is exported. What a head serves are values, or probabilities where it learned by
cross-entropy.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from marina.core.errors import CallError
from training.data.arrays import Arrays, fingerprint_of, load_arrays
from training.export.trained import HELD_OUT, Trained
from training.imports.user_code import called, folder_of, importable, load_function
from training.runs.fitting import fit
from training.runs.loss_learning import LossModule
from training.runs.run import Run
from training.runs.schedules import FitSettings, LargeBatchSize, ShortEpochs
from training.runs.seeds import seed_everything
from training.tensors.drawing import draw_heads, draw_losses
from training.tensors.evaluation import (
    OUTPUT_METRICS,
    as_inputs,
    by_output,
    metrics_of,
    outputs_of,
    samples_of,
)
from training.tensors.learning import Rows, Split, Tensors
from training.tensors.networks import MLP, LossName, ServedHeads, Standardized, loss_of, statistics_of
from training.tensors.signatures import (
    Bounds,
    Input,
    Name,
    NamedModule,
    Output,
    Signature,
    declared_inputs,
    example_of,
    with_outputs,
)

TEST_SHARE, VALIDATION_SHARE = 0.15, 0.15
LEAST_ROWS = 20
METRICS = OUTPUT_METRICS


class Head(Output):
    """One output that learns."""

    target: str | None = Field(default=None, description="array of its truth; default: of its own name")
    loss: LossName = Field(default="mse", description="cross_entropy takes class numbers, bce 0 and 1")
    weight: float = Field(default=1.0, gt=0, description="of its loss beside the other heads'")
    classes: int | None = Field(
        default=None, ge=2, description="of cross_entropy; default: as the data has them"
    )


class Settings(FitSettings):
    """The settings of this recipe."""

    data: str = Field(description="a file of named arrays, .npz, .safetensors or .csv, a row per example")
    network: str = Field(default="mlp", description="mlp, package.module:function or file.py:function")
    arguments: dict[str, Any] = Field(default={}, description="keyword arguments of the function")
    hidden: tuple[int, ...] = Field(default=(64, 64), description="widths of the mlp's hidden layers")
    activation: Literal["relu", "tanh", "gelu", "silu"] = Field(default="relu", description="of the mlp")
    inputs: dict[Name, Input] = Field(min_length=1, description="inputs by name, in the network's order")
    outputs: dict[Name, Head] = Field(min_length=1, description="heads by name, in the network's order")
    dimensions: dict[Name, Bounds] = Field(
        default={}, description="bounds of the named dimensions in the inputs' shapes"
    )
    standardize: bool = Field(
        default=True, description="bring inputs of floats to mean 0 and deviation 1, inside the graph"
    )
    epochs: ShortEpochs = 100
    batch_size: LargeBatchSize = 32


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the least validation loss, measure on the test rows, draw the report.

    Raises CallError for data and modules that don't fit the declared inputs and outputs.
    """
    seed_everything(run.seed)
    fields, sizes = declared_inputs(settings.inputs, settings.dimensions)
    targets = {name: head.target or name for name, head in settings.outputs.items()}
    wanted = {name: f"the input {name}" for name in settings.inputs}
    wanted |= {array: f"the truth of the output {name}" for name, array in targets.items()}
    arrays = load_arrays(settings.data, wanted)
    draft = Signature(fields, (), sizes)
    _check_inputs(settings.data, arrays, draft)
    splits = _splits(arrays, draft, targets, run.seed)
    network = _network(settings, splits[0], draft)
    named, signature = with_outputs(network, fields, sizes, settings.outputs)
    learner = Learner(_wrapped(settings, named, splits[0][0], signature), settings, splits[1])
    learner.check_losses(splits[0])
    batches = Rows(splits[0], settings.batch_size, run.seed)
    fingerprint = fingerprint_of(arrays)
    fit(learner, batches, run, fingerprint=fingerprint)

    return _exported(settings, run, learner, signature, splits, fingerprint, learner.training_facts(run))


def _exported(
    settings: Settings,
    run: Run,
    learner: "Learner",
    signature: Signature,
    splits: list[Split],
    fingerprint: str,
    facts: dict[str, Any],
) -> Trained:
    """The best epoch, measured on the test rows, with its pictures in the report."""
    model = learner.best_model()
    losses = {name: head.loss for name, head in settings.outputs.items()}
    served = ServedHeads(model, losses).eval()
    inputs, targets = splits[2]
    truth = {name: one.numpy() for name, one in targets.items()}
    found = outputs_of(served, inputs)
    draw_losses(learner.history, run.report / "curves.png")
    draw_heads(found, truth, losses, run.report / "heads.png")
    outputs = tuple(replace(field, dtype=str(found[field.name].dtype)) for field in signature.outputs)
    signature = replace(signature, outputs=outputs)
    counts = {
        name: len(split[0][0]) for name, split in zip(("train", "validation", "test"), splits, strict=True)
    }
    return Trained(
        kind="tensor",
        module=served,
        example=example_of(signature.inputs, signature.sizes, run.seed),
        dimensions=signature.dimensions(),
        validation=tuple(one[:HELD_OUT] for one in splits[1][0]),
        metrics=by_output({name: metrics_of(found[name], truth[name], losses[name]) for name in losses}),
        preprocess=signature.preprocess(),
        postprocess=signature.postprocess(),
        samples=samples_of(inputs, found, signature, "test"),
        data={
            "name": settings.data,
            "source": "the owner's",
            "licence": "the owner's",
            **counts,
            "splits": f"drawn with seed {run.seed}",
            "fingerprint": fingerprint,
        },
        training=facts,
    )


class Learner(LossModule):
    """A module that learns by the weighted sum of its heads' losses."""

    settings: Settings

    def loss(self, model: nn.Module, batch: Split) -> torch.Tensor:
        """The weighted sum over the heads, for one batch."""
        inputs, targets = batch
        outputs = model(*inputs)
        return torch.stack(
            [
                head.weight * loss_of(head.loss, outputs[name], targets[name])
                for name, head in self.settings.outputs.items()
            ]
        ).sum()

    def check_losses(self, split: Split) -> None:
        """Raise CallError where a head's output doesn't go with its target and loss."""
        inputs, targets = split
        first = slice(0, 2)
        with torch.no_grad():
            outputs = self.model(*(one[first] for one in inputs))
            for name, head in self.settings.outputs.items():
                try:
                    shapes_equal = outputs[name].shape == targets[name][first].shape
                    if head.loss != "cross_entropy" and not shapes_equal:
                        raise ValueError("the shapes differ")
                    loss_of(head.loss, outputs[name], targets[name][first])
                except (ValueError, IndexError, RuntimeError) as error:
                    raise CallError(
                        f"the output {name!r} is {list(outputs[name].shape[1:])} per row and its truth "
                        f"{list(targets[name].shape[1:])}, which {head.loss} can't compare: {error}"
                    ) from error


def _check_inputs(path: str, arrays: Arrays, signature: Signature) -> None:
    """Raise CallError where an array is not what its input declares: as requests its rows would be
    refused.
    """
    for field in signature.inputs:
        array = arrays[field.name]
        try:
            replace(field, shape=(len(array), *field.shape)).read(array, signature.sizes, {})
        except Exception as error:  # a refusal as a caller would get it
            raise CallError(f"{path}: {error}") from error


def _splits(arrays: Arrays, signature: Signature, targets: dict[str, str], seed: int) -> list[Split]:
    """Training, validation and test rows, drawn by `seed`."""
    inputs = as_inputs(arrays, signature)
    count = len(inputs[0])
    if count < LEAST_ROWS:
        raise CallError(f"{count} rows are too few to learn from; give {LEAST_ROWS} at least")
    test, validation = held_out(count, seed), int(count * VALIDATION_SHARE)
    others = _order(count, seed)[len(test) :]
    parts = others[validation:], others[:validation], test
    truth = {name: torch.from_numpy(np.ascontiguousarray(arrays[array])) for name, array in targets.items()}
    truth = {name: one.float() if one.is_floating_point() else one for name, one in truth.items()}
    return [
        (tuple(one[rows] for one in inputs), {name: one[rows] for name, one in truth.items()})
        for rows in parts
    ]


def held_out(count: int, seed: int) -> torch.Tensor:
    """The test rows of `count`: int64 [test rows]."""
    return _order(count, seed)[: int(count * TEST_SHARE)]


def _order(count: int, seed: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _network(settings: Settings, split: Split, signature: Signature) -> nn.Module:
    """The user's own network, or a perceptron of the data's sizes."""
    if settings.network != "mlp":
        function = load_function(settings.network, "network")
        with importable(folder_of(settings.network.rpartition(":")[0])):
            made = called(lambda: function(**settings.arguments), settings.network)
        if not isinstance(made, nn.Module):
            raise CallError(f"{settings.network} gave a {type(made).__name__}, not an nn.Module")
        return made.float()
    if signature.sizes:
        raise CallError("network: an mlp takes fixed sizes; name a function of your own for named dimensions")
    inputs, targets = split
    shapes = {}
    for name, head in settings.outputs.items():
        shapes[name] = tuple(targets[name].shape[1:])
        if head.loss == "cross_entropy":
            shapes[name] = (head.classes or int(targets[name].max()) + 1, *shapes[name])
    size = sum(one[0].numel() for one in inputs)
    return MLP(size, shapes, settings.hidden, settings.activation)


def _wrapped(settings: Settings, named: NamedModule, inputs: Tensors, signature: Signature) -> nn.Module:
    if not settings.standardize:
        return named
    return Standardized(named, statistics_of(inputs, signature))
