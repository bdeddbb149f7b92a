"""A folder of pictures with one labels.json beside them: {file: class}, the class by its name or by its index in the model."""

import json
from pathlib import Path

from marina.errors import CallError
from training.datasets import Example, ImageData

NAME = "labels.json"


def load(folder: Path) -> ImageData:
    """All pictures as `test`; a class that is given by its index is called by that number.

    Raises CallError for a file that says something else, and for a picture that isn't there.
    """
    path = folder / NAME
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CallError(f"{path} is no JSON: {error}") from error
    if not isinstance(labels, dict) or not labels or not all(type(label) in (str, int) for label in labels.values()):
        raise CallError(f'{path} must say {{"file.jpg": class, …}}, each class by its name or by its index in the model')
    if absent := next((name for name in labels if not (folder / name).is_file()), None):
        raise CallError(f"{path} names {absent!r}, which is not there; take it out, or put the picture beside it")
    classes = sorted({str(label) for label in labels.values()})
    examples = [Example(folder / name, classes.index(str(label))) for name, label in labels.items()]
    return ImageData(folder.name, tuple(classes), [], [], examples, source=f"folder {folder.name}", licence="not stated")
