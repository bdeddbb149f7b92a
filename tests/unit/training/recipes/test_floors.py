"""A floor's metrics are known before anything is trained."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch

from marina.core import spec
from marina.core.errors import CallError
from marina.core.paths import SOURCE
from training import recipes
from training.policies.loops.learning import RETURN_METRICS, returns_summary
from training.tensors.evaluation import OUTPUT_METRICS, by_output, metrics_of
from training.text.assessment import TEXT_METRICS, metrics_of_one
from training.vision.classification import calibration
from training.vision.classification.label_scores import metrics_of_several
from training.vision.segmentation.evaluation import OVERLAP_METRICS, overlap

SPECS = sorted([*(SOURCE / "models").glob("*.yaml"), *(SOURCE / "docs" / "recipes").glob("*.yaml")])
TEXT = "# Reads.\nkind: classifier\ntraining: {recipe: classifier}\nfloor: {accuracy: 0.9, METRIC: 0.5}\n"
LABELS = torch.tensor([0, 1, 1, 0])
PROBABILITIES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
SEVERAL = np.array([[1, 0], [1, 1], [0, 1], [1, 0]])
RISING = np.arange(4.0)


def read(metric: str) -> spec.Spec:
    return spec.parse(TEXT.replace("METRIC", metric), "reads", "models/reads.yaml")


def test_a_floor_of_another_metric_is_refused_with_the_known_ones() -> None:
    one = read("acurracy")

    with pytest.raises(CallError, match=r"floor: no metric 'acurracy'; the recipe classifier .*recall_\*"):
        recipes.recipe_of(one).settings(one)


def test_the_recall_of_any_class_may_have_a_floor() -> None:
    one = read("recall_pneumonia")

    assert recipes.recipe_of(one).settings(one)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_says_what_it_measures(name: str) -> None:
    assert recipes.load(name).metrics


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.stem))
def test_the_floor_of_every_spec_is_measured_by_its_recipe(path: Path) -> None:
    one = spec.parse(path.read_text(encoding="utf-8"), path.stem, str(path))

    assert recipes.recipe_of(one).settings(one)


@pytest.mark.parametrize(
    ("known", "measured"),
    [
        (
            calibration.CLASS_METRICS,
            calibration.metrics_of(PROBABILITIES, LABELS, PROBABILITIES.argmax(1), ["cat", "dog"], [0, 1]),
        ),
        (TEXT_METRICS, metrics_of_one(PROBABILITIES, LABELS, PROBABILITIES.argmax(1), ["cat", "dog"])),
        (TEXT_METRICS, metrics_of_several(PROBABILITIES.numpy(), SEVERAL, SEVERAL)),
        (OVERLAP_METRICS, overlap(np.array([[3, 1], [1, 3]]))),
        (RETURN_METRICS, returns_summary(RISING)),
        (
            OUTPUT_METRICS,
            by_output({"x": metrics_of(RISING, RISING), "y": metrics_of(RISING, RISING, "bce")}),
        ),
    ],
    ids=["classes", "texts", "texts with several labels", "segments", "returns", "outputs"],
)
def test_what_is_measured_is_what_may_have_a_floor(
    known: Sequence[str], measured: Mapping[str, float]
) -> None:
    assert measured
    assert [name for name in measured if not any(fnmatchcase(name, each) for each in known)] == []
