"""Settings as pydantic models, with errors that name the place, the key and the known keys."""

from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from marina.core.errors import CallError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A section of the spec: immutable, without unknown keys.

    `renamed` maps keys of earlier versions to their new names, for the error message; a subclass adds to it.
    An entry counts where the section has its new name.
    `unwritten` are fields that don't come from the section's own keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed: ClassVar[dict[str, str]] = {}
    unwritten: ClassVar[tuple[str, ...]] = ()


def validate(model: type[Model], content: dict[str, Any], where: str) -> Model:
    """`content` as `model`. Raises CallError with the place, the key and what is allowed there."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise CallError("\n".join(_explain(model, problem, where) for problem in error.errors())) from error


def _explain(model: type[BaseModel], problem: Any, where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section = _section(model, problem["loc"][:-1])
        if new := _renamed(section).get(problem["loc"][-1]):
            return f"{where}: {key!r} is now called {new!r}"
        return f"{where}: unknown key {key!r}; known here: {', '.join(_known(section))}"
    return f"{where}: {key or 'spec'}: {problem['msg']} (got {problem['input']!r:.200})"


def _section(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    """The model at `location` inside `model`."""
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        model = next(
            (kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), model
        )
    return model


def _renamed(section: type[BaseModel]) -> dict[str, str]:
    """Old key -> new key, of `section` and its bases; only new keys that `section` has."""
    names: dict[str, str] = {}
    for base in reversed(section.__mro__):
        names |= vars(base).get("renamed", {})
    known = set(_known(section))
    return {old: new for old, new in names.items() if known.issuperset(new.split(", "))}


def _known(section: type[BaseModel]) -> list[str]:
    """The keys that a user may write in `section`."""
    unwritten = getattr(section, "unwritten", ())
    return [field.alias or name for name, field in section.model_fields.items() if name not in unwritten]
