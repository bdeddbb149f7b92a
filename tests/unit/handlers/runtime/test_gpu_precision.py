"""In which precision a GPU computes. The device is "cpu:0": for torch it is the CPU, for Marina it is another
device than the one that compiled forms are for.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from handlers.kinds import predictor_of
from handlers.protocol.errors import BrokenArchive
from handlers.runtime.checksums import write_checksums
from handlers.runtime.runtimes import TorchRuntime
from marina.core.errors import CallError
from marina.core.spec import Spec

DEVICE = "cpu:0"


def measured_in(one: Spec, *precisions: str) -> None:
    """Let an export say that forms of these precisions answered like the trained model."""
    path = one.export_dir / "runtime.json"
    content = json.loads(path.read_text())
    entries = [{"runtime": "openvino", "precision": each, "file": "openvino.xml"} for each in precisions]
    path.write_text(json.dumps({**content, "serve": entries}))
    write_checksums(one.export_dir)


def loaded(one: Spec, precision: str = "auto") -> Any:
    predictor = predictor_of(one.kind)
    predictor.device = DEVICE
    predictor.load(one.export_dir, {"handler": {"precision": precision}})
    return predictor


@pytest.mark.parametrize(
    ("measured", "asked", "taken"),
    [
        (("bf16", "fp32"), "auto", "bf16"),
        (("fp32",), "auto", "fp32"),
        (("fp32",), "bfloat16", "bf16"),
        (("bf16",), "float32", "fp32"),
    ],
)
def test_it_is_what_the_export_was_measured_in_or_what_was_asked(
    exported: Callable[..., Spec], measured: tuple[str, ...], asked: str, taken: str
) -> None:
    one = exported()
    measured_in(one, *measured)

    assert loaded(one, asked).model.precision == taken


def test_bfloat16_is_near_the_program_and_not_the_same(exported: Callable[..., Spec]) -> None:
    path = exported().export_dir / "model.pt2"
    batch = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)

    exact, mixed = (TorchRuntime.load(path, DEVICE, precision)(batch) for precision in ("fp32", "bf16"))

    different = False
    for name, values in exact.items():
        assert mixed[name].dtype == values.dtype
        np.testing.assert_allclose(mixed[name], values, rtol=0.05, atol=0.05)
        different |= not np.array_equal(mixed[name], values)
    assert different


def test_the_program_serves_where_bfloat16_answers_differently(
    exported: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = exported()
    predictor = predictor_of(one.kind)
    predictor.device = DEVICE
    check = predictor.check_golden

    def check_golden() -> int:
        if predictor.model.precision == "bf16":
            raise BrokenArchive("golden sample 'step-0' is answered differently")
        return int(check())

    monkeypatch.setattr(predictor, "check_golden", check_golden)
    predictor.load(one.export_dir, {"handler": {"precision": "bfloat16"}})

    assert predictor.model.precision == "fp32"
    assert "torch bf16 is not taken, the next is: golden sample 'step-0'" in caplog.text


def test_a_precision_needs_a_gpu(exported: Callable[..., Spec]) -> None:
    with pytest.raises(CallError, match=r"precision bfloat16 has no effect on the cpu.*write device: gpu"):
        exported(more="serving: {precision: bfloat16}\n")
    serving = exported(more="serving: {device: gpu, precision: bfloat16}\n").serving

    assert serving.model_config_yaml()["handler"]["precision"] == "bfloat16"
