"""How well a module of named tensors does on arrays with their truth."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from training.export.trained import Sample
from training.tensors.signatures import DTYPES, Signature

BATCH = 256
SAMPLE_BYTES = 1 << 20  # of all golden requests together
Outputs = dict[str, np.ndarray]


def as_inputs(arrays: Mapping[str, np.ndarray], signature: Signature) -> tuple[torch.Tensor, ...]:
    """The graph's inputs [N, ...] from arrays by the inputs' names."""
    return tuple(
        torch.from_numpy(np.ascontiguousarray(arrays[field.name])).to(DTYPES[field.dtype])
        for field in signature.inputs
    )


def outputs_of(module: nn.Module, inputs: Sequence[torch.Tensor]) -> Outputs:
    """What the module gives for all rows, by name: [N, ...]."""
    parts: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for start in range(0, len(inputs[0]), BATCH):
            for name, values in module(*(one[start : start + BATCH] for one in inputs)).items():
                parts.setdefault(name, []).append(values.cpu().numpy())
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}


ERROR_METRICS = ("mae", "rmse", "r2")  # of `regression_metrics`
# of `by_output`
OUTPUT_METRICS = ("accuracy", *ERROR_METRICS, "*_accuracy", *(f"*_{name}" for name in ERROR_METRICS))


def regression_metrics(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean absolute error, root of the mean squared error, and R2 of all values together.

    R2 is 0 for truth without variance.
    """
    error = found.astype(np.float64) - truth.astype(np.float64)
    variance = float(np.var(truth.astype(np.float64), axis=0).sum())
    explained = 1 - float(np.mean(error**2, axis=0).sum()) / variance if variance > 0 else 0.0
    return {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean())), "r2": explained}


def metrics_of(found: np.ndarray, truth: np.ndarray, loss: str = "") -> dict[str, float]:
    """What tells how good an output is, by what it learned: accuracy of classes and truths, else errors."""
    if loss == "cross_entropy":
        return {"accuracy": float((found.argmax(1) == truth).mean())}
    if loss == "bce":
        return {"accuracy": float(((found > 0.5) == (truth > 0.5)).mean())}
    if found.dtype.kind != "f":
        return {"accuracy": float((found == truth).mean())}
    return regression_metrics(found, truth)


def by_output(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics of several outputs under OUTPUT_METRIC; those of a single one under their own names."""
    if len(metrics) == 1:
        return dict(next(iter(metrics.values())))
    return {f"{name}_{metric}": value for name, own in metrics.items() for metric, value in own.items()}


def samples_of(
    inputs: Sequence[torch.Tensor], found: Outputs, signature: Signature, word: str
) -> list[Sample]:
    """Golden requests from the first rows, as many as SAMPLE_BYTES allow, at least one; each expects what
    the module gave.
    """
    samples: list[Sample] = []
    size = 0
    for row in range(len(inputs[0])):
        body = json.dumps(
            {field.name: one[row].tolist() for field, one in zip(signature.inputs, inputs, strict=True)}
        ).encode()
        size += len(body)
        if samples and size > SAMPLE_BYTES:
            break
        expect = {name: values[row].tolist() for name, values in found.items()}
        samples.append(Sample(f"{word}-{row}", body, "application/json", expect))
    return samples
