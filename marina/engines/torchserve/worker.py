"""A worker of TorchServe that imports torch when a model needs it, not before.

    worker.py .../ts/model_service_worker.py [OPTION ...]

TorchServe's worker imports torch for a type annotation of its message reader. That costs two seconds of CPU
time and half a gigabyte, and a compiled model doesn't need it. A stub takes torch's place while that module
is imported; handlers that import torch get the real one.
"""

import importlib
import runpy
import sys
from pathlib import Path

from handlers.runtime.lazy_imports import without

if __name__ == "__main__":
    script, *options = sys.argv[1:]
    with without(later=("torch",)):
        importlib.import_module("ts.protocol.otf_message_handler")
    sys.argv = [script, *options]
    sys.path[0] = str(Path(script).parent)  # as if Python had been called with it
    runpy.run_path(script, run_name="__main__")
