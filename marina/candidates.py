"""What an export's runtime.json says of the runtimes that were tried for it, for people."""

import json
from pathlib import Path
from typing import Any

from marina.spec import Spec

COLUMNS = ("runtime", "ms at 1", "ms at {batch}", "off by", "agrees", "verdict")

LEGEND = (
    "Milliseconds of processor time per call, alone and at the serving batch. Off by: the largest difference of all outputs from the "
    "trained model's. Agrees: the share of held-out instances with the same answer, which decides where bits are fewer."
)


def columns(spec: Spec) -> list[str]:
    """Heads of the table of `rows`; milliseconds are of processor time, at batch 1 and at the serving batch."""
    return [name.format(batch=_said(spec.export_dir).get("batch", "batch")) for name in COLUMNS]


def rows(spec: Spec) -> list[tuple[str, ...]]:
    """The candidates as they were tried; none for an export without runtime.json.

    What wasn't measured is empty; the verdict is "serves", "serves where that can't", "slower", or why it may not serve.
    """
    said = _said(spec.export_dir)
    serving = [(one["runtime"], one["precision"]) for one in said.get("serve", [])] or [("torch", "fp32")]
    verdicts = {**dict.fromkeys(serving, "serves where that can't"), serving[0]: "serves"}
    return [_row(one, verdicts.get((one["runtime"], one["precision"]), "slower")) for one in said.get("candidates", [])]


def _row(one: dict[str, Any], verdict: str) -> tuple[str, ...]:
    measured = one["milliseconds"] > 0
    return (
        f"{one['runtime']} {one['precision']}",
        *(f"{one[key]:.3g}" if measured else "" for key in ("milliseconds", "milliseconds_batch")),
        f"{one['difference']:.1e}" if measured else "",
        "" if one["agreement"] is None else f"{one['agreement']:.3f}",
        one["refused"] or verdict,
    )


def _said(folder: Path) -> dict[str, Any]:
    path = folder / "runtime.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
