"""The names of an imported model's classes: from a file, or as the weights of its source know them."""

import json
from collections import Counter

import torchvision

from marina.core.errors import CallError
from marina.core.yaml_files import read_text
from training.imports.files import existing
from training.imports.sources import Source, origin, torchvision_weights

# whose weights know the names
CATEGORIES = {"imagenet": "mobilenet_v2", "coco": "ssdlite320_mobilenet_v3_large"}


def read_class_names(classes: str | None) -> list[str] | None:
    """The names that `classes` asks for, each once: a namesake gets its index. None for None. Raises
    CallError.
    """
    if classes is None:
        return None
    if classes in CATEGORIES:
        return list(torchvision.models.get_model_weights(CATEGORIES[classes])["DEFAULT"].meta["categories"])
    path = existing(classes, "classes")
    try:
        text = read_text(path)
        content = (
            json.loads(text)
            if classes.endswith(".json")
            else [line.strip() for line in text.splitlines() if line.strip()]
        )
        if isinstance(content, dict):
            content = [content[str(index)] for index in range(len(content))]
        # ImageNet's own file has [synset, name]
        names = [name if isinstance(name, str) else name[1] for name in content]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CallError(
            f"{classes} is no list of names: one per line, or JSON [name, …] or {{index: name}} from 0 on"
        ) from error
    return unique(names)


def unique(names: list[str]) -> list[str]:
    """`names` with the index behind every one that occurs twice (ImageNet's two cranes), so that answers
    can be told apart.
    """
    times = Counter(names)
    return [
        name if times[name] == 1 or name == "N/A" else f"{name} ({index})" for index, name in enumerate(names)
    ]


def names_from_weights(settings: Source, many: int) -> list[str] | None:
    """The names of `many` classes, if the source's weights know so many by name; else None."""
    kind, name = origin(settings.source)
    if kind == "timm":
        return read_class_names("imagenet") if many == 1000 else None
    if kind != "torchvision":
        return None
    weights = torchvision_weights(name)
    names = list(
        weights[settings.weights if settings.weights in weights.__members__ else "DEFAULT"].meta["categories"]
    )
    return unique(names) if len(names) == many else None
