"""A worker of TorchServe that reads torch when a model needs it, not before: worker.py HANDLERS .../ts/model_service_worker.py [OPTION ...]

TorchServe's worker imports torch for a type that its reader of messages may give; that costs two seconds of processor time and half a
gigabyte, and a model in a compiled form needs nothing of it. While that module is read, a stand-in takes torch's place. Handlers of
other archives import torch as ever. HANDLERS is the folder handlers/.
"""

import importlib
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    handlers, script, *options = sys.argv[1:]
    sys.path.insert(0, handlers)
    without = importlib.import_module("bundle_imports").without
    del sys.modules["bundle_imports"], sys.path[0]  # an archive brings its own
    with without(later=("torch",)):
        importlib.import_module("ts.protocol.otf_message_handler")
    sys.argv = [script, *options]
    sys.path[0] = str(Path(script).parent)  # as if Python had been called with it
    runpy.run_path(script, run_name="__main__")
