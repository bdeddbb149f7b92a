"""An HTML page on data, before anything is learned from it; the layout is data.html.jinja."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from marina import __version__
from marina.core import paths
from marina.core.errors import CallError
from marina.core.spec import load, names
from marina.evaluation.pages import Figure, Table, facts, render, table

TEMPLATE = "data.html.jinja"
SAMPLES, NEAR_PAIRS, MOST_ROWS = 24, 12, 40
VIEWS, PICTURES = 7, 6  # of the page on augmentation
QUALITY = 85  # of the pictures' JPEG
TerminalTable = tuple[str, Sequence[str], Sequence[Sequence[Any]]]


@dataclass(frozen=True)
class DataPage:
    """A page, tables for the terminal (title, columns, rows), and figures for programs."""

    name: str
    html: str
    tables: list[TerminalTable]
    figures: dict[str, Any]


def show(source: str, strict: bool = False) -> DataPage:
    """The page on the data of the model `source`, or on data of that name or place. Raises CallError."""
    from training.data import overview
    from training.findings import Findings

    findings = Findings(strict, quiet=True)
    if source in names():
        name, data = source, _data_of(source, findings)
    else:
        name, data = Path(source.rpartition(":")[2]).stem, overview.load(source, findings)
    seen = overview.overview(data)
    _report_near(seen, findings)
    splits = [split for split, count in seen.splits.items() if count]
    rows = [[label, *(counts[split] for split in splits)] for label, counts in seen.counts.items()]
    lines = [str(found) for found in findings]
    content = {
        **_head(name, data.source, "data"),
        "tiles": [(split, f"{count:,}") for split, count in seen.splits.items()],
        "counted": seen.counted,
        "classes": table(["class", *splits], rows),
        "facts": facts(_facts(seen)),
        "findings": _findings(findings),
        "near": _near(seen),
        "rows": [_samples(seen)],
        "is_large": seen.counted != "examples",
        "row_title": "Training pictures",
    }
    tables: list[TerminalTable] = [
        (f"{name}: {seen.counted} per class", ["class", *splits], rows[:MOST_ROWS]),
        (f"{name}: what was found", ["finding"], [[line] for line in lines] or [["nothing"]]),
    ]
    figures = {
        "data": data.about(),
        "classes": seen.counts,
        "counted": seen.counted,
        "sizes": _sizes(seen),
        "findings": findings.as_json(),
        "near_copies": [[seen.name(one), seen.name(other)] for one, other in seen.near],
    }
    return DataPage(name, render(TEMPLATE, content), tables, figures)


def augmentation(source: str) -> DataPage:
    """The page on what the augmentation of the model `source` does to training pictures. Raises CallError."""
    from training import recipes
    from training.findings import Findings

    if source not in names():
        raise CallError(f"--augmented shows a model's own augmentation; {source!r} is none of models/")
    spec = load(source)
    recipe = recipes.recipe_of(spec)
    settings = recipe.settings(spec)
    data = _data_of(source, Findings(quiet=True))
    drawn = recipe.augmented(settings, data, PICTURES, VIEWS)
    rows = []
    for views in drawn:
        titles = ("as it is", *[""] * (len(views) - 1))
        rows.append([Figure(_url(view), title, "") for view, title in zip(views, titles, strict=True)])
    written = settings.model_dump(mode="json")
    said = {key: written[key] for key in AUGMENTING if key in written}
    content = {
        **_head(source, data.source, "augmentation"),
        **{"tiles": [], "counted": "", "classes": None, "findings": None, "near": [], "is_large": False},
        "facts": facts({key: str(value) for key, value in said.items()}),
        "rows": rows,
        "row_title": "Training pictures, as they are and varied",
    }
    columns, values = ["setting", "value"], [[key, str(value)] for key, value in said.items()]
    tables: list[TerminalTable] = [(f"{source}: augmentation", columns, values)]
    return DataPage(source, render(TEMPLATE, content), tables, {"augmentation": said, "pictures": len(rows)})


AUGMENTING = (
    *("augmentation", "horizontal_flip", "vertical_flip", "mixup", "cutmix", "fourier_noise"),
    *("resize", "image_size", "height", "width"),
)


def _data_of(name: str, findings: Any) -> Any:
    """The data of a model, as its recipe reads it."""
    from training import recipes
    from training.runs.run import Run

    spec = load(name)
    recipe = recipes.recipe_of(spec)
    run = Run(paths.cache(spec.home) / "data", spec.training.seed, findings=findings)
    return recipe.load_data(recipe.settings(spec), run)


def _head(name: str, source: str, kind: str) -> dict[str, Any]:
    return {"name": name, "source": source, "kind": kind, "marina_version": __version__}


def _report_near(seen: Any, findings: Any) -> None:
    """Findings on near copies; a strict run refuses those."""
    total = sum(seen.splits.values())
    pairs = [f"{seen.name(one)} ~ {seen.name(other)}" for one, other in seen.near]
    findings.add("pictures", "are nearly the same as another one", pairs, total)
    across = [
        f"{seen.name(one)} ({one.split}) ~ {seen.name(other)} ({other.split})" for one, other in seen.across()
    ]
    happened = "are nearly the same as one of another split: what is measured on them proves little"
    findings.add("pictures", happened, across, total)
    findings.report()


def _sizes(seen: Any) -> dict[str, Any]:
    """Smallest, median and largest width and height, in pixels."""
    if not seen.sizes:
        return {}
    sizes = np.array(seen.sizes)
    return {
        "smallest": sizes[sizes.prod(1).argmin()].tolist(),
        "median": np.median(sizes, axis=0).astype(int).tolist(),
        "largest": sizes[sizes.prod(1).argmax()].tolist(),
        "different": len(np.unique(sizes, axis=0)),
    }


def _facts(seen: Any) -> dict[str, Any]:
    about = seen.data.about()
    sizes = {name: " x ".join(map(str, value)) for name, value in _sizes(seen).items() if name != "different"}
    compared = f"{len(seen.sizes):,}" + (", a sample" if seen.is_sampled else "")
    return {
        **{key: about[key] for key in ("source", "licence", "splits")},
        "classes": len(seen.data.classes),
        "bytes of files": f"{seen.bytes:,}",
        **{f"{name} picture": size for name, size in sizes.items()},
        "pictures compared": compared,
        "fingerprint": about["fingerprint"],
    }


def _findings(findings: Any) -> Table | None:
    rows = [[str(found), ", ".join(found.examples)] for found in findings]
    return table(["finding", "examples"], rows, kind="words") if rows else None


def _near(seen: Any) -> list[tuple[Figure, Figure]]:
    """Near copies side by side, those of two splits first."""
    from training.data.overview import drawn

    across = seen.across()
    pairs = [*across, *(pair for pair in seen.near if pair not in across)][:NEAR_PAIRS]
    shown = []
    for pair in pairs:
        one, other = (
            Figure(_url(drawn(seen.example(place), seen.data.classes)), seen.name(place), place.split)
            for place in pair
        )
        shown.append((one, other))
    return shown


def _samples(seen: Any) -> list[Figure]:
    from training.data.overview import drawn, samples

    figures = []
    for example in samples(seen.data, SAMPLES):
        name = example.file.name if example.file else ""
        labels = [example.label] if example.label >= 0 else example.labels if seen.data.has_several else ()
        label = ", ".join(seen.data.classes[each] for each in labels)
        figures.append(Figure(_url(drawn(example, seen.data.classes)), label or name, name if label else ""))
    return figures


def _url(image: Any) -> str:
    """A Pillow image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
