"""What an export's runtime.json says of the runtimes that were tried for it, for people."""

from typing import Any

from handlers.runtime.export import Export
from marina.core.spec import Spec

COLUMNS = ("runtime", "ms at 1", "ms at {batch}", "off by", "agrees", "verdict")

LEGEND = (
    "Milliseconds of processor time per call, alone and at the serving batch. Off by: the largest "
    "difference of all outputs from the "
    "trained model's. Agrees: the share of held-out instances with the same answer, which decides where "
    "bits are fewer."
)


def columns(spec: Spec) -> list[str]:
    """Headings of the table of `rows`.

    Milliseconds are of processor time, at batch 1 and at the serving batch.
    """
    return [
        name.format(batch=Export.open(spec.export_dir).runtimes.get("batch", "batch")) for name in COLUMNS
    ]


def rows(spec: Spec) -> list[tuple[str, ...]]:
    """The candidates as they were tried; none for an export without runtime.json.

    What wasn't measured is empty; the verdict is "serves", "serves where that can't", "slower", or why it may
    not serve.
    """
    runtimes = Export.open(spec.export_dir).runtimes
    listed = [(entry["runtime"], entry["precision"]) for entry in runtimes.get("serve", [])]
    serving = listed or [("torch", "fp32")]
    verdicts = {**dict.fromkeys(serving, "serves where that can't"), serving[0]: "serves"}
    return [
        _row(candidate, verdicts.get((candidate["runtime"], candidate["precision"]), "slower"))
        for candidate in runtimes.get("candidates", [])
    ]


def _row(candidate: dict[str, Any], verdict: str) -> tuple[str, ...]:
    measured = candidate["milliseconds"] > 0
    return (
        f"{candidate['runtime']} {candidate['precision']}",
        *(f"{candidate[key]:.3g}" if measured else "" for key in ("milliseconds", "milliseconds_batch")),
        f"{candidate['difference']:.1e}" if measured else "",
        "" if candidate["agreement"] is None else f"{candidate['agreement']:.3f}",
        candidate["refused"] or verdict,
    )
