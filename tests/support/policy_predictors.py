"""The predictor of a policy that was just trained, without an export."""

import json
from pathlib import Path

from handlers.kinds.policy import PolicyPredictor
from handlers.runtime.export import Export
from handlers.runtime.runtimes import TorchRuntime
from training.export.trained import Trained


def policy_predictor(trained: Trained, folder: Path) -> PolicyPredictor:
    """The handler that answers for it."""
    for name, content in (("preprocess", trained.preprocess), ("postprocess", trained.postprocess)):
        (folder / f"{name}_config.json").write_text(json.dumps(content))
    metadata = {"name": "policy", "version": "1.0", "kind": "policy", "max_batch": 64}
    (folder / "model_metadata.json").write_text(json.dumps(metadata))
    handler = PolicyPredictor()
    handler.configure(Export.open(folder))
    handler.model = TorchRuntime(trained.module)
    return handler
