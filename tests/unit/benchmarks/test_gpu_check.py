"""`make gpu-check`: without a GPU it says so, and each of its parts runs on the CPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import data_loading, gpu_check, gpu_parts
from benchmarks.gpu_parts import Budget, Row
from marina.core.spec import Spec

SMALL = Budget(
    seconds=0.3,
    batches=(1, 2),
    served="resnet18",
    trained="mobilenet_v3_small",
    size=64,
    pictures=100,
    batch=8,
    policy_steps=200,
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_it_would_do_and_what_to_bring(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=200)

    gpu_check.explain(gpu_check.missing(), console)

    told = capsys.readouterr().out
    assert told.startswith("not run: ")
    assert all(name in told for name, _ in gpu_check.PARTS)
    assert f"torch=={torch.__version__.partition('+')[0]}" in told


@pytest.mark.parametrize("part", [gpu_parts.copies, gpu_parts.decoding])
def test_a_part_measures_on_the_cpu(part: Callable[..., list[Row]], tmp_path: Path) -> None:
    rows = part("cpu", SMALL, tmp_path)

    assert rows
    assert all(row.figure is not None and row.figure >= 0 and not row.failed for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("part", [gpu_parts.serving, gpu_parts.training, gpu_parts.policy])
def test_a_long_part_measures_on_the_cpu(
    part: Callable[..., list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_loading, "MEASURED", data_loading.CLASSES)
    rows = part("cpu", SMALL, tmp_path)

    assert len(rows) == (2 if part is gpu_parts.serving else 1)
    assert all(row.ratio is not None and 0.05 < row.ratio < 20 for row in rows)


def test_samples_are_compared_where_there_is_an_export(exported: Callable[..., Spec], tmp_path: Path) -> None:
    models = exported("balance").home / "models"
    (models / "missing.yaml").write_bytes((models / "balance.yaml").read_bytes())

    answered, absent = gpu_parts.parity("cpu", Budget(models=("balance", "missing")), tmp_path)

    assert (answered.note, answered.unit) == ("alike, in fp32", "answers")
    assert answered.figure is not None
    assert answered.figure >= 1
    assert absent.note == "not run: no export; marina train missing"


def test_a_part_that_fails_is_a_row_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[Row]:
        raise RuntimeError("out of memory")

    parts = (("one", broken), ("two", lambda *_: [Row("two", 9.0, "pictures/s", 10.0, "loop:", goal=0.8)]))
    monkeypatch.setattr(gpu_check, "PARTS", parts)

    failed, met = gpu_check.run("cpu", SMALL, Console(quiet=True))

    assert failed.failed
    assert failed.note == "failed: RuntimeError: out of memory"
    assert met.cells() == ("two", "9.0 pictures/s", "loop: 10.0", "0.90", "0.8", "met")
    assert Row("three", 7.0, "pictures/s", 10.0, "loop:", goal=0.8).failed
