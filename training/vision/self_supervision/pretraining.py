"""Pretraining without labels: the body of a classifier learns from pictures alone, then the recipe goes on as
with any weights.

`freeze: true` beside it gives a linear probe, otherwise all is fine-tuned. What was learnt is also left in
the report as body.safetensors, which other specs may name as `weights`.
"""

import logging
import time
import warnings
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import nn

from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from training.data import Example, labeled_files
from training.data.limits import Limits
from training.runs.fitting import fit_until_stopped
from training.runs.run import Run
from training.vision.classification import inputs
from training.vision.classification.learner import Shuffled
from training.vision.classification.networks import Classifier
from training.vision.classification.settings import ClassifierSettings
from training.vision.records import Rows
from training.vision.self_supervision import drawing
from training.vision.self_supervision.contrastive import Contrastive, Pretraining
from training.vision.self_supervision.views import Views

BODY = "body.safetensors"


class Body(nn.Module):
    """A classifier's features: uint8 or float [B, C, H, W] of 0..255 -> float32 [B, width]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The mean over places where the head is a convolution."""
        features = self.classifier.features(images)
        return features.mean((2, 3)) if features.ndim == 4 else features


def pretrain(
    model: Classifier,
    examples: Sequence[Example],
    config: ImageInput,
    classifier: ClassifierSettings,
    run: Run,
) -> dict[str, Any]:
    """Let the body of `model` learn from `examples` and the unlabelled pictures; what is worth keeping about
    it.

    Raises CallError where there are fewer pictures than a batch, or the unlabelled ones can't be had.
    """
    settings = classifier.pretraining
    assert settings is not None
    started = time.monotonic()
    pictures = [*examples, *_unlabelled(settings, config, run)]
    if len(pictures) < settings.batch_size:
        raise CallError(
            f"pretraining has {len(pictures)} pictures and a batch of {settings.batch_size}; give more, or "
            "a smaller batch_size"
        )
    dataset = inputs.pixels(pictures, config, classifier.storage(run.findings))
    body = Body(model)
    with torch.no_grad():
        width = body.eval()(dataset.tensors[0][:2]).shape[1]
    views = Views(settings.least_part, classifier.horizontal_flip, settings.colour, ink=config.fit == "ink")
    learner = Contrastive(body, width, views, settings)
    _fit(learner.train(), dataset, settings, run)  # Lightning leaves the mode as it is
    model.cpu().train()  # as one that was just built
    run.report.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.network.state_dict().items()}, run.report / BODY
    )
    drawing.draw(
        learner.history, views(dataset.tensors[0][:8]), dataset.tensors[0][:8], run.report / "pretraining.png"
    )
    return {
        "pretraining_pictures": len(pictures),
        "pretraining_loss": learner.history[-1],
        "pretraining_seconds": round(time.monotonic() - started, 1),
    }


def _unlabelled(settings: Pretraining, config: ImageInput, run: Run) -> list[Example]:
    limits = Limits(config.max_bytes, config.max_pixels, value_range=config.value_range)
    place, hint = "pretraining.unlabelled", "in it, in folders or not"
    return labeled_files.unlabelled_of(place, settings.unlabelled, run.findings, limits, hint)


def _fit(learner: Contrastive, dataset: Rows, settings: Pretraining, run: Run) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its hints would tear the bar
    with warnings.catch_warnings(), _Bar(run) as bar:
        # the pictures are in memory already
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        # lightning 2.6 under torch 2.14
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            devices=1,
            callbacks=[bar],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        fit_until_stopped(trainer, learner, Shuffled(dataset, settings.batch_size))


class _Bar(lightning.Callback):
    """One line: the epoch and its loss."""

    def __init__(self, run: Run) -> None:
        self.progress = run.progress(
            TextColumn("pretraining"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn()
        )

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.task = self.progress.add_task("", total=int(trainer.estimated_stepping_batches), text="")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, *_: Any
    ) -> None:
        text = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: loss {float(outputs['loss']):.3f}"
        self.progress.update(self.task, advance=1, text=text)
