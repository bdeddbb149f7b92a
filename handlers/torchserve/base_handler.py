"""TorchServe's BaseHandler without what its module reads beside it.

That is torch itself, unless the process has it already, torch's compilers (`openvino.torch`) and ONNX
Runtime: together they cost seconds of a worker's start and half a gigabyte, and a compiled form needs none
of them. Code of BaseHandler that uses torch imports it on first use.
"""

import logging

from ..runtime.lazy_imports import without

_told = logging.getLogger("ts.torch_handler.base_handler")  # it warns of all that it isn't given
_told.disabled = True
with without(
    "openvino",
    "openvino.torch",
    "onnxruntime",
    "torch_tensorrt",
    "torch_xla.core.xla_model",
    later=("torch",),
):
    from ts.torch_handler.base_handler import BaseHandler
_told.disabled = False

__all__ = ["BaseHandler"]
