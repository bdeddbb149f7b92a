"""TorchServe's BaseHandler without what its module reads beside it.

That is torch itself, unless the process has it already, torch's compilers (`openvino.torch`) and ONNX Runtime: together seconds of a
worker's start and half a gigabyte, for nothing that a compiled form needs. What of BaseHandler asks for torch later gets it then.
"""

import logging

from bundle_imports import without

_told = logging.getLogger("ts.torch_handler.base_handler")  # it warns of all that it isn't given
_told.disabled = True
with without("openvino", "openvino.torch", "onnxruntime", "torch_tensorrt", "torch_xla.core.xla_model", later=("torch",)):
    from ts.torch_handler.base_handler import BaseHandler
_told.disabled = False

__all__ = ["BaseHandler"]
