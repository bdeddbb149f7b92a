"""Modules of named tensors: learned from arrays, or imported, exported, and served as they were measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import BelowFloor, CallError
from marina.kinds.kind import MeasurementOptions
from marina.kinds.tensor import KIND
from tests.support.answered import answers_of
from tests.support.tensor_modules import Plant
from training.recipes import imported_tensor, tensor
from training.runs.run import Run
from training.runs.threads import torch_threads
from training.train import train


def write(home: Path, name: str, training: dict[str, Any], more: str = "") -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    text = (
        f"# A toy.\nkind: tensor\ntraining: {json.dumps(training)}\nexport: {{runtimes: [openvino]}}\n{more}"
    )
    (home / "models" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return spec.load(name, home=home)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 rows: two heads can be told from a vector and a scalar."""
    path = tmp_path_factory.mktemp("arrays") / "plant.npz"
    rng = np.random.default_rng(0)
    position, temperature = rng.normal(size=(600, 3)).astype("f4") * 5 + 2, rng.normal(size=600).astype("f4")
    np.savez(
        path,
        position=position,
        temperature=temperature,
        force=np.stack([position.sum(1) + temperature, position[:, 0]], 1),
        mode=(position[:, 1] > 2).astype(np.int64),
    )
    return path


TRAINING: dict[str, Any] = {
    "recipe": "tensor",
    "inputs": {"position": {"shape": [3]}, "temperature": {"minimum": -10}},
    "outputs": {"force": {"unit": "N"}, "mode": {"loss": "cross_entropy"}},
    "hidden": [32],
    "epochs": 30,
    "learning_rate": 0.02,
}


def test_heads_learn_are_exported_and_measured_again(tmp_path: Path, arrays: Path) -> None:
    """The values of a head, the probabilities of classes; `marina evaluate` measures the same rows."""
    made = write(tmp_path, "toy", {**TRAINING, "data": str(arrays)}, "floor: {force_r2: 0.95}\n")
    export = Export.open(train(made))
    metrics = export.metadata["metrics"]
    assert metrics["mode_accuracy"] > 0.9
    assert (export.metadata["data"]["train"], export.metadata["data"]["test"]) == (420, 90)
    predictor = made.predictor()
    assert predictor.load(made.export_dir) == len(export.samples) > 0
    measurement = KIND.measurement(made, MeasurementOptions())
    answer = answers_of(predictor)
    measured = measurement.run(answer, iter, is_endpoint=False)
    for name, value in metrics.items():
        assert measured.metrics[name] == pytest.approx(value, abs=1e-4)
    assert measurement.compare(measured, measured)["rows"] == 90
    (found,) = answer([(b'{"position": [1, 2, 3], "temperature": 0}', "")], {})
    assert sum(found["mode"]) == pytest.approx(1)


def test_the_next_training_has_as_many_threads(tmp_path: Path, arrays: Path) -> None:
    """An export tries its runtimes with one, of the whole process: it would be left to the next model."""
    made = write(tmp_path, "toy", {**TRAINING, "data": str(arrays)}, "floor: {force_r2: 0.95}\n")
    with torch_threads(2):
        train(made)
        assert torch.get_num_threads() == 2


def test_a_missed_floor_exports_nothing(tmp_path: Path, arrays: Path) -> None:
    """As for every recipe."""
    made = write(tmp_path, "toy", {**TRAINING, "data": str(arrays), "epochs": 1}, "floor: {force_r2: 0.99}\n")
    with pytest.raises(BelowFloor, match="force_r2"):
        train(made)
    assert not made.is_exported


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"outputs": {"speed": {}}},
            "has no array 'speed' for the truth of the output speed; it has",
        ),
        ({"inputs": {"position": {"shape": [4]}}}, r"position must be numbers of shape \[600, 4\]"),
        (
            {"inputs": {"position": {"shape": [3], "minimum": 0}}},
            r"position\[.*\] is -.*; it must be 0",
        ),
        ({"inputs": {"position": {"shape": [3], "dtype": "int64"}}}, "position must hold whole numbers"),
        ({"inputs": {"id": {}}}, "inputs: 'id' has a meaning in requests already"),
        (
            {"inputs": {"position": {"shape": ["axes"]}}},
            "dimensions: axes stands in a shape and has no",
        ),
        ({"data": "nothing.npz"}, "no such file; give one of named arrays, .npz, .safetensors or .csv"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    tmp_path: Path, arrays: Path, change: dict[str, Any], words: str
) -> None:
    """By the name of the array, before anything is learned."""
    content = {**TRAINING, "data": str(arrays), **change}
    settings = tensor.Settings(**{name: value for name, value in content.items() if name != "recipe"})
    with pytest.raises(CallError, match=words):
        tensor.train(settings, Run(tmp_path))


def test_columns_of_a_table_are_arrays(tmp_path: Path) -> None:
    """With a message that names line and column where a cell is no number."""
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n1,2\n3,\n", encoding="utf-8")
    with pytest.raises(CallError, match=r"rows.csv, line 3: y is '', not a number"):
        tensor.train(tensor.Settings(data=str(path), inputs={"x": {}}, outputs={"y": {}}), Run(tmp_path))


class Summed(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b.float(), (a * b.float()).sum(1)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": self.table(tokens).mean(1), "count": (tokens > 0).sum(1)}


class Keyword(nn.Module):
    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        return x * scale[:, None]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


LONG = {"minimum": 2, "maximum": 24}
# name -> the module, and how its inputs are declared
MODULES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], dict[str, Any]]] = {
    "plant": (
        Plant,
        {"position": {"shape": [3]}, "history": {"shape": ["time", 4]}, "forward": {"dtype": "bool"}},
        {"time": LONG},
    ),
    "vector": (lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), {"x": {"shape": [4]}}, {}),
    "two": (Summed, {"a": {"shape": [3]}, "b": {"shape": [3], "dtype": "int64", "maximum": 9}}, {}),
    "words": (Words, {"tokens": {"shape": ["length"], "dtype": "int64", "maximum": 9}}, {"length": LONG}),
    "attention": (Attention, {"x": {"shape": ["length", 8]}}, {"length": LONG}),
    "signal": (lambda: nn.Conv1d(1, 3, 5, stride=2), {"x": {"shape": [1, 64]}}, {}),
    "grid": (
        lambda: nn.Conv2d(2, 3, 3, padding=1),
        {"x": {"shape": [2, "rows", "columns"]}},
        {"rows": {"minimum": 4, "maximum": 16}, "columns": {"minimum": 4, "maximum": 20}},
    ),
    "double": (lambda: nn.Linear(2, 2).double(), {"x": {"shape": [2], "dtype": "float64"}}, {}),
    "flag": (nn.Identity, {"on": {"dtype": "bool"}}, {}),
    "bytes": (nn.Flatten, {"x": {"shape": [2, 2], "dtype": "uint8"}}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_modules_of_many_signatures_are_served_as_they_compute(name: str, tmp_path: Path) -> None:
    """From a function with weights; the worker's answers equal the module's to 1e-4."""
    torch.manual_seed(0)
    make, inputs, dimensions = MODULES[name]
    module = make().eval()
    (tmp_path / "factory.py").write_text(
        f"from {__name__} import MODULES\n\n\ndef make():\n    return MODULES[{name!r}][0]()\n",
        encoding="utf-8",
    )
    training = {
        "recipe": "imported_tensor",
        "source": f"{tmp_path}/factory.py:make",
        "inputs": inputs,
        "dimensions": dimensions,
    }
    if module.state_dict():
        save_file(module.state_dict(), tmp_path / "weights.safetensors")
        training["weights"] = str(tmp_path / "weights.safetensors")
    made = write(tmp_path, "toy", training)
    export = Export.open(train(made))
    serving = export.runtimes["candidates"]
    assert {row["runtime"] for row in serving if not row["refused"]} == {"torch", "openvino"}, serving
    predictor = made.predictor()
    predictor.load(made.export_dir)
    for sample in export.samples:
        (found,) = predictor.answer_rows([({"body": sample["body"]}, {})])
        sent = json.loads(sample["body"])
        example = [torch.tensor(sent[key])[None] for key in sent]
        typed = [
            one.to(getattr(torch, inputs[key].get("dtype", "float32")))
            for one, key in zip(example, sent, strict=True)
        ]
        with torch.inference_mode():
            expected = module(*typed)
        values = (
            expected.values()
            if isinstance(expected, dict)
            else expected
            if isinstance(expected, tuple)
            else [expected]
        )
        for value, mine in zip(values, found.values(), strict=True):
            np.testing.assert_allclose(np.array(mine), value[0].numpy(), atol=1e-4)


def test_a_program_brings_its_own_inputs(tmp_path: Path) -> None:
    """Names, dtypes, bounds; keyword arguments too. A fixed batch is refused with what to write."""
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=24)
    program = torch.export.export(
        Keyword(),
        (torch.ones(3, 5),),
        {"scale": torch.ones(3)},
        dynamic_shapes={"x": {0: batch, 1: length}, "scale": {0: batch}},
    )
    torch.export.save(program, tmp_path / "module.pt2")
    trained = imported_tensor.train(
        imported_tensor.Settings(source=str(tmp_path / "module.pt2")), Run(tmp_path)
    )
    assert [one["name"] for one in trained.preprocess["inputs"]] == ["x", "scale"]
    (size,) = trained.preprocess["dimensions"].values()
    assert size == {"minimum": 2, "maximum": 24}
    fixed = torch.export.export(nn.Linear(2, 2), (torch.ones(3, 2),))
    torch.export.save(fixed, tmp_path / "fixed.pt2")
    with pytest.raises(CallError, match="first dimension is a batch of any size; export it with"):
        imported_tensor.train(imported_tensor.Settings(source=str(tmp_path / "fixed.pt2")), Run(tmp_path))


def test_an_import_that_lacks_its_inputs_or_fails_on_them_says_so(tmp_path: Path) -> None:
    """With an example of what to declare, or with the module's own error."""
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Linear(3, 1)\n")
    source = f"{tmp_path / 'net.py'}:make"
    with pytest.raises(CallError, match="declare its inputs in the order in which it takes them, like"):
        imported_tensor.train(imported_tensor.Settings(source=source), Run(tmp_path))
    settings = imported_tensor.Settings(source=source, inputs={"x": {"shape": [4]}})
    with pytest.raises(CallError, match=r"the module fails on float32 \[4, 4\] with RuntimeError"):
        imported_tensor.train(settings, Run(tmp_path))


def test_imported_arrays_with_their_truth_measure(tmp_path: Path) -> None:
    """Mean absolute error and R2 by output, and the rows as golden samples."""
    x = np.random.default_rng(0).normal(size=(30, 3)).astype("f4")
    np.savez(tmp_path / "rows.npz", x=x, total=x.sum(1))
    (tmp_path / "net.py").write_text(
        "import torch\n\n\nclass Total(torch.nn.Module):\n    def forward(self, x): return x.sum(1)\n"
    )
    settings = imported_tensor.Settings(
        source=f"{tmp_path / 'net.py'}:Total",
        inputs={"x": {"shape": [3]}},
        outputs={"total": {"unit": "kg"}},
        data=str(tmp_path / "rows.npz"),
    )
    trained = imported_tensor.train(settings, Run(tmp_path))
    assert trained.metrics["r2"] == pytest.approx(1, abs=1e-5)
    assert trained.postprocess["outputs"] == [
        {"name": "total", "dtype": "float32", "shape": [], "unit": "kg"}
    ]
    assert trained.samples[0].name == "row-0"
