"""How networks learn classes: losses and shares of right answers by epoch, the best one by validation."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn.functional import cross_entropy

from training.runs.fitting import FitModule

ABOUT_OPERATING_POINT = (
    "{class: NAME, recall: 0.97}: answer NAME from that probability on which finds this share on validation"
)


def _check_operating_point(point: dict[str, Any] | None) -> dict[str, Any] | None:
    recall = point.get("recall") if point else 1
    is_share = isinstance(recall, float | int) and 0 < recall <= 1
    if point is not None and not (isinstance(point.get("class"), str) and is_share):
        raise ValueError("write the class and the share of it to find, like {class: NAME, recall: 0.97}")
    return point


OperatingPoint = Annotated[
    dict[Literal["class", "recall"], str | float] | None,
    AfterValidator(_check_operating_point),
    Field(description=ABOUT_OPERATING_POINT),
]


class ClassModule(FitModule):
    """A network that gives logits; a subclass says the loss, and the logits and labels of validation."""

    remembered: ClassVar[tuple[str, ...]] = (*FitModule.remembered, "rights")

    def __init__(self, model: nn.Module, settings: Any) -> None:
        super().__init__(model, settings)
        self.rights: list[float] = []

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over a batch."""
        raise NotImplementedError

    def validated(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the average and labels of the validation split, on the CPU."""
        raise NotImplementedError

    def learn_from(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of a step, noted with its share of right answers."""
        loss = self.loss(logits, labels)
        self.losses.append(float(loss.detach()))
        self.rights.append(share_right(logits.detach(), labels))
        return loss

    def evaluate(self) -> dict[str, float]:
        """Loss and share of right answers, in training and on validation."""
        self.model.eval()
        device = next(self.average.parameters()).device
        logits, labels = self.validated(device)
        loss = float(self.loss(logits.to(device), labels.to(device)))
        self.model.train()
        row = {
            "train_loss": float(np.mean(self.losses)),
            "train_accuracy": float(np.mean(self.rights)),
            "validation_loss": loss,
            "validation_accuracy": share_right(logits, labels),
        }
        self.rights.clear()
        return row

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """Accuracy, ties by loss."""
        return (row["validation_accuracy"], -row["validation_loss"])

    def plateau_loss(self, row: dict[str, float]) -> float:
        """On validation."""
        return row["validation_loss"]

    def summary(self, row: dict[str, float]) -> str:
        """Loss and accuracy."""
        return f"loss {row['train_loss']:.3f}, validation accuracy {row['validation_accuracy']:.3f}"

    def best_model(self) -> Any:
        """The average of the best epoch, on the CPU, to be served."""
        return super().best_model().requires_grad_(False)


class BalancedClassModule(ClassModule):
    """A network of one label per example, whose settings say `class_balance` and `label_smoothing`; `labels`
    int64 [N] are those of training, and `validation` chooses the epoch.
    """

    def __init__(self, model: nn.Module, settings: Any, labels: torch.Tensor, validation: Any) -> None:
        super().__init__(model, settings)
        self.validation = validation
        self.weights: torch.Tensor | None
        self.is_balanced = settings.class_balance != "none"
        self.register_buffer("weights", _class_weights(labels) if self.is_balanced else None)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over a batch."""
        smoothing = self.settings.label_smoothing  # type: ignore[attr-defined]
        return cross_entropy(logits, labels, weight=self.weights, label_smoothing=smoothing)

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """Accuracy, ties by loss; the loss alone where classes are balanced."""
        accuracy, loss = super().merit(row)
        return (0.0 if self.is_balanced else accuracy, loss)


def logits_by_length(model: nn.Module, split: Any, size: int, device: torch.device | str) -> torch.Tensor:
    """Of all rows of a split with `lengths` and `batch`, whose last part are labels: float32 [N, classes] on
    the CPU, computed in batches of `size` of about one length.
    """
    order = np.argsort(split.lengths, kind="stable")
    parts = []
    with torch.no_grad():  # not inference_mode: a temperature is fitted to them
        for start in range(0, len(order), size):
            *inputs, _ = split.batch(order[start : start + size].tolist())
            parts.append(model(*(one.to(device) for one in inputs)).float().cpu())
    logits = torch.empty_like(by_length := torch.cat(parts))
    logits[torch.from_numpy(order)] = by_length
    return logits


def _class_weights(labels: torch.Tensor) -> torch.Tensor:
    """Float32 [classes]: rare ones count more."""
    weights = compute_class_weight("balanced", classes=np.unique(labels.numpy()), y=labels.numpy())
    return torch.from_numpy(weights).float()


def share_right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of right answers; of several labels the share of right decisions."""
    if labels.is_floating_point():
        return float(((logits > 0) == (labels > 0.5)).float().mean())
    return float((logits.argmax(1) == labels).float().mean())
