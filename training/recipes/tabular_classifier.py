"""Learns classes from the rows of a table.

The columns are fitted on the training rows, the epoch and the temperature of the logits are chosen on the
validation rows, and all metrics are measured on the test rows.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field

from marina.core.errors import CallError
from training.export.trained import Trained
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.tables.cross_validation import Pooled, cross_validate
from training.tables.exporting import samples_of, trained_from
from training.tables.learning import TARGET, ClassLoss, ClassModule
from training.tables.networks import Logits, body, outputs_of
from training.tables.preparation import PreparedTable, prepare
from training.tables.reporting import write_report
from training.tables.settings import TableSettings
from training.tensors.drawing import draw_losses
from training.tensors.learning import Rows
from training.vision.classification.calibration import CLASS_METRICS, fit_temperature, metrics_of
from training.vision.classification.drawing import draw_confusion

SURE = 0.2  # lead in probability of a golden sample's class
METRICS = (*CLASS_METRICS, "cv_accuracy")


class Settings(TableSettings):
    """The settings of this recipe."""

    target_type: ClassVar[str] = "category"

    loss: ClassLoss = Field(default="cross_entropy", description="bce needs two classes")
    top_k: int = Field(default=5, ge=1, le=1000, description="classes in an answer that asks for no number")
    report_classes: tuple[str, ...] = Field(
        default=(), description="classes whose recall and precision are metrics, too"
    )


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the least validation loss, calibrate, measure, draw the report.

    Raises CallError for data that doesn't fit the columns.
    """
    seed_everything(run.seed)
    with run.findings.reported():
        prepared = prepare(settings, run.findings, run.seed)
    learner = learn(settings, run, prepared)
    model = best_of(learner, prepared)
    test = prepared.splits["test"]
    probabilities = outputs_of(model, test.features).softmax(1)
    draw_losses(learner.history, run.report / "curves.png")
    draw_confusion(test.targets, probabilities.argmax(1), prepared.classes, run.report / "confusion.png")
    facts = write_report(model, prepared, settings.network, settings.compare, run.seed, run.report)
    listed = [prepared.classes.index(name) for name in settings.report_classes]
    return trained_from(
        "tabular_classifier",
        model,
        prepared,
        run.seed,
        metrics={
            **metrics_of(probabilities, test.targets, probabilities.argmax(1), prepared.classes, listed),
            **cross_validate(prepared.raw, settings, run, partial(fitted_model, settings), pooled_accuracy),
        },
        postprocess={"type": "classification", "top_k": settings.top_k},
        samples=samples_of(prepared.table, test, expectations(probabilities, test.targets, prepared.classes)),
        classes=list(prepared.classes),
        training={**learner.training_facts(run), **facts},
    )


def fitted_model(settings: Settings, prepared: PreparedTable, run: Run) -> tuple[torch.nn.Module, None]:
    """The best epoch, calibrated; it has no interval."""
    return best_of(learn(settings, run, prepared), prepared), None


def pooled_accuracy(pooled: Pooled) -> dict[str, float]:
    """The share of right answers."""
    outputs, truth = pooled.answers
    return {"accuracy": float((outputs.argmax(1) == truth).mean())}


def learn(settings: Settings, run: Run, prepared: PreparedTable) -> ClassModule:
    """Fit the network of the settings to the training rows. Raises CallError for classes that can't be."""
    count = len(prepared.classes)
    if settings.loss == "bce" and count != 2:
        raise CallError(f"loss: bce tells two classes apart, and the data has {count}; take cross_entropy")
    if unknown := [name for name in settings.report_classes if name not in prepared.classes]:
        raise CallError(f"report_classes: no class {unknown[0]!r}; known: {', '.join(prepared.classes[:20])}")
    training, validation = prepared.splits["train"], prepared.splits["validation"]
    inner = body(settings, prepared.table, training.features, count, run.seed)
    held_out = ((validation.features,), {TARGET: validation.targets})
    learner = ClassModule(Logits(inner), settings, held_out)
    rows = ((training.features,), {TARGET: training.targets})
    fit(learner, Rows(rows, settings.batch_size, run.seed), run, fingerprint=prepared.raw.fingerprint)
    return learner


def best_of(learner: ClassModule, prepared: PreparedTable) -> torch.nn.Module:
    """The best epoch, on the CPU in eval mode, with its temperature."""
    model: Logits = learner.best_model()
    validation = prepared.splits["validation"]
    model.temperature = fit_temperature(outputs_of(model, validation.features).clone(), validation.targets)
    return model


def expectations(
    probabilities: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]
) -> list[dict[str, Any] | None]:
    """The class of each row that is answered rightly by a clear lead."""
    best = probabilities.topk(2, 1)
    sure = (best.values[:, 0] - best.values[:, 1] > SURE) & (best.indices[:, 0] == labels)
    return [
        {"class": classes[label]} if is_sure else None
        for label, is_sure in zip(labels.tolist(), sure.tolist(), strict=True)
    ]
