"""Short trainings of the picture recipes, to be killed and resumed."""

from pathlib import Path
from typing import Any

import torch

from training.recipes import classifier, detector, segmenter
from training.runs.run import Run
from training.vision.classification.learner import Learner

RECIPES = {"classifier": classifier, "detector": detector, "segmenter": segmenter}
LEARNERS = {"classifier": Learner, "detector": detector.Learner, "segmenter": segmenter.Learner}
SIDE = 64


def settings_of(recipe: str, folder: Path) -> dict[str, Any]:
    if recipe == "classifier":
        return {
            "data": str(folder / "classes"),
            "image_size": 32,
            "epochs": 3,
            "batch_size": 4,
            "schedule": "plateau",
            "mixup": True,
            "cutmix": True,
        }
    more = {"ema_decay": 0.5, "augmentation": "ssd" if recipe == "detector" else "light"}
    return {
        "data": str(folder),
        "height": SIDE,
        "width": SIDE,
        "epochs": 3,
        "batch_size": 4,
        "horizontal_flip": True,
        **more,
    }


def run(recipe: str, folder: Path, kept: Path | None, report: Path) -> dict[str, torch.Tensor]:
    """The weights after a training that keeps a checkpoint before every step."""
    report.mkdir(exist_ok=True)
    module = RECIPES[recipe]
    run = Run(report, seed=1, checkpoints=kept, checkpoint_seconds=0)
    return module.train(module.Settings(**settings_of(recipe, folder)), run).module.state_dict()
