"""One page that tells what an export is: how good, how it learned, what it answers, what made it. Nothing is loaded from elsewhere.

It is made of the export's own files, whatever its kind: model_metadata.json, what the training left in report/, the golden
samples, and SHA256SUMS. The page needs no script and follows the reader's light or dark.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from marina import __version__, candidates
from marina.samples import short
from marina.spec import Spec

TEMPLATE = Path(__file__).with_suffix(".html")
SAMPLES = 12
CAPTIONS = {
    "curves": ("Learning", "The loss that was trained on, and what validation said after each epoch."),
    "curve": ("Learning", "Returns while it learned, with loss and exploration where the algorithm has them."),
    "pretraining": (
        "Pretraining",
        "The loss of learning without labels, and the views of a picture that were to be told apart from others'.",
    ),
    "confusion": ("Confusions", "Rows are the truth, columns the answers on the test split; what is off the diagonal is wrong."),
    "reliability": (
        "Reliability",
        "How often an answer is right, by how sure it was, before and after the temperature. On the diagonal it means what it says.",
    ),
    "trade_off": ("Trade-off", "Recall against false alarms on the test split, with the threshold that is served."),
    "mistakes": (
        "Worst mistakes",
        "The test pictures that were answered wrongly with most conviction. Where there is none, the least sure ones.",
    ),
    "precision_recall": (
        "Precision over recall",
        "Each class at an overlap (IoU) of 0.5 on the test split; further up and right is better.",
    ),
    "examples": ("Test pictures", "What is found in pictures that were never learnt from."),
    "worst": ("Gravest faults", "The test pictures that went worst: what was missed, and what was found where nothing is."),
    "episode": ("An episode", "The actions along one evaluation episode."),
    "returns": ("Returns", "How the evaluation episodes ended."),
    "values": ("Values", "What each state is worth under the policy, with its greedy action."),
}
ORDER = [*CAPTIONS]


def page(spec: Spec) -> str:
    """The HTML of the report on the export of `spec`. Raises CallError where there is none."""
    spec.check_exported()
    folder = spec.export_dir
    said: dict[str, Any] = json.loads((folder / "model_metadata.json").read_text(encoding="utf-8"))
    training = dict(said["training"])
    by_class = training.pop("by_class", None)
    parts = [
        _tiles(said["metrics"], said["floor"]),
        _section("Pictures", "".join(_figure(path) for path in _pictures(folder / "report"))),
        _section("By class", _classes(folder / "report" / "classes.json", by_class)),
        _section("What it answers", _samples(folder / "samples")),
        _pair(_section("Data", _facts(said["data"])), _section("Environment", _facts(_environment(folder, said)))),
        _section("Runtimes", _runtimes(spec)),
        _section("Training", _halves({"parameters": said["parameters"], **training})),
        _section("The spec as it was used", _spec(folder / "report" / "spec.yaml", spec)),
        _section("Files", _files(folder)),
    ]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{spec.name} {spec.version}"),
        kind=escape(" · ".join(dict.fromkeys((said["kind"], training["recipe"]))).replace("_", " ")),
        name=escape(said["name"]),
        version=escape(said["version"]),
        about=escape(said["about"]),
        body="\n".join(part for part in parts if part),
        footer=f"Written by marina {__version__} from {escape(folder.as_posix().split('/exports/')[-1])}.",
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>" if content else ""


def _pair(*sections: str) -> str:
    return f'<div class="pair">{"".join(sections)}</div>'


def _tiles(metrics: Mapping[str, float], floor: Mapping[str, float]) -> str:
    """Every metric large; those with a floor first, and by how much they stand above it."""
    made = []
    for name in sorted(metrics, key=lambda one: one not in floor):
        value, least = metrics[name], floor.get(name)
        bar = ""
        if 0 <= value <= 1:
            mark = f'<b style="left:{100 * least:.4g}%"></b>' if least is not None and 0 < least < 1 else ""
            bar = f'<div class="bar"><i style="width:{100 * value:.4g}%"></i>{mark}</div>'
        against = ""
        if least is not None:
            reached = value >= least
            words = f"✓ {value - least:.3g} above the floor {least:g}" if reached else f"✗ {least - value:.3g} below the floor {least:g}"
            against = f'<div class="floor{"" if reached else " missed"}">{words}</div>'
        label = escape(name.replace("_", " "))
        made.append(f'<div class="tile"><div class="name">{label}</div><div class="value">{_number(value)}</div>{bar}{against}</div>')
    return f'<div class="tiles">{"".join(made)}</div>'


def _pictures(report: Path) -> list[Path]:
    """Known ones in the order of the captions, then the others."""
    return sorted(report.glob("*.png"), key=lambda path: (ORDER.index(path.stem) if path.stem in ORDER else len(ORDER), path.name))


def _figure(path: Path) -> str:
    title, words = CAPTIONS.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
    return f'<figure><img src="{_inline(path)}" alt="{escape(title)}"><figcaption><b>{title}.</b> {words}</figcaption></figure>'


def _inline(path: Path) -> str:
    kind = {".jpg": "jpeg", ".tif": "tiff"}.get(path.suffix, path.suffix[1:])
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _classes(file: Path, by_class: Mapping[str, Any] | None) -> str:
    """What report/classes.json has of each class, else what the training told by class."""
    rows: list[dict[str, Any]] = []
    if file.is_file():
        rows = json.loads(file.read_text(encoding="utf-8"))
    elif by_class:
        told = {name: value if isinstance(value, dict) else {"average precision": value} for name, value in by_class.items()}
        rows = [{"class": name, **values} for name, values in told.items()]
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return _table([one.replace("_", " ") for one in columns], [[row.get(one, "") for one in columns] for row in rows])


def _samples(folder: Path) -> str:
    """The golden samples: pictures with their answers, or requests and answers in a table."""
    samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))[:SAMPLES]
    if not all((folder / one["file"]).suffix in (".png", ".jpg", ".webp", ".gif", ".bmp") for one in samples):
        return _table(["request", "sent", "answer"], [[one["name"], _sent(folder / one["file"]), short(one["answer"])] for one in samples])
    made = (
        f'<figure class="sample"><img src="{_inline(folder / one["file"])}" alt="{escape(one["name"])}">'
        f"<figcaption><b>{escape(one['name'])}</b><br>{escape(short(one['answer']))}</figcaption></figure>"
        for one in samples
    )
    return f'<div class="samples">{"".join(made)}</div>'


def _sent(file: Path) -> str:
    text = file.read_bytes()[:400].decode("utf-8", "replace")
    return text if len(text) <= 120 else text[:119] + "…"


def _environment(folder: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """What the training wrote down of the machine, else the versions in the metadata."""
    file = folder / "report" / "environment.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else dict(said["versions"])


def _spec(file: Path, spec: Spec) -> str:
    text = file.read_text(encoding="utf-8") if file.is_file() else spec.as_yaml()
    return f'<div class="card"><pre>{escape(text)}</pre></div>'


def _files(folder: Path) -> str:
    listed = (line.split(maxsplit=1) for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    rows = [[name.lstrip("*"), f"{(folder / name.lstrip('*')).stat().st_size:,}", digest] for digest, name in listed]
    return _table(["file", "bytes", "SHA-256"], rows, mono=("SHA-256",))


def _runtimes(spec: Spec) -> str:
    """What was tried to compute it."""
    rows = candidates.rows(spec)
    table = _table(candidates.columns(spec), rows, kind="words")
    return f'{table}<p class="note">{candidates.LEGEND}</p>' if rows else ""


def _facts(said: Mapping[str, Any]) -> str:
    """A table of names and values; what is nested stands flat under dotted names."""
    rows = "".join(f"<tr><th>{escape(name.replace('_', ' '))}</th>{_cell(value)}</tr>" for name, value in _flat(said) if value is not None)
    return f'<div class="card"><table class="facts"><tbody>{rows}</tbody></table></div>' if rows else ""


def _halves(said: Mapping[str, Any]) -> str:
    """`_facts` in two tables, beside each other where there is room."""
    rows = [(name, value) for name, value in _flat(said) if value is not None]
    middle = (len(rows) + 1) // 2
    return _pair(_facts(dict(rows[:middle])), _facts(dict(rows[middle:])))


def _flat(said: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in said.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield prefix + name, value


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], mono: Sequence[str] = (), kind: str = "") -> str:
    numeric = [all(_is_number(row[k]) for row in rows) for k in range(len(columns))]
    head = "".join(f"<th{' class=number' if numeric[k] else ''}>{escape(name)}</th>" for k, name in enumerate(columns))
    body = "".join(f"<tr>{''.join(_cell(value, numeric[k], columns[k] in mono) for k, value in enumerate(row))}</tr>" for row in rows)
    named = f' class="{kind}"' if kind else ""
    return f'<div class="card"><table{named}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and value.replace(",", "").isdigit())


def _cell(value: Any, number: bool = False, mono: bool = False) -> str:
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:.3f}" if number and abs(value) <= 1 else _number(value) if number else f"{value:.6g}"
    elif isinstance(value, int):
        text = f"{value:,}"
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    kind = "number" if number else "mono" if mono or (len(text) == 64 and text.isalnum()) else ""
    return f"<td{f' class={kind}' if kind else ''}>{escape(text)}</td>"


def _number(value: float) -> str:
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"
