"""An HTML page about an export: how good it is, how it was trained, what it answers, and what made it.

The page is made of the export's own files, whatever its kind: model_metadata.json, what training left in
report/, the golden samples, and SHA256SUMS. It needs no script, loads nothing from elsewhere, and follows the
reader's light or dark theme. The layout is report.html.jinja.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from handlers.runtime.export import Export
from marina import __version__
from marina.core import kinds
from marina.core.spec import Spec
from marina.evaluation.pages import SOUNDS, Figure, Table, data_url, facts, number_text, render, table
from marina.packaging import runtime_table
from marina.packaging.archive import check_export

TEMPLATE = "report.html.jinja"
SAMPLES = 12
CAPTIONS = {
    "curves": ("Learning", "The training loss, and validation after each epoch."),
    "curve": (
        "Learning",
        "Returns during training, with loss and exploration where the algorithm has them.",
    ),
    "learning_rate": (
        "Learning rate",
        "The smoothed training loss while the rate rises step by step; the line is the rate that was taken.",
    ),
    "pretraining": (
        "Pretraining",
        "The self-supervised loss, and the views of a picture that are contrasted with those of others.",
    ),
    "confusion": (
        "Confusions",
        "Rows are the labels of the test split, columns the answers; off the diagonal they are wrong.",
    ),
    "residuals": (
        "Residuals",
        "Answered against true values of the test rows, and the errors; the band is the answered interval.",
    ),
    "boundary": (
        "Decision boundary",
        "The answered class over the two columns that matter most; test rows in the colors of their classes.",
    ),
    "comparison": (
        "Other models",
        "On the same test split: simpler models, as the guide describes them.",
    ),
    "importance": (
        "Columns",
        "How much worse the answers to the test rows are if a column's cells are given to other rows.",
    ),
    "reliability": (
        "Reliability",
        "Accuracy by confidence, before and after temperature scaling. On the diagonal, probabilities are "
        "calibrated.",
    ),
    "trade_off": (
        "Trade-off",
        "Recall against false alarms on the test split, with the threshold in use.",
    ),
    "mistakes": (
        "Worst mistakes",
        "The wrong answers of the test split with the highest confidence; if there are none, the least "
        "confident ones.",
    ),
    "precision_recall": (
        "Precision over recall",
        "Each class at an overlap (IoU) of 0.5 on the test split; further up and right is better.",
    ),
    "examples": ("Test pictures", "Detections in pictures of the test split."),
    "worst": (
        "Worst errors",
        "The test pictures with the most missed objects and false detections.",
    ),
    "episode": ("An episode", "The actions along one evaluation episode."),
    "returns": ("Returns", "How the evaluation episodes ended."),
    "values": ("Values", "The value of each state under the policy, with its greedy action."),
}


class Tile(NamedTuple):
    """A metric; `percent` is the length of its bar and `mark` the floor's place on it, None for neither."""

    label: str
    value: str
    percent: str | None
    mark: str | None
    floor: str
    is_reached: bool


def page(spec: Spec) -> str:
    """The HTML of the report on the export of `spec`. Raises CallError where there is none, WorkError for a
    damaged one.
    """
    check_export(spec)
    folder = spec.export_dir
    export = Export.open(folder)
    metadata = export.metadata
    training = dict(metadata["training"])
    by_class = training.pop("by_class", None)
    settings = facts({"parameters": metadata["parameters"], **training})
    middle = (len(settings) + 1) // 2
    content = {
        **{key: metadata[key] for key in ("name", "version", "about")},
        "kind": " · ".join(dict.fromkeys((metadata["kind"], training["recipe"]))).replace("_", " "),
        "tiles": _tiles(metadata["metrics"], metadata["floor"]),
        "figures": _figures(folder / "report"),
        "sounds": _sounds(folder / "report" / "sounds"),
        "tables": _tables(folder / "report" / "tables"),
        "classes": _classes(folder / "report" / "classes.json", by_class),
        **_samples(export, kinds.get(spec.kind).summarize),
        "data": facts(metadata["data"]),
        "findings": _findings(metadata.get("findings", [])),
        "environment": facts(_environment(folder, metadata)),
        "runtimes": _runtimes(spec),
        "legend": runtime_table.LEGEND,
        "training": (settings[:middle], settings[middle:]),
        "spec": _spec(folder / "report" / "spec.yaml", spec),
        "files": _files(folder),
        "marina_version": __version__,
        "folder": folder.as_posix().split("/exports/")[-1],
    }
    return render(TEMPLATE, content)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _tiles(metrics: Mapping[str, float], floors: Mapping[str, float]) -> list[Tile]:
    """Every metric; first those with a floor, and how far above it they are."""
    tiles = []
    for name in sorted(metrics, key=lambda name: name not in floors):
        value, floor = metrics[name], floors.get(name)
        percent, mark, text, is_reached = None, None, "", True
        if 0 <= value <= 1:
            percent = f"{100 * value:.4g}"
            mark = f"{100 * floor:.4g}" if floor is not None and 0 < floor < 1 else None
        if floor is not None:
            is_reached = value >= floor
            text = f"✓ {value - floor:.3g} above" if is_reached else f"✗ {floor - value:.3g} below"
            text += f" the floor {floor:g}"
        tiles.append(Tile(name.replace("_", " "), number_text(value), percent, mark, text, is_reached))
    return tiles


def _figures(report: Path) -> list[Figure]:
    """The pictures of the training: known ones in the order of the captions, then the others."""
    order = [*CAPTIONS]

    def key(path: Path) -> tuple[int, str]:
        return order.index(path.stem) if path.stem in CAPTIONS else len(order), path.name

    figures = []
    for path in sorted(report.glob("*.png"), key=key):
        title, text = CAPTIONS.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
        figures.append(Figure(data_url(path), title, text))
    return figures


def _sounds(folder: Path) -> list[Figure]:
    """The sounds that training left, with their spectrograms: index.json lists {"file", "picture", "title",
    "text"}.
    """
    if not (folder / "index.json").is_file():
        return []
    return [
        Figure(data_url(folder / one["picture"]), one["title"], one["text"], data_url(folder / one["file"]))
        for one in _json(folder / "index.json")
    ]


def _classes(file: Path, by_class: Mapping[str, Any] | None) -> Table | None:
    """Figures by class from report/classes.json, otherwise from the training's own metrics."""
    rows: list[dict[str, Any]] = []
    if file.is_file():
        rows = _json(file)
    else:
        for name, value in (by_class or {}).items():
            values = value if isinstance(value, dict) else {"average precision": value}
            rows.append({"class": name, **values})
    if not rows:
        return None
    columns = list(dict.fromkeys(key for row in rows for key in row))
    labels = [column.replace("_", " ") for column in columns]
    return table(labels, [[row.get(column, "") for column in columns] for row in rows])


def _tables(folder: Path) -> list[tuple[str, str, Table]]:
    """Title, text and rows of the tables that training left: {"title", "text", "rows": [{column: value}]}."""
    tables = []
    for file in sorted(folder.glob("*.json")):
        content = _json(file)
        rows = content["rows"]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[row.get(column, "") for column in columns] for row in rows]
        if rows:
            shown = table([column.replace("_", " ") for column in columns], cells, kind="words")
            tables.append((content["title"], content["text"], shown))
    return tables


def _samples(export: Export, summarize: Callable[[Any], str]) -> dict[str, Any]:
    """The golden samples: pictures, or sounds, with their answers, or requests and answers in a table."""
    samples = export.samples[:SAMPLES]
    files = [export.folder / "samples" / sample["file"] for sample in samples]
    if all(file.suffix in (".png", ".jpg", ".webp", ".gif", ".bmp") for file in files):
        figures = []
        for sample, file in zip(samples, files, strict=True):
            figures.append(Figure(data_url(file), sample["name"], summarize(sample["answer"])))
        return {"sample_table": None, "sample_figures": figures}
    if all(file.suffix in SOUNDS for file in files):
        heard = [
            Figure("", sample["name"], summarize(sample["answer"]), data_url(file))
            for sample, file in zip(samples, files, strict=True)
        ]
        return {"sample_table": None, "sample_figures": heard}
    rows = []
    for sample, file in zip(samples, files, strict=True):
        rows.append([sample["name"], _preview(file), summarize(sample["answer"])])
    return {"sample_table": table(["request", "sent", "answer"], rows), "sample_figures": []}


def _findings(findings: Sequence[Mapping[str, Any]]) -> Table | None:
    """What was left out, cut or guessed."""
    rows = [[found["finding"], ", ".join(found["examples"])] for found in findings]
    return table(["finding", "examples"], rows, kind="words") if rows else None


def _preview(file: Path) -> str:
    text = file.read_bytes()[:400].decode("utf-8", "replace")
    return text if len(text) <= 120 else text[:119] + "…"


def _environment(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The machine as training recorded it, otherwise the versions in the metadata."""
    file = folder / "report" / "environment.json"
    return dict(_json(file) if file.is_file() else metadata["versions"])


def _spec(file: Path, spec: Spec) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else spec.as_yaml()


def _files(folder: Path) -> Table:
    rows = []
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split(maxsplit=1)
        name = name.lstrip("*")
        rows.append([name, f"{(folder / name).stat().st_size:,}", digest])
    return table(["file", "bytes", "SHA-256"], rows, mono=("SHA-256",))


def _runtimes(spec: Spec) -> Table | None:
    """The runtimes that were tried."""
    rows = runtime_table.rows(spec)
    return table(runtime_table.columns(spec), rows, kind="words") if rows else None
