"""ONNX graphs as models of named tensors: imported, and served by two runtimes as their source answers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handlers.protocol.errors import BrokenArchive, NotSupported
from handlers.runtime.export import ONNX_PROGRAM, PROGRAM, Export
from handlers.runtime.runtimes import OpenVinoRuntime
from marina.core import spec
from marina.core.errors import CallError
from marina.packaging import archive
from marina.pipeline import importing
from training.imports.sources import Source, build
from training.train import train

onnx = pytest.importorskip("onnx", reason="pip install marina[onnx]")
ort = pytest.importorskip("onnxruntime", reason="pip install marina[onnx]")
B, T = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("time", min=2, max=64)


class Call(nn.Module):
    """A function as a module, with a layer."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """One batch."""
        return self.function(self.layers, *inputs)


@dataclass(frozen=True)
class Case:
    """A module, its inputs by name, which of their dimensions are dynamic, and its outputs' names."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: list[str]
    dynamic: tuple[dict[int, Any], ...] = ()


def cases() -> dict[str, Case]:
    """Ten signatures: vectors, scalars, inputs and heads, any length, whole numbers, truths, images."""
    torch.manual_seed(1)
    rows = torch.randn(4, 3)
    return vectors(rows) | others(rows)


def vectors(rows: torch.Tensor) -> dict[str, Case]:
    """One or several, of one or several heads."""
    return {
        "vector": Case(Call(lambda m, x: m[0](x), nn.Linear(3, 2)), {"x": rows}, ["y"]),
        "scalar": Case(Call(lambda m, x: x * 2 + 1), {"x": torch.randn(4)}, ["y"]),
        "two heads": Case(
            Call(lambda m, x: (m[0](x), m[1](x).squeeze(1)), nn.Linear(3, 2), nn.Linear(3, 1)),
            {"x": rows},
            ["force", "drift"],
        ),
        "two inputs": Case(
            Call(lambda m, a, b: m[0](torch.cat([a, b], 1)), nn.Linear(5, 2)),
            {"a": rows, "b": torch.randn(4, 2)},
            ["y"],
        ),
    }


def others(rows: torch.Tensor) -> dict[str, Case]:
    """Series, whole numbers, truths, images, doubles."""
    return {
        "a series": Case(
            Call(lambda m, x: m[0](x.transpose(1, 2)).mean(2), nn.Conv1d(3, 4, 3, padding=1)),
            {"history": torch.randn(4, 6, 3)},
            ["y"],
            ({0: B, 1: T},),
        ),
        "a series to a series": Case(
            Call(lambda m, x: m[0](x).cumsum(1), nn.Linear(3, 2)),
            {"history": torch.randn(4, 6, 3)},
            ["trace"],
            ({0: B, 1: T},),
        ),
        "whole numbers": Case(
            Call(lambda m, x: m[0](x).mean(1), nn.Embedding(10, 4)),
            {"tokens": torch.randint(0, 2, (4, 5))},
            ["y"],
        ),
        "truths": Case(
            Call(lambda m, x, on: torch.where(on[:, None], m[0](x), x), nn.Linear(3, 3)),
            {"x": rows, "on": torch.tensor([True, False, True, True])},
            ["y"],
        ),
        "an image": Case(
            Call(lambda m, x: m[1](m[0](x).relu().mean((2, 3))), nn.Conv2d(3, 8, 3), nn.Linear(8, 5)),
            {"pixels": torch.rand(4, 3, 8, 8)},
            ["logits"],
        ),
        "doubles": Case(
            Call(lambda m, x: m[0](x).softmax(1), nn.Linear(3, 3).double()), {"x": rows.double()}, ["y"]
        ),
    }


CASES = cases()


def write_onnx(path: Path, case: Case) -> Path:
    """The module's graph, with any batch."""
    dynamic = case.dynamic or tuple({0: B} for _ in case.inputs)
    torch.onnx.export(
        case.module.eval(),
        tuple(case.inputs.values()),
        path,
        dynamo=True,
        verbose=False,
        dynamic_shapes=(dynamic,),
        input_names=list(case.inputs),
        output_names=case.outputs,
        external_data=False,
    )
    return path


def write_spec(home: Path, source: Path, more: str = "export: {runtimes: [openvino]}\n") -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    training = json.dumps({"recipe": "imported_tensor", "source": str(source)})
    (home / "models" / "toy.yaml").write_text(f"# A toy.\nkind: tensor\ntraining: {training}\n{more}")
    return spec.load("toy", home=home)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_an_imported_graph_answers_like_its_module(home: Path, name: str) -> None:
    """Within 1e-4, alone, in a batch, and of other lengths; the archive holds the graph."""
    case = CASES[name]
    made = write_spec(home, write_onnx(home / "toy.onnx", case))
    export = Export.open(train(made))
    assert not (export.folder / PROGRAM).exists()
    assert export.program == export.folder / ONNX_PROGRAM
    assert [one["name"] for one in export.preprocess["inputs"]] == list(case.inputs)
    assert [one["name"] for one in export.postprocess["outputs"]] == case.outputs
    assert {row["runtime"] for row in export.runtimes["candidates"]} == {"onnxruntime", "openvino"}
    predictor = made.predictor()
    predictor.load(export.folder)
    for rows in ([0], [0, 1, 2, 3]):
        inputs = {key: value[rows] for key, value in case.inputs.items()}
        if case.dynamic:
            inputs = {key: value[:, :4] for key, value in inputs.items()}
        with torch.inference_mode():
            truth = case.module(*inputs.values())
        truths = truth if isinstance(truth, tuple) else (truth,)
        instances = [{key: value[row].tolist() for key, value in inputs.items()} for row in range(len(rows))]
        body = json.dumps({"instances": instances}).encode()
        (found,) = predictor.answer_rows([({"body": json.loads(body)}, {})])
        for key, expected in zip(case.outputs, truths, strict=True):
            answered = np.array([one[key] for one in found["predictions"]])
            assert np.abs(answered - expected.numpy()).max() <= 1e-4


@pytest.mark.filterwarnings("ignore")
def test_both_runtimes_serve_and_the_graph_is_the_last_way(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ONNX Runtime OpenVINO answers; without both a worker says what is missing."""
    made = write_spec(home, write_onnx(home / "toy.onnx", CASES["an image"]))
    train(made)
    packed = archive.build(made)
    assert packed.path.is_file()
    export = Export.open(made.export_dir)
    served = [entry["runtime"] for entry in export.runtimes["serve"]]
    assert "openvino" in served
    assert export.metadata["parameters"] == 3 * 8 * 9 + 8 + 8 * 5 + 5
    monkeypatch.setattr("handlers.runtime.runtimes.find_spec", lambda _: None)
    monkeypatch.setattr("handlers.runtime.runtimes.OnnxRuntime.__init__", _not_installed)
    predictor = made.predictor()
    predictor.load(made.export_dir)
    assert isinstance(predictor.model, OpenVinoRuntime)
    with pytest.raises(NotSupported, match="came as an ONNX graph, which has no gradients"):
        predictor.graph  # noqa: B018
    monkeypatch.setattr("handlers.runtime.runtimes.OpenVinoRuntime.__init__", _not_installed)
    with pytest.raises(BrokenArchive, match="needs onnxruntime, which is not installed"):
        made.predictor().load(made.export_dir)


def _not_installed(*_: Any, **__: Any) -> None:
    raise ImportError("no such package")


@pytest.mark.filterwarnings("ignore")
def test_the_command_reads_kind_and_inputs_from_the_file(home: Path) -> None:
    """Names that requests can't have are written with signs that they can."""
    path = write_onnx(home / "named.onnx", CASES["vector"])
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["serving:0" if name == "x" else name for name in node.input]
    model.graph.input[0].name = "serving:0"
    onnx.save(model, path)
    made, is_new = importing.make_spec(
        "named", {"source": str(path)}, None, {"export.runtimes": []}, False, home
    )
    assert (made.kind, made.training.recipe, is_new) == ("tensor", "imported_tensor", True)
    export = Export.open(train(made))
    assert [one["name"] for one in export.preprocess["inputs"]] == ["serving_0"]
    predictor = made.predictor()
    predictor.load(export.folder)
    (found,) = predictor.answer_rows([({"body": {"serving_0": [1, 2, 3]}}, {})])
    assert list(found) == ["y"]


def graph(inputs: list[Any], outputs: list[Any], nodes: list[Any]) -> Any:
    """An ONNX model of one graph."""
    made = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


def value(name: str, dtype: int, shape: list[Any]) -> Any:
    """A tensor of a graph."""
    return onnx.helper.make_tensor_value_info(name, dtype, shape)


@pytest.mark.filterwarnings("ignore")
def test_graphs_that_can_not_be_served_are_refused_by_name(home: Path) -> None:
    """A fixed batch, texts, unknown operators, names that collide, and files that are none."""
    number, text = onnx.TensorProto.FLOAT, onnx.TensorProto.STRING
    add = onnx.helper.make_node("Add", ["a", "a"], ["y"])
    odd = onnx.helper.make_node("Frobnicate", ["a"], ["y"], domain="own.domain")
    same = onnx.helper.make_node("Identity", ["a"], ["y"])
    both = onnx.helper.make_node("Add", ["a:0", "a/0"], ["y"])
    custom = graph([value("a", number, ["n"])], [value("y", number, ["n"])], [odd])
    custom.opset_import.append(onnx.helper.make_opsetid("own.domain", 1))
    bad = {
        "the input 'a' must have a batch of any size": graph(
            [value("a", number, [1, 3])], [value("y", number, [1, 3])], [add]
        ),
        "'a' holds object|'a' holds str|'a' holds unknown": graph(
            [value("a", text, ["n"])], [value("y", text, ["n"])], [same]
        ),
        "ONNX Runtime can't compute it": custom,
        "names that differ in signs alone: a:0, a/0": graph(
            [value("a:0", number, ["n"]), value("a/0", number, ["n"])], [value("y", number, ["n"])], [both]
        ),
    }
    for words, model in bad.items():
        onnx.save(model, home / "bad.onnx")
        with pytest.raises(CallError, match=words):
            train(write_spec(home, home / "bad.onnx"))
    (home / "none.onnx").write_bytes(b"PK" + bytes(50))
    with pytest.raises(CallError, match="no ONNX graph, or a damaged one"):
        train(write_spec(home, home / "none.onnx"))
    with pytest.raises(CallError, match="import it with --kind tensor"):
        build(Source(source="some.onnx"))
