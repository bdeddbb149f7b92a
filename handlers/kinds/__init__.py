"""One module per kind: what it decodes, how it answers, which schemas and explanations it has.

Each ends with `PREDICTOR`, its class. In an archive of a model with a handler of its own the package has a
module
`custom` beside this folder, whose `PREDICTOR` counts.
"""

from importlib import import_module
from importlib.util import find_spec

from ..runtime.predictor import Predictor


def predictor_of(kind: str) -> Predictor:
    """A predictor of `kind`, not started. Raises ImportError if there is no such kind."""
    custom = f"{__name__.rpartition('.')[0]}.custom"
    predictor_class: type[Predictor] = import_module(
        custom if find_spec(custom) else f"{__name__}.{kind}"
    ).PREDICTOR
    return predictor_class()
