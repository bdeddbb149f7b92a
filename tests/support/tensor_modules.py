"""Modules with tensors in and out, of many signatures, and a predictor that serves one."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers.kinds.tensor import TensorPredictor
from handlers.protocol.fields import field_value
from handlers.runtime.export import Export
from handlers.runtime.runtimes import TorchRuntime
from training.tensors.signatures import Bounds, Input, Output, declared_inputs, with_outputs


class Plant(nn.Module):
    """A vector, a series of any length and a flag -> a vector, a scalar and a series."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gain, self.filter = nn.Linear(3, 4), nn.Conv1d(4, 2, 3, padding=1)

    def forward(
        self, position: torch.Tensor, history: torch.Tensor, forward: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """[B, 3], [B, time, 4], bool [B] -> force [B, 4], drift [B], trace [B, time]."""
        filtered = self.filter(history.transpose(1, 2)).mean(2)
        force = self.gain(position) * (forward.float() * 2 - 1)[:, None]
        return {"force": force, "drift": filtered[:, 0], "trace": history.sum(2)}


PLANT_INPUTS = {
    "position": Input(shape=(3,), unit="m", minimum=-10, maximum=10),
    "history": Input(shape=("time", 4)),
    "forward": Input(dtype="bool", default=True),
}
PLANT_DIMENSIONS = {"time": Bounds(minimum=1, maximum=16)}


def plant() -> Plant:
    """As a spec's source names it."""
    return Plant().eval()


def serve(folder: Path, module: nn.Module, inputs: dict[str, Input], **dimensions: Bounds) -> TensorPredictor:
    """A predictor of `module`; its files go to the empty `folder`."""
    fields, sizes = declared_inputs(inputs, dimensions)
    outputs = {"force": Output(unit="N")} if isinstance(module, Plant) else {}
    named, signature = with_outputs(module, fields, sizes, outputs)
    files: dict[str, Any] = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": "tensor", "max_batch": 8},
        "preprocess_config": signature.preprocess(),
        "postprocess_config": signature.postprocess(),
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    predictor = TensorPredictor()
    predictor.configure(Export.open(folder))
    predictor.model = TorchRuntime(named.eval())
    return predictor


def answer(predictor: TensorPredictor, content: Any, **headers: str) -> Any:
    """What one JSON body gets: the answer, or the error that is raised for it."""
    body = field_value(json.dumps(content).encode(), b"application/json")
    (found,) = predictor.answer_rows([({"body": body}, {"content-type": "application/json", **headers})])
    return found
