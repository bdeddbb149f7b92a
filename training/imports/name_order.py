"""Whether a model's outputs are in the order of the names that they were given: its answers to pictures whose
classes are known tell.
"""

from collections.abc import Sequence

import numpy as np

from training.data import ImageData
from training.findings import Findings

PER_CLASS = 3  # pictures of each class at least, or chance alone may look like an order
CLEAR = 0.2  # of accuracy that another order must gain


def names_of_folders(data: ImageData, answers: np.ndarray, findings: Findings) -> list[str]:
    """The data's classes as the names of as many outputs: by value if all are numbers, or alphabetically, as
    `answers` [N] to its test pictures fit better. That they are a guess is a finding.
    """
    truth = [data.classes[example.label] for example in data.test]
    orders = [list(data.classes), sorted(data.classes)]
    names = max(
        orders, key=lambda order: sum(order[k] == name for k, name in zip(answers, truth, strict=True))
    )
    findings.add("class names", "are taken from the data, in this order: check it, or give classes", names)
    return names


def check_order(names: Sequence[str], answers: np.ndarray, truth: np.ndarray, findings: Findings) -> None:
    """A finding where another order of `names` fits `answers` [N] clearly better than this one.

    Both are indices of classes; `truth` [N] is what the data calls the pictures, by these names.
    """
    count = len(names)
    if len(truth) < PER_CLASS * len(np.unique(truth)):
        return
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (answers, truth), 1)
    given = np.flatnonzero(confusion.any(1))
    likely = confusion[given].argmax(1)  # the class that is mostly shown where an output is the largest
    accuracy, best = confusion.trace() / len(truth), confusion[given, likely].sum() / len(truth)
    if len(np.unique(likely)) < len(likely) or best < 0.5 or best - accuracy < CLEAR:
        return
    pairs = zip(given.tolist(), likely.tolist(), strict=True)
    moved = [f"{names[output]} is {names[shown]}" for output, shown in pairs if output != shown]
    happened = f"are in another order than the model's: accuracy {accuracy:.2f}, it would be {best:.2f}"
    findings.add("class names", happened, moved, count)
