"""ONNX's form of a graph, for ONNX Runtime: in float32, or with eight-bit layers that were calibrated on
training data.
"""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from training.export.runtimes.candidates import Builder, Entry, ExportInputs

FILE, INT8_FILE = "onnxruntime.onnx", "onnxruntime-int8.onnx"


def build(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Write the .onnx."""
    # from 1.29 on it tells its makers; read when it is first imported
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not (folder / FILE).exists():
        _converted(export_inputs, folder / FILE)
    if precision == "int8":
        _quantised(export_inputs, folder / FILE, folder / INT8_FILE)
    return {
        "runtime": "onnxruntime",
        "precision": precision,
        "file": INT8_FILE if precision == "int8" else FILE,
    }


BUILDER = Builder(build, dict.fromkeys(("fp32", "int8"), ("onnx", "onnxscript", "onnxruntime")), "onnx")


def _converted(export_inputs: ExportInputs, path: Path) -> None:
    if export_inputs.onnx:
        shutil.copy(export_inputs.onnx, path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own affairs with torch
        made = torch.onnx.export(export_inputs.torch_program, dynamo=True, verbose=False)
    assert made is not None
    made.save(path)


def _quantised(export_inputs: ExportInputs, source: Path, path: Path) -> None:
    """Static quantisation: weights per channel, the ranges of the activations measured on training data."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [one.name for one in onnx.load(source).graph.input]
    instances = iter(export_inputs.calibration())

    class Instances(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def get_next(self) -> dict[str, Any] | None:
            """The next instance, None after the last."""
            parts = next(instances, None)
            return None if parts is None else dict(zip(names, parts, strict=True))

    folded = path.with_name("onnxruntime-folded.onnx")
    quant_pre_process(source, folded, skip_symbolic_shape=True)
    quantize_static(
        folded,
        path,
        Instances(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
