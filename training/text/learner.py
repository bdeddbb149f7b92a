"""How a text classifier learns: cross-entropy of one label, binary cross-entropy of several."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from handlers.inputs.tokenization import PAD, UNKNOWN
from training.runs.fitting import FitModule
from training.text.batches import TextBatch, TokenizedTexts, logits_of
from training.text.encoders import Encoder, layer_rates
from training.text.networks import TextNetwork
from training.text.settings import Settings


class Learner(FitModule):
    """A network that learns from tokens; of the epochs the one with the best validation counts."""

    remembered: ClassVar[tuple[str, ...]] = (*FitModule.remembered, "rights")
    settings: Settings

    def __init__(
        self, model: TextNetwork, settings: Settings, train: TokenizedTexts, validation: TokenizedTexts
    ) -> None:
        super().__init__(model, settings)
        self.validation, self.has_several = validation, train.labels.is_floating_point()
        self.rights: list[float] = []
        self.weights: torch.Tensor | None
        self.register_buffer("weights", self._class_weights(train.labels))

    def training_step(self, batch: TextBatch) -> torch.Tensor:
        """One step; some tokens are unknown (Iyyer et al. 2015, section 3.2)."""
        tokens, labels = batch
        if self.settings.token_dropout and not tokens.is_floating_point():
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.settings.token_dropout
            tokens = tokens.masked_fill(dropped & (tokens != PAD), UNKNOWN)
        logits = self.model(tokens)
        loss = self.loss(logits, labels)
        self.losses.append(float(loss.detach()))
        self.rights.append(share_right(logits.detach(), labels))
        return loss

    def parameter_groups(self) -> dict[float, list[nn.Parameter]]:
        """A pretrained encoder learns slower than the head, layer by layer."""
        if not isinstance(self.model.body, Encoder):
            return super().parameter_groups()
        rates = layer_rates(self.model.body, self.settings.encoder_learning_rate, self.settings.layer_decay)
        head: Any = self.model.head
        return {**rates, self.settings.learning_rate: [*head.parameters()]}

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over the texts, and over the classes where there may be several labels."""
        if self.has_several:
            return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.weights)
        return F.cross_entropy(
            logits, labels, weight=self.weights, label_smoothing=self.settings.label_smoothing
        )

    def evaluate(self) -> dict[str, float]:
        """Loss and share of right answers, in training and on validation."""
        self.model.eval()
        device = next(self.average.parameters()).device
        logits = logits_of(self.average, self.validation, device)
        labels = self.validation.labels
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
        """Accuracy, ties by loss; the loss alone where labels are many or classes are balanced."""
        by_loss = self.has_several or self.settings.class_balance != "none"
        return (0.0 if by_loss else row["validation_accuracy"], -row["validation_loss"])

    def plateau_loss(self, row: dict[str, float]) -> float:
        """On validation."""
        return row["validation_loss"]

    def summary(self, row: dict[str, float]) -> str:
        """Loss and accuracy."""
        return f"loss {row['train_loss']:.3f}, validation accuracy {row['validation_accuracy']:.3f}"

    def best_model(self) -> TextNetwork:
        """The average of the best epoch, on the CPU, to be served."""
        model: TextNetwork = super().best_model()
        return model.requires_grad_(False)

    def _class_weights(self, labels: torch.Tensor) -> torch.Tensor | None:
        if self.settings.class_balance == "none":
            return None
        if self.has_several:
            found = labels.sum(0).clamp(min=1)
            return (len(labels) - found) / found
        present: Sequence[int] = np.unique(labels.numpy()).tolist()
        weights = compute_class_weight("balanced", classes=np.array(present), y=labels.numpy())
        return torch.from_numpy(weights).float()


def share_right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of right answers; of several labels the share of right decisions."""
    if labels.is_floating_point():
        return float(((logits > 0) == (labels > 0.5)).float().mean())
    return float((logits.argmax(1) == labels).float().mean())
