"""OpenVINO's form of a graph: one file for float32 and bfloat16, another with eight-bit layers, calibrated on
training data.

Neither OpenVINO's converter nor NNCF is let tell its makers that it is used.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch.export import ExportedProgram

from handlers.runtime.lazy_imports import without
from handlers.runtime.runtimes import openvino_core
from training.export.runtimes.candidates import Builder, Entry, ExportInputs

FILE, INT8_FILE = "openvino.xml", "openvino-int8.xml"


def build(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Write the .xml and the .bin beside it."""
    if not (folder / FILE).exists():
        if export_inputs.onnx:
            read_onnx(export_inputs.onnx, folder / FILE)
        else:
            converted(export_inputs.torch_program, folder / FILE)
    if precision == "int8":
        _quantised(export_inputs, folder / FILE, folder / INT8_FILE)
    return {"runtime": "openvino", "precision": precision, "file": INT8_FILE if precision == "int8" else FILE}


BUILDER = Builder(build, {"fp32": (), "bf16": (), "int8": ("nncf",)}, "int8", ({"one_by_one": True},))


def converted(program: ExportedProgram, path: Path) -> None:
    """Write OpenVINO's form of `program` to `path` (.xml, and .bin beside it).

    Its own converter isn't called, because that would tell its makers; these are its steps.
    """
    import openvino  # half a second, for exports alone
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    inputs = [
        node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    ]
    with _silent():  # of decompositions that this torch doesn't have
        decoder = TorchFXPythonDecoder.from_exported_program(program)  # the frontend keeps no reference to it
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    if len(model.inputs) != len(inputs):
        raise ValueError(f"{len(model.inputs)} of {len(inputs)} inputs are left")
    for place, given in zip(model.inputs, inputs, strict=True):
        numpy_type = torch.empty(0, dtype=given.dtype).numpy().dtype
        place.get_node().set_element_type(openvino.Type(numpy_type))
    model.reshape(
        {
            place: openvino.PartialShape([-1, *map(_size, given.shape[1:])])
            for place, given in zip(model.inputs, inputs, strict=True)
        }
    )
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, path, compress_to_fp16=False)


def read_onnx(source: Path, path: Path) -> None:
    """Write OpenVINO's form of the ONNX graph `source` to `path`."""
    import openvino

    openvino.save_model(openvino_core().read_model(source), path, compress_to_fp16=False)


def _size(size: int | torch.SymInt) -> int:
    """A dimension's size as OpenVINO has it: -1 for one that isn't fixed."""
    return size if isinstance(size, int) else -1


def _quantised(export_inputs: ExportInputs, source: Path, path: Path) -> None:
    """Write the model of `source` with eight-bit convolutions and products, as far as NNCF finds them fit.

    Post-training quantisation: ranges of the activations are measured on training data, and the shift of each
    layer's mean that rounding causes is taken back (Nagel et al. 2019, Data-free quantization through weight
    equalization and bias correction, section 4.2).
    """
    inputs = export_inputs.calibration()
    with without("openvino_telemetry"), _silent():  # of a GPU that torch's compilers look for
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    import openvino
    from openvino._offline_transformations import apply_moc_transformations

    model = openvino_core().read_model(source)
    # normalisation becomes a part of convolutions; else it stands between them in float32
    apply_moc_transformations(model, False)
    nncf.set_log_level(logging.ERROR)
    one = len(inputs[0]) == 1
    data = nncf.Dataset([parts[0] if one else parts for parts in inputs])
    # all that was seen: a mean of extremes, as is usual, was further off for each model tried
    whole = RangeEstimatorParametersSet.MINMAX
    settings = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=whole)
    with _silent(), redirect_stdout(sys.stderr):  # its progress
        # layer by layer, on what the eight-bit layers before give; the fast way takes what float32 gave, and
        # changed more answers
        made = nncf.quantize(
            model, data, subset_size=len(inputs), fast_bias_correction=False, advanced_parameters=settings
        )
    openvino.save_model(made, path, compress_to_fp16=False)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warnings of tools about their own affairs with torch."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
