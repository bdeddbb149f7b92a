"""Runtimes: the fastest one that is faithful to the model serves; if it fails, the next one does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from handlers.protocol.errors import BrokenArchive
from handlers.runtime.checksums import write_checksums
from handlers.runtime.export import Export
from handlers.runtime.runtimes import OpenVinoRuntime, TorchRuntime
from tests.support.color_classifier import (
    STARTED,
    Colours,
    answers,
    classifier,
    coloured,
    exported_classifier,
    started,
    table,
)
from tests.support.repository import ROOT
from training.export.runtimes import choosing
from training.export.runtimes.openvino_form import converted
from training.policies.networks.q_network import QNetwork
from training.policies.spaces import ObservationSpec


def test_every_candidate_is_measured_and_one_that_equals_the_model_serves(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")
    handler = started(one)

    rows = table(one)
    assert set(rows) == {("torch", "fp32"), ("openvino", "fp32")}
    assert all(row["milliseconds"] > 0 and row["milliseconds_batch"] > 0 for row in rows.values())
    assert rows["openvino", "fp32"]["difference"] < 1e-4
    assert handler.computing.items() >= {"runtime": "openvino", "precision": "fp32", "threads": 1}.items()
    assert handler.describe()["computing"]["runtime"] == "openvino"


def test_the_compiled_form_answers_any_batch_as_the_portable_program_does(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")
    folder = one.export_dir
    portable = TorchRuntime.load(folder / "model.pt2")
    compiled = OpenVinoRuntime(folder / "openvino.xml", "fp32", {"form": "tensor"})

    for size in (1, 2, 7, 64):
        batch = coloured(size, seed=size).numpy()
        np.testing.assert_allclose(compiled(batch), portable(batch), rtol=1e-4, atol=1e-4)
    first, second = compiled(coloured(2, 1).numpy()), compiled(coloured(2, 2).numpy())
    assert not np.array_equal(first, second)  # an answer stays what it was when the next one is computed


def test_a_graph_that_cannot_be_converted_serves_by_its_portable_program(home: Path) -> None:
    class Sorted(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            means = images.float().mean((2, 3))
            return means + torch.linalg.eigvals(torch.diag_embed(means)).real * 0

    one = exported_classifier(home, classifier(Sorted()))

    assert table(one)["openvino", "fp32"]["refused"]
    assert started(one).computing["runtime"] == "torch"


def test_unreadable_compiled_form_falls_back_to_the_program(home: Path) -> None:
    """A compiled form that cannot be read here is replaced by the portable program."""
    one = exported_classifier(home)
    (one.export_dir / "openvino.xml").write_text("<broken/>")

    handler = started(one)

    assert handler.computing["runtime"] == "torch"
    assert [answer["predictions"][0]["class"] for answer in answers(handler, one)] == ["red", "green", "blue"]


def test_wrong_compiled_form_falls_back_to_the_program(home: Path) -> None:
    """A compiled form that answers wrongly here is replaced by the portable program."""
    one = exported_classifier(home)
    other = torch.export.export(
        Reversed().eval(),
        (coloured(4),),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        strict=False,
    )
    converted(other, one.export_dir / "openvino.xml")

    assert started(one).computing["runtime"] == "torch"


def test_where_no_runtime_answers_rightly_the_worker_does_not_come_up(home: Path) -> None:
    one = exported_classifier(home)
    index = one.export_dir / "samples" / "samples.json"
    index.write_text(index.read_text().replace('"class": "red"', '"class": "blue"'))
    write_checksums(one.export_dir)

    with pytest.raises(BrokenArchive, match="golden sample"):
        started(one)


class Reversed(Colours):
    """The weakest channel, instead of the strongest."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> logits [B, 3]."""
        return -super().forward(images)


def test_explanations_come_from_the_portable_program(home: Path) -> None:
    one = exported_classifier(home)
    handler = started(one)
    body = Export.open(one.export_dir).samples[0]["body"]

    (answer,) = handler.answer_rows([({"body": body}, {"explain": "true"})])

    assert answer["class"] == "red"
    assert handler.computing["runtime"] == "openvino"


def test_worker_with_a_compiled_form_imports_no_torch(home: Path) -> None:
    """A worker with a compiled form imports neither torch nor what only training needs."""
    one = exported_classifier(home)
    names = (
        "torch",
        "torchvision",
        "scipy",
        "matplotlib",
        "onnxruntime",
        "openvino.tools.ovc",
        "openvino_telemetry",
    )
    script = STARTED.format(kind="classifier", folder=str(one.export_dir), names=names)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["openvino"]


def test_a_serving_batch_above_the_graphs_largest_is_measured_in_slices(home: Path) -> None:
    one = exported_classifier(home, more="export: {max_batch: 4}\nserving: {batch_size: 16}\n")

    assert json.loads((one.export_dir / "runtime.json").read_text())["batch"] == 4
    assert len(answers(started(one), one)) == 3


def test_perceptrons_that_take_many_numbers_run_one_by_one(tmp_path: Path) -> None:
    """On one thread and with known shapes, fusing their layers ended the process."""
    module = QNetwork(ObservationSpec.from_space(gymnasium.spaces.Discrete(500)), 6, (8, 8)).build_graph()
    inputs = (torch.tensor([0, 250, 499]), torch.ones(3, 6, dtype=torch.bool))
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    converted(
        torch.export.export(module, inputs, dynamic_shapes=(batch, batch), strict=False),
        tmp_path / "openvino.xml",
    )

    form = {"form": "dict", "names": ["action", "q_values"]}
    runtime = OpenVinoRuntime(tmp_path / "openvino.xml", "fp32", form, one_by_one=True)

    found = runtime(*(one.numpy() for one in inputs))
    np.testing.assert_allclose(found["q_values"], module(*inputs)["q_values"].detach().numpy(), atol=1e-5)


def test_one_by_one_gives_what_the_batch_gives(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")
    form = {"form": "tensor"}
    together, apart = (
        OpenVinoRuntime(one.export_dir / "openvino.xml", "fp32", form, one_by_one=way)
        for way in (False, True)
    )

    for size in (1, 2, 7):
        batch = coloured(size, seed=size).numpy()
        np.testing.assert_allclose(apart(batch), together(batch), rtol=1e-5, atol=1e-5)
    assert apart.source.inputs[0].shape[0] == 1


def test_the_faster_way_serves_and_its_times_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = choosing._measure

    def favouring(row: Any, runtime: Any, material: Any) -> None:
        measure(row, runtime, material)
        row.milliseconds = 0.001 if "options" in getattr(runtime, "entry", {}) else 1.0

    monkeypatch.setattr(choosing, "_measure", favouring)
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")

    (entry,) = json.loads((one.export_dir / "runtime.json").read_text())["serve"]
    assert entry["options"] == {"one_by_one": True}
    assert table(one)["openvino", "fp32"]["milliseconds"] == 0.001
    assert started(one).model.one_by_one


def test_a_signal_is_handled_after_runtimes_have_come_and_gone(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")
    program = f"""
import gc, os, signal
from pathlib import Path
from handlers.runtime.runtimes import OpenVinoRuntime
handled = []
signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
graph = Path({str(one.export_dir / "openvino.xml")!r})
runtimes = [OpenVinoRuntime(graph, "fp32", {{"form": "tensor"}}) for _ in range(3)]
while runtimes:
    del runtimes[0]
    gc.collect()
    os.kill(os.getpid(), signal.SIGTERM)
assert len(handled) == 3
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_graph_that_bears_no_fixed_shapes_serves_without(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = choosing._measure

    def failing(row: Any, runtime: Any, material: Any) -> None:
        if "options" in getattr(runtime, "entry", {}):
            raise RuntimeError("a shape that can't be fixed")
        measure(row, runtime, material)

    monkeypatch.setattr(choosing, "_measure", failing)
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")

    (entry,) = json.loads((one.export_dir / "runtime.json").read_text())["serve"]
    assert (entry["runtime"], "options" in entry) == ("openvino", False)
    assert table(one)["openvino", "fp32"]["refused"] == ""
