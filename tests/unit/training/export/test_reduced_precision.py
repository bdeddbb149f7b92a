"""Reduced precision is used only if it gives the same answers and costs almost nothing of the metric."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.kinds.detections import partners
from handlers.runtime.export import Export
from handlers.runtime.golden import difference
from handlers.runtime.runtimes import OpenVinoRuntime, arrays, flat, form_of, in_form, openvino_core
from marina.core.spec import Spec
from tests.support.color_classifier import answers, classifier, exported_classifier, started, table
from tests.support.toy_policies import balance
from training.export.runtimes.openvino_form import converted

HAS_BF16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor doesn't compute in bfloat16")


@needs_bf16
def test_reduced_precision_serves_where_it_gives_the_same_answers(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [bf16]}\n")
    handler = started(one)

    assert table(one)["openvino", "bf16"]["agreement"] >= 0.99
    assert handler.computing["precision"] == "bf16"
    for sample, answer in zip(Export.open(one.export_dir).samples, answers(handler, one), strict=True):
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
    assert not any("reduced" in sample for sample in Export.open(one.export_dir).samples)


@needs_bf16
def test_without_held_out_instances_nothing_is_reduced(home: Path) -> None:
    one = exported_classifier(home, classifier(held_out=99))

    assert (
        table(one)["openvino", "bf16"]["refused"]
        == "99 held-out instances are too few to tell what is lost; 100 are needed"
    )
    assert started(one).computing["precision"] == "fp32"


def test_policies_keep_their_precision_and_their_outputs_names(exported: Callable[..., Spec]) -> None:
    one = exported(more="serving: {batch_size: 4}\n")
    rows = table(one)

    assert rows["openvino", "bf16"]["refused"] == "a policy serves exactly as it was evaluated, in float32"
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


def test_outputs_keep_their_form() -> None:
    one, two = torch.zeros(1), torch.ones(2)
    for outputs in (one, (one, two), {"action": one, "value": two}):
        again = in_form(flat(outputs), form_of(outputs))
        assert type(again) is type(outputs)
        assert str(again) == str(outputs)


def test_answers_of_reduced_precision_may_change_places_behind_the_first() -> None:
    def ranked(*pairs: tuple[str, float]) -> dict[str, Any]:
        return {
            "predictions": [
                {"class": name, "probability": value, "class_index": ord(name)} for name, value in pairs
            ]
        }

    golden = ranked(("a", 0.7), ("b", 0.12), ("c", 0.11))

    assert difference(golden, ranked(("a", 0.69), ("c", 0.12), ("b", 0.115)), reduced=True) == ""
    # c and d are as probable
    assert difference(golden, ranked(("a", 0.69), ("b", 0.13), ("d", 0.11)), reduced=True) == ""
    assert difference(golden, ranked(("a", 0.69), ("c", 0.12), ("b", 0.115))) != ""
    assert "'b' instead of 'a'" in difference(
        golden, ranked(("b", 0.7), ("a", 0.12), ("c", 0.1)), reduced=True
    )
    assert "'c' instead of 'b'" in difference(
        golden, ranked(("a", 0.72), ("c", 0.1), ("b", 0.02)), reduced=True
    )
    renamed = ranked(("a", 0.7), ("b", 0.12), ("c", 0.11))
    renamed["predictions"][2]["class_index"] = 7
    assert "class_index: 7 instead of 99" in difference(golden, renamed, reduced=True)
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


@needs_bf16
@pytest.mark.parametrize(("metric", "refused"), [(0.5, ""), (0.48, "the metric falls by 0.0200")])
def test_fewer_bits_may_cost_the_metric_as_little_as_answers(home: Path, metric: float, refused: str) -> None:
    given = iter([0.5, metric])
    trained = replace(classifier(), quality=lambda answers: next(given) if len(answers) == 120 else 0.0)

    row = table(exported_classifier(home, trained))["openvino", "bf16"]

    assert row["lost"] == pytest.approx(0.5 - metric)
    assert row["refused"].startswith(refused)
    assert bool(row["refused"]) == bool(refused)
