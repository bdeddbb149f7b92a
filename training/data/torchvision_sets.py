"""torchvision's data sets by name, like `torchvision:CIFAR10`; downloaded into cache/datasets/ when they are
first asked for.

Small ones, whose pictures torchvision holds as one array, are read from memory, the others from their files.
"""

import difflib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from marina.core import paths
from marina.core.errors import CallError
from training.data import Example, ImageData, labeled_files
from training.data.copies import report_copies
from training.data.labeled_files import Files, Listing
from training.data.limits import Limits
from training.findings import Findings

PREFIX = "torchvision:"
VALIDATION_SHARE = 0.15  # of the training, where the set has none
FLAG = {"train": {"train": True}, "test": {"train": False}}
HALVES = {"train": {"split": "train"}, "test": {"split": "test"}}
THIRDS = {**HALVES, "validation": {"split": "val"}}
WHOLE: dict[str, dict[str, Any]] = {"all": {}}
# how each is asked for its splits
SETS: dict[str, Mapping[str, Mapping[str, Any]]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "USPS"), FLAG),
    "EMNIST": {split: {"split": "balanced", **flag} for split, flag in FLAG.items()},
    **dict.fromkeys(("SVHN", "STL10", "Food101", "StanfordCars", "GTSRB"), HALVES),
    **dict.fromkeys(("Flowers102", "DTD", "FGVCAircraft", "RenderedSST2"), THIRDS),
    "Country211": {**HALVES, "validation": {"split": "valid"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "Imagenette": {"train": {"split": "train"}, "test": {"split": "val"}},
    **dict.fromkeys(("EuroSAT", "SUN397"), WHOLE),
}
# those that are folders of a layout that other readers know: where, and how they are asked for
FOLDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "VOCDetection": ("VOCdevkit/VOC2012", {"year": "2012", "image_set": "trainval"}),
    "VOCSegmentation": ("VOCdevkit/VOC2012", {"year": "2012", "image_set": "trainval"}),
}


def is_one(data: str) -> bool:
    """Whether `data` names such a set."""
    return data.startswith(PREFIX)


def load(data: str, seed: int, findings: Findings, limits: Limits) -> ImageData:
    """The set of that name, for a classifier. Raises CallError for an unknown one, and where it can't be
    downloaded.
    """
    name = _known(data, SETS, "classifier")
    parts = {split: _made(name, arguments) for split, arguments in SETS[name].items()}
    classes = _classes(parts)
    with findings.reported():
        if all(isinstance(_array(part), np.ndarray) for part in parts.values()):
            found = _from_arrays(name, parts, classes, seed)
            report_copies(found, {}, _root(), findings)
            return found
        splits = {split: _files(part, classes) for split, part in parts.items()}
        listing = Listing(_root() / name, splits, "", classes, source=_source(name))
        return labeled_files.load(listing, seed, findings, limits)


def folder(data: str) -> Path:
    """The folder of a set of boxes or outlines, for the readers of such folders. Raises CallError as `load`
    does.
    """
    name = _known(data, FOLDERS, "detector or segmenter")
    place, arguments = FOLDERS[name]
    if not (_root() / name / place).is_dir():
        _made(name, arguments)
    return _root() / name / place


def _root() -> Path:
    return paths.cache() / "datasets"


def _source(name: str) -> str:
    return f"torchvision.datasets.{name}"


def _known(data: str, known: Mapping[str, Any], kind: str) -> str:
    """The name as torchvision writes it, in any case. Raises CallError, with near ones, for another."""
    said = data.removeprefix(PREFIX)
    by_lower = {name.lower(): name for name in known}
    if said.lower() in by_lower:
        return by_lower[said.lower()]
    close = [by_lower[name] for name in difflib.get_close_matches(said.lower(), by_lower, n=3)]
    hint = f"did you mean {', '.join(close)}? Known" if close else "known"
    raise CallError(f"data: no {said!r} of torchvision's for a {kind}; {hint}: {', '.join(known)}")


def _made(name: str, arguments: Mapping[str, Any]) -> Any:
    """The data set of torchvision. Raises CallError where it can't be had."""
    from torchvision import datasets

    place = _root() / name
    place.mkdir(parents=True, exist_ok=True)
    make: Callable[..., Any] = getattr(datasets, name)
    try:
        return make(str(place), download=True, **arguments)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CallError(
            f"data: {PREFIX}{name} can't be had: {error}. It is downloaded once, into {place}; offline, put "
            f"there what torchvision.datasets.{name}(root, download=True) puts into its root, or give a "
            "folder of your own"
        ) from error


def _array(part: Any) -> np.ndarray | None:
    """All pictures, uint8 [N, H, W] or [N, H, W, 3]; None for a set that reads files."""
    if getattr(part, "data", None) is None:
        return None
    pixels = np.asarray(part.data)
    return pixels.transpose(0, 2, 3, 1) if pixels.ndim == 4 and pixels.shape[1] == 3 else pixels


def _labels(part: Any) -> list[int]:
    names = ("targets", "labels", "_labels")
    found = next(value for name in names if (value := getattr(part, name, None)) is not None)
    return [int(label) for label in found]


def _classes(parts: Mapping[str, Any]) -> tuple[str, ...]:
    """Their names; numbers where torchvision has none."""
    first = next(iter(parts.values()))
    if names := getattr(first, "classes", None):
        return tuple(str(name) for name in names)
    labels = {label for part in parts.values() for _, label in _pairs(part)}
    return tuple(str(label) for label in range(max(labels) + 1))


def _pairs(part: Any) -> list[tuple[Path, int]]:
    """(file, label) of each picture; the file is empty in a set that is an array."""
    for name in ("_samples", "samples"):
        if found := getattr(part, name, None):
            return [(Path(path), int(label)) for path, label in found]
    labels = _labels(part)
    files = getattr(part, "_image_files", None) or getattr(part, "_images", None) or [""] * len(labels)
    return list(zip(map(Path, files), labels, strict=True))


def _files(part: Any, classes: tuple[str, ...]) -> Files:
    files: Files = defaultdict(list)
    for path, label in _pairs(part):
        files[classes[label]].append(path)
    return dict(files)


def _from_arrays(name: str, parts: Mapping[str, Any], classes: tuple[str, ...], seed: int) -> ImageData:
    """Validation is split off the training by the seed."""

    def examples(part: Any) -> list[Example]:
        pixels = _array(part)
        assert pixels is not None
        return [Example(image, label) for image, label in zip(pixels, _labels(part), strict=True)]

    learned, test = examples(parts["train"]), examples(parts["test"])
    order = np.random.default_rng(seed).permutation(len(learned))
    held = set(order[: round(VALIDATION_SHARE * len(learned))].tolist())
    return ImageData(
        name=name,
        classes=classes,
        train=[example for row, example in enumerate(learned) if row not in held],
        validation=[example for row, example in enumerate(learned) if row in held],
        test=test,
        source=_source(name),
        licence="not stated",
        splits=f"validation split off train by seed {seed}, {VALIDATION_SHARE:.0%}",
    )
