"""A project's marina.yaml: its keys, and the errors for one that can't be read."""

from pathlib import Path

import pytest

from marina import engines
from marina.core.configuration import FILE, read_configuration
from marina.core.errors import CallError


def test_without_a_file_torchserve_serves(tmp_path: Path) -> None:
    assert read_configuration(tmp_path).engine == "torchserve"
    assert engines.get(home=tmp_path).name == "torchserve"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"engine: turbine", "no engine 'turbine'; choose one of: torchserve"),
        (b"motor: torchserve", "unknown key 'motor'; known here: engine"),
        (b"- torchserve", "must be keys with values"),
        (b"tracking: {mlflow: {alias: latest}}", "'latest' is a tracker's own"),
        (b"tracking: {wandb: {mode: later}}", "tracking.wandb.mode"),
        (b"tracking: {tensorboard: {}}", "unknown key 'tracking.tensorboard'; known here: mlflow, wandb"),
        (b"engine: [", "is not YAML"),
        (b"\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / FILE).write_bytes(content)

    with pytest.raises(CallError, match=message):
        engines.get(home=tmp_path)
