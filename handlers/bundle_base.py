"""TorchServe's BaseHandler without what it reads beside it: `openvino.torch` would bring torch's compilers, which take a worker seconds."""

import sys
from types import ModuleType

_before: dict[str, ModuleType] = {name: sys.modules[name] for name in ("openvino.torch",) if name in sys.modules}
sys.modules["openvino.torch"] = None  # type: ignore[assignment]  # an import of it fails, which BaseHandler is prepared for
try:
    from ts.torch_handler.base_handler import BaseHandler
finally:
    del sys.modules["openvino.torch"]
    sys.modules.update(_before)

__all__ = ["BaseHandler"]
