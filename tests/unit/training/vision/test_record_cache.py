"""The files of prepared records, where another program has locked one."""

import fcntl
import logging
from pathlib import Path

import pytest
import torch

from training.vision import record_cache
from training.vision.record_cache import RecordCache


def test_a_locked_file_costs_time_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is read from it or kept in it, and that is said."""
    monkeypatch.setattr(record_cache, "LOCK_SECONDS", 0.2)
    before = RecordCache("pictures", ["key"], 1, 1000, 10_000_000)
    path = before.path
    del before

    with path.open("rb") as file, caplog.at_level(logging.WARNING, "marina"):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cache = RecordCache("pictures", ["key"], 1, 1000, 10_000_000)
        cache.put(0, {"image": torch.zeros(4)})

    assert cache.get(0) is None
    (said,) = [record.getMessage() for record in caplog.records]
    assert "is not kept in" in said
    assert "another program has had a lock on it for 0.2 s; end that one" in said
