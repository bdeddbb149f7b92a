"""Loads an unpacked archive as TorchServe's worker does, and prints its golden answers as JSON.

Run by path, in any Python that has torchserve, with nothing of this repository on its path: python
stock_load.py FOLDER
"""

import importlib
import json
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def load(folder: Path) -> dict[str, Any]:
    """Answers and golden answers of the archive in `folder`, and what its handler imported."""
    sys.path = [str(folder), *sys.path[1:]]  # in the place of this file's folder
    from ts.context import RequestProcessor
    from ts.model_loader import ModelLoaderFactory

    model = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
    handler = model["handler"].removesuffix(".py")
    importlib.import_module(handler)  # by itself first: TorchServe's loader hides why an import fails
    service = ModelLoaderFactory.get_model_loader().load(
        model["modelName"], str(folder), model["handler"], None, 4, None, True, None
    )
    samples = json.loads((folder / "samples" / "samples.json").read_text(encoding="utf-8"))
    context = service.context
    context.request_ids = {index: str(index) for index in range(len(samples))}
    context.request_processor = [RequestProcessor({}) for _ in samples]
    bodies = service._entry_point(
        [{"body": (folder / "samples" / one["file"]).read_bytes()} for one in samples], context
    )
    return {
        "answers": [json.loads(body) for body in bodies],
        "golden": [one["answer"] for one in samples],
        "modules": {
            name: module.__file__
            for name, module in sys.modules.items()
            if name.startswith("handlers_") or name == handler
        },
        "foreign": [name for name in ("marina", "training", "handlers") if name in sys.modules],
        "packages": sorted({package.name for package in distributions()}),
    }


if __name__ == "__main__":
    print(json.dumps(load(Path(sys.argv[1]))))
