"""Marina carries a PyTorch model from its data to a released endpoint on TorchServe.

The folder `handlers/` is no package: its files lie flat at the root of every archive and import each other by flat
name. It is put on the path here, so that the tool, the training and the tests import the very modules that serve.
TorchServe's workers never import `marina`, so that a worker only ever sees the handlers of its own archive.
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

HANDLERS = Path(__file__).resolve().parent.parent / "handlers"

if str(HANDLERS) not in sys.path:
    sys.path.append(str(HANDLERS))
