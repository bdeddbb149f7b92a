"""The predictor of a model that the project has exported, as a benchmark calls it."""

from typing import TypeVar

from handlers.runtime.predictor import Predictor
from marina.core import spec
from marina.core.errors import CallError

P = TypeVar("P", bound=Predictor)


def predictor_of(name: str, wanted: type[P], not_so: str) -> P:
    """The loaded predictor. Raises CallError for one of another kind, "which hears no sounds"."""
    model = spec.load(name)
    model.check_exported()
    predictor = model.predictor()
    if not isinstance(predictor, wanted):
        raise CallError(f"{name} is a {model.kind}, {not_so}")
    predictor.load(model.export_dir)
    return predictor
