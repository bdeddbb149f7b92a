"""What an export says of the data that it was measured on."""

from pathlib import Path

from handlers.runtime.export import Export
from marina.core.errors import CallError
from marina.core.spec import Spec


def data_of(spec: Spec, data: str | None) -> str:
    """The data to measure on: `data`, or what the export was trained on. Raises CallError if unknown."""
    trained_on = data or Export.open(spec.export_dir).metadata["training"].get("data")
    if not trained_on:
        raise CallError(f"{spec.name}'s export doesn't name its data; name some: --data FOLDER")
    return str(trained_on)


def is_trained_on(spec: Spec, data: str | None) -> bool:
    """Whether `data`, None for what the export names, is what its recorded metrics are of."""
    trained_on = Export.open(spec.export_dir).metadata["training"].get("data")
    return data is None or str(Path(data).expanduser().resolve()) == trained_on or data == trained_on


def is_import(spec: Spec) -> bool:
    """Whether it learned elsewhere, so that nothing of its data is split off to learn from."""
    from training import recipes

    return recipes.recipe_of(spec).is_import
