"""What the recipes for rows of a table do after they learned: golden requests, and their `Trained`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from handlers.inputs.tables import Table
from training.export.trained import HELD_OUT, Sample, Trained
from training.tables.preparation import Examples, PreparedTable

EXAMPLE_ROWS = 4


def samples_of(
    table: Table, examples: Examples, expectations: Sequence[Mapping[str, Any] | None]
) -> list[Sample]:
    """A request per row, with what is expected of its answer; rows with None for it are left out."""
    return [
        Sample(
            f"test-{row}",
            json.dumps(table.sent(examples.values[row])).encode(),
            "application/json",
            dict(expected),
        )
        for row, expected in enumerate(expectations)
        if expected is not None
    ]


def trained_from(kind: str, module: nn.Module, prepared: PreparedTable, seed: int, **more: Any) -> Trained:
    """The contract with the export: `more` are metrics, postprocess, samples, training and so on."""
    train = prepared.splits["train"].features
    example = train[torch.arange(EXAMPLE_ROWS) % len(train)]
    return Trained(
        kind=kind,
        module=module,
        example=(example,),
        validation=(prepared.splits["validation"].features[:HELD_OUT],),
        preprocess=prepared.table.as_config(),
        data={**prepared.facts(), "splits": f"as the data has them, or drawn with seed {seed}"},
        **more,
    )
