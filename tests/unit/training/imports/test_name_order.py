"""Names that an import guesses are checked against what the model answers."""

from pathlib import Path

import numpy as np
import pytest

from training.data import Example, ImageData
from training.findings import Findings
from training.imports.name_order import check_order, names_of_folders

CLASSES = tuple(str(number) for number in range(12))
BY_TEXT = sorted(CLASSES)


def data(classes: tuple[str, ...] = CLASSES, each: int = 4) -> ImageData:
    test = [Example(Path(f"{k}-{name}.png"), k) for k, name in enumerate(classes) for _ in range(each)]
    return ImageData("folder", classes, [], [], test, "folder", "not stated")


@pytest.mark.parametrize("order", [list(CLASSES), BY_TEXT], ids=["by value", "as text"])
def test_numbered_folders_name_the_outputs_as_the_answers_fit(order: list[str]) -> None:
    """A model that learned from sorted folder names has "10" before "2"; an exact one keeps its accuracy."""
    folder, findings = data(), Findings()
    answers = np.array([order.index(folder.classes[example.label]) for example in folder.test])

    assert names_of_folders(folder, answers, findings) == order
    assert "class names are taken from the data, in this order" in str(next(iter(findings)))


def test_another_order_that_fits_clearly_better_is_named() -> None:
    truth = np.repeat([0, 1, 2], 5)
    answers = np.repeat([1, 0, 2], 5)
    answers[-1] = 0
    findings = Findings()
    check_order(["cat", "dog", "owl"], answers, truth, findings)
    (found,) = findings

    assert found.examples == ["cat is dog", "dog is cat"]
    assert "in another order than the model's: accuracy 0.27, it would be 0.93" in str(found)


@pytest.mark.parametrize(
    ("answers", "truth"),
    [
        (np.repeat([0, 1, 2], 5), np.repeat([0, 1, 2], 5)),
        (np.zeros(15, int), np.repeat([0, 1, 2], 5)),
        (np.array([1, 0, 2]), np.array([0, 1, 2])),
        (np.tile([0, 1, 2], 5), np.repeat([0, 1, 2], 5)),
    ],
    ids=["right", "one answer alone", "too few pictures", "no better order"],
)
def test_no_order_is_doubted_without_evidence(answers: np.ndarray, truth: np.ndarray) -> None:
    findings = Findings()
    check_order(["cat", "dog", "owl"], answers, truth, findings)

    assert not list(findings)
