"""Serve's applications and their route prefixes, which say what is registered, on every node.

    application     route prefix                    what it is
    NAME/VERSION    /NAME/VERSION                   a version; its replicas answer
    NAME            /models/NAME/DEFAULT/OTHER/...  a model: the default version, then the others; no replicas
    .catalog        /                               what concerns no single version

Serve broadcasts prefixes to the HAProxy of every node. A model's is changed in one step, so that a version is
shown, hidden or made the default everywhere at once, without touching a replica. "~" follows a version that
has no replicas.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CATALOG = ".catalog"
MODELS = "models"
IDLE = "~"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
VERSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")
FRONT_PORT, SERVE_PORT = "marina-front-port", "marina-serve-port"  # labels of a node, where it has its own
LONGEST_PREFIX = 1500  # characters; a line of HAProxy's configuration has 2,048


@dataclass(frozen=True)
class RoutedModel:
    """A registered model: its default version and all versions, of which those in `answering` have
    replicas.
    """

    name: str
    default: str
    versions: tuple[str, ...]
    answering: frozenset[str] = frozenset()


def application(name: str, version: str) -> str:
    """The application of a version."""
    return f"{name}/{version}"


def version_prefix(name: str, version: str) -> str:
    """The route prefix of a version."""
    return f"/{name}/{version}"


def model_prefix(name: str, default: str, others: Iterable[str]) -> str:
    """The route prefix of a model; a version without replicas comes as `idle(version)`."""
    return "/".join(("", MODELS, name, default, *others))


def idle(version: str) -> str:
    """A version that has no replicas, in the route prefix of its model."""
    return f"{version}{IDLE}"


def is_idle(version: str) -> bool:
    """Whether a version, as `idle` writes it, has no replicas."""
    return version.endswith(IDLE)


def routed_models(prefixes: Iterable[str]) -> dict[str, RoutedModel]:
    """The registered models that these route prefixes tell of."""
    parts = [tuple(prefix.strip("/").split("/")) for prefix in prefixes]
    loaded = {part for part in parts if len(part) == 2}
    models = {}
    for _, name, *listed in (part for part in parts if part[0] == MODELS and len(part) > 2):
        versions = tuple(version.removesuffix(IDLE) for version in listed)
        answering = frozenset(version for version in listed if (name, version) in loaded)
        models[name] = RoutedModel(name, versions[0], versions, answering)
    return models


def backends(prefixes: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What the front looks up, from {prefix: backend}: NAME/VERSION -> backend, and NAME -> its default
    version.
    """
    models = routed_models(prefixes)
    by_version = {
        f"{model.name}/{version}": prefixes[version_prefix(model.name, version)]
        for model in models.values()
        for version in model.versions
        if version in model.answering
    }
    return by_version, {model.name: model.default for model in models.values()}
