"""Runtimes: the fastest that answers as the model was trained serves, and where it can't the next one does."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from marina import HANDLERS
from marina.spec import Spec
from tests.toy_policies import balance
from training.export import handler_of
from training.policies.q_network import QNetwork
from training.runtimes import choosing
from training.runtimes.agreement import partners
from training.runtimes.openvino_form import converted
from training.trained import Sample, Trained

from bundle_checksums import write_checksums
from bundle_errors import BrokenArchive
from bundle_golden import difference, read_samples
from bundle_images import ImageInput
from bundle_runtimes import OpenVinoRuntime, TorchRuntime, arrays, flat, form_of, in_form, openvino_core

SIDE = 32
HAS_BF16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor doesn't compute in bfloat16")
CLASSIFIER = "kind: classifier\nfloor: {accuracy: 0.5}\n"


class Colours(torch.nn.Module):
    """Says which channel of a picture is the strongest; `sharpness` makes it sure of it, or unsure."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2, 1), torch.nn.ReLU())
        self.sharpness = sharpness

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> logits [B, 3]."""
        values = images.float() / 255
        return self.sharpness * values.mean((2, 3)) + 1e-3 * self.layers(values).mean((1, 2, 3))[:, None]


def coloured(count: int, seed: int = 0) -> torch.Tensor:
    """Pictures of one plain colour each, uint8 [count, 3, SIDE, SIDE]."""
    colours = torch.randint(0, 256, (count, 3, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return colours.expand(-1, -1, SIDE, SIDE).contiguous()


def classifier(module: torch.nn.Module | None = None, held_out: int = 120) -> Trained:
    torch.manual_seed(0)
    pure = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    samples = []
    for index, name in enumerate(("red", "green", "blue")):
        pure[index, :, :, index] = 255
        body = handler_png(pure[index])
        samples.append(Sample(name, body, "image/png", {"class": name}))
    return Trained(
        kind="classifier",
        module=(module or Colours(10)).eval().requires_grad_(False),
        example=(coloured(4),),
        validation=(coloured(held_out, seed=1),) if held_out else (),
        metrics={"accuracy": 1.0},
        preprocess=ImageInput(SIDE, SIDE, fit="stretch").as_config(),
        postprocess={"type": "classification", "top_k": 3},
        samples=samples,
        data={"name": "none"},
        classes=["red", "green", "blue"],
    )


def handler_png(pixels: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def exported_classifier(home: Path, trained: Trained | None = None, more: str = "") -> Spec:
    (home / "models").mkdir(exist_ok=True)
    text = f"# Names the strongest colour.\ntraining: {{recipe: classifier}}\n{CLASSIFIER}{more}"
    (home / "models" / "colours.yaml").write_text(text, encoding="utf-8")
    from marina import spec
    from training.export import export

    one = spec.load("colours")
    folder = one.export_dir.parent / ".making"
    (folder / "report").mkdir(parents=True)
    export(one, trained or classifier(), folder)
    return one


def table(one: Spec) -> dict[tuple[str, str], dict[str, Any]]:
    """runtime.json's candidates by runtime and precision."""
    rows = json.loads((one.export_dir / "runtime.json").read_text())["candidates"]
    return {(row["runtime"], row["precision"]): row for row in rows}


def started(one: Spec) -> Any:
    handler = handler_of(one.kind)
    handler.load(one.export_dir, one.serving.model_config_yaml())
    return handler


def answers(handler: Any, one: Spec) -> list[Any]:
    return handler.answer_rows([({"body": sample["body"]}, {}) for sample in read_samples(one.export_dir)])


def test_every_candidate_is_measured_and_one_that_equals_the_model_serves(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")
    handler = started(one)

    rows = table(one)
    assert set(rows) == {("torch", "fp32"), ("openvino", "fp32")}
    assert all(row["milliseconds"] > 0 and row["milliseconds_batch"] > 0 for row in rows.values())
    assert rows["openvino", "fp32"]["difference"] < 1e-4
    assert handler.computing.items() >= {"runtime": "openvino", "precision": "fp32", "threads": 1}.items()
    assert handler.describe_handle()["computing"]["runtime"] == "openvino"


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


@needs_bf16
def test_reduced_precision_serves_where_it_gives_the_same_answers(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [bf16]}\n")
    handler = started(one)

    assert table(one)["openvino", "bf16"]["agreement"] >= 0.99
    assert handler.computing["precision"] == "bf16"
    for sample, answer in zip(read_samples(one.export_dir), answers(handler, one), strict=True):
        assert sample["reduced"]
        assert difference(sample["answer"], answer, reduced=True) == ""


@needs_bf16
def test_reduced_precision_that_changes_answers_is_refused(home: Path) -> None:
    class Fine(torch.nn.Module):
        """Tells pictures apart by less than a bfloat16 holds."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 1, bias=False)
            self.layer.weight.data = torch.eye(3)[:, :, None, None] + 1000

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 10 * self.layer(images.float() / 255).mean((2, 3))

    one = exported_classifier(home, classifier(Fine()), "export: {precisions: [bf16], parity: 0.001}\n")

    assert "the same answer to 0." in table(one)["openvino", "bf16"]["refused"]
    assert started(one).computing["runtime"] == "torch"
    assert not (one.export_dir / "openvino.xml").exists()
    assert not any("reduced" in sample for sample in read_samples(one.export_dir))


@needs_bf16
def test_without_held_out_instances_nothing_is_reduced(home: Path) -> None:
    one = exported_classifier(home, classifier(held_out=99))

    assert table(one)["openvino", "bf16"]["refused"] == "99 held-out instances are too few to tell what is lost; 100 are needed"
    assert started(one).computing["precision"] == "fp32"


def test_a_graph_that_cannot_be_converted_serves_by_its_portable_program(home: Path) -> None:
    class Sorted(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            means = images.float().mean((2, 3))
            return means + torch.linalg.eigvals(torch.diag_embed(means)).real * 0

    one = exported_classifier(home, classifier(Sorted()))

    assert table(one)["openvino", "fp32"]["refused"]
    assert started(one).computing["runtime"] == "torch"


def test_policies_keep_their_precision_and_their_outputs_names(exported: Callable[..., Spec]) -> None:
    one = exported(more="serving: {batch_size: 4}\n")
    rows = table(one)

    assert rows["openvino", "bf16"]["refused"] == "a policy acts step for step as it was evaluated"
    compiled = home_compiled(one)
    observations = torch.randn(9, 4)
    expected = arrays(balance().module(observations))
    found = compiled(observations.numpy())
    assert list(found) == ["action", "q_values"]
    assert np.array_equal(found["action"], expected["action"])
    np.testing.assert_allclose(found["q_values"], expected["q_values"], rtol=1e-5, atol=1e-6)


def home_compiled(one: Spec) -> OpenVinoRuntime:
    """The toy policy in OpenVINO's form, whether or not it was chosen to serve."""
    path = one.export_dir / "tried.xml"
    converted(torch.export.load(one.export_dir / "model.pt2"), path)
    return OpenVinoRuntime(path, "fp32", form_of(balance().module(torch.randn(2, 4))))


def test_a_compiled_form_that_cannot_be_read_here_gives_way_to_the_portable_program(home: Path) -> None:
    one = exported_classifier(home)
    (one.export_dir / "openvino.xml").write_text("<broken/>")

    handler = started(one)

    assert handler.computing["runtime"] == "torch"
    assert [answer["predictions"][0]["class"] for answer in answers(handler, one)] == ["red", "green", "blue"]


def test_a_compiled_form_that_answers_wrongly_here_gives_way_to_the_portable_program(home: Path) -> None:
    one = exported_classifier(home)
    other = torch.export.export(
        Reversed().eval(), (coloured(4),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},), strict=False
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
    body = read_samples(one.export_dir)[0]["body"]

    (answer,) = handler.answer_rows([({"body": body}, {"explain": "true"})])

    assert answer["class"] == "red"
    assert handler.computing["runtime"] == "openvino"


def test_outputs_keep_their_form() -> None:
    one, two = torch.zeros(1), torch.ones(2)
    for outputs in (one, (one, two), {"action": one, "value": two}):
        again = in_form(flat(outputs), form_of(outputs))
        assert type(again) is type(outputs)
        assert str(again) == str(outputs)


def test_answers_of_reduced_precision_may_change_places_behind_the_first() -> None:
    def ranked(*pairs: tuple[str, float]) -> dict[str, Any]:
        return {"predictions": [{"class": name, "probability": value, "class_index": ord(name)} for name, value in pairs]}

    golden = ranked(("a", 0.7), ("b", 0.12), ("c", 0.11))

    assert difference(golden, ranked(("a", 0.69), ("c", 0.12), ("b", 0.115)), reduced=True) == ""
    assert difference(golden, ranked(("a", 0.69), ("b", 0.13), ("d", 0.11)), reduced=True) == ""  # c and d are as probable
    assert difference(golden, ranked(("a", 0.69), ("c", 0.12), ("b", 0.115))) != ""
    assert "'b' instead of 'a'" in difference(golden, ranked(("b", 0.7), ("a", 0.12), ("c", 0.1)), reduced=True)
    assert "'b' has 0.02" in difference(golden, ranked(("a", 0.72), ("c", 0.1), ("b", 0.02)), reduced=True)
    renamed = ranked(("a", 0.7), ("b", 0.12), ("c", 0.11))
    renamed["predictions"][2]["class_index"] = 7
    assert "named otherwise" in difference(golden, renamed, reduced=True)
    box, near, far = ({"detections": [{"bbox": [left, 10.0, 20.0, 20.0]}]} for left in (10.0, 11.5, 12.5))
    assert difference(box, near, reduced=True) == ""
    assert difference(box, far, reduced=True) != ""


def found(*boxes: tuple[float, ...], kind: str = "cup", score: float = 0.9) -> list[dict[str, Any]]:
    return [{"bbox": list(box), "class": kind, "score": score} for box in boxes]


def test_detections_agree_by_their_partners() -> None:
    near, far = (0, 0, 10, 10), (50, 50, 60, 60)
    assert partners(found(near, far), found(far, near), 0.5) == 1
    assert partners(found(near, far), found(near), 0.5) == 2 / 3
    assert partners(found(near), found(near, kind="mug"), 0.5) == 0
    assert partners(found(near), found((0, 0, 10, 7)), 0.5) == 0
    assert partners(found(near), [], 0.5) == 0
    assert partners([], [], 0.5) == 1


def test_what_a_detector_only_guesses_needs_no_partner() -> None:
    near, far = (0, 0, 10, 10), (50, 50, 60, 60)
    sure, guess = found(near), found(far, score=0.3)

    assert partners([*sure, *guess], sure, 0.5) == 1
    assert partners(guess, [], 0.5) == 1
    assert partners(found(near, score=0.51), found(near, score=0.49), 0.5) == 1
    assert partners(found(near, score=0.56), found(near, score=0.44), 0.5) == 0


STARTED = """
import sys
sys.path.insert(0, {handlers!r})
import importlib
from bundle_imports import without
with without(later=("torch",)):  # as worker.py does
    import ts.protocol.otf_message_handler
kind = {kind!r}
handler = getattr(importlib.import_module(kind + "_handler"), kind.capitalize() + "Handler")()
handler.load(__import__("pathlib").Path({folder!r}), {{}})
print(handler.computing["runtime"], *(name for name in {names} if name in sys.modules))
"""


def test_a_worker_with_a_compiled_form_reads_neither_torch_nor_what_only_training_needs(home: Path) -> None:
    one = exported_classifier(home)
    names = ("torch", "torchvision", "scipy", "matplotlib", "onnxruntime", "openvino.tools.ovc", "openvino_telemetry")
    script = STARTED.format(handlers=str(HANDLERS), kind="classifier", folder=str(one.export_dir), names=names)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["openvino"]


def test_a_serving_batch_above_the_graphs_largest_is_measured_in_slices(home: Path) -> None:
    one = exported_classifier(home, more="export: {max_batch: 4}\nserving: {batch_size: 16}\n")

    assert json.loads((one.export_dir / "runtime.json").read_text())["batch"] == 4
    assert len(answers(started(one), one)) == 3


def test_perceptrons_that_take_many_numbers_run_one_by_one(tmp_path: Path) -> None:
    """On one thread and with known shapes, fusing their layers ended the process."""
    module = QNetwork({"dtype": "int64", "high": 499, "shape": []}, 6, (8, 8)).served()
    inputs = (torch.tensor([0, 250, 499]), torch.ones(3, 6, dtype=torch.bool))
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    converted(torch.export.export(module, inputs, dynamic_shapes=(batch, batch), strict=False), tmp_path / "openvino.xml")

    form = {"form": "dict", "names": ["action", "q_values"]}
    runtime = OpenVinoRuntime(tmp_path / "openvino.xml", "fp32", form, one_by_one=True)

    found = runtime(*(one.numpy() for one in inputs))
    np.testing.assert_allclose(found["q_values"], module(*inputs)["q_values"].detach().numpy(), atol=1e-5)


def test_one_by_one_gives_what_the_batch_gives(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")
    form = {"form": "tensor"}
    together, apart = (OpenVinoRuntime(one.export_dir / "openvino.xml", "fp32", form, one_by_one=way) for way in (False, True))

    for size in (1, 2, 7):
        batch = coloured(size, seed=size).numpy()
        np.testing.assert_allclose(apart(batch), together(batch), rtol=1e-5, atol=1e-5)
    assert apart.source.inputs[0].shape[0] == 1


def test_the_faster_way_serves_and_its_times_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = choosing._measure

    def favouring(row: Any, runtime: Any, material: Any) -> None:
        measure(row, runtime, material)
        row.milliseconds = 0.001 if getattr(runtime, "one_by_one", False) else 1.0

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
from bundle_runtimes import OpenVinoRuntime
handled = []
signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
runtimes = [OpenVinoRuntime(Path({str(one.export_dir / "openvino.xml")!r}), "fp32", {{"form": "tensor"}}) for _ in range(3)]
while runtimes:
    del runtimes[0]
    gc.collect()
    os.kill(os.getpid(), signal.SIGTERM)
assert len(handled) == 3
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=HANDLERS, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_graph_that_bears_no_fixed_shapes_serves_without(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = choosing._measure

    def failing(row: Any, runtime: Any, material: Any) -> None:
        if getattr(runtime, "one_by_one", False):
            raise RuntimeError("a shape that can't be fixed")
        measure(row, runtime, material)

    monkeypatch.setattr(choosing, "_measure", failing)
    one = exported_classifier(home, more="export: {precisions: [fp32]}\n")

    (entry,) = json.loads((one.export_dir / "runtime.json").read_text())["serve"]
    assert (entry["runtime"], "options" in entry) == ("openvino", False)
    assert table(one)["openvino", "fp32"]["refused"] == ""


@needs_bf16
@pytest.mark.parametrize(("metric", "refused"), [(0.5, ""), (0.48, "the metric falls by 0.0200")])
def test_fewer_bits_may_cost_the_metric_as_little_as_answers(home: Path, metric: float, refused: str) -> None:
    given = iter([0.5, metric])
    trained = replace(classifier(), quality=lambda answers: next(given) if len(answers) == 120 else 0.0)

    row = table(exported_classifier(home, trained))["openvino", "bf16"]

    assert row["lost"] == pytest.approx(0.5 - metric)
    assert row["refused"].startswith(refused)
    assert bool(row["refused"]) == bool(refused)
