"""How a classifier learns: its loss (cross-entropy, or binary cross-entropy of several labels), stages that
are frozen and opened, validation, balanced batches.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from training.runs import fitting
from training.runs.batches import Batches, Steps
from training.runs.fitting import FitModule
from training.runs.run import Run
from training.runs.threads import torch_threads
from training.vision.classification.augmentation import Augment, Mix, augmentation
from training.vision.classification.layouts import layout_of
from training.vision.classification.networks import Classifier, Stage
from training.vision.classification.settings import ClassifierSettings
from training.vision.records import Rows, Stream, part_of, read_ahead

EVALUATION_BATCH = 64


class Learner(FitModule):
    """A classifier that learns, inputs -> logits [B, classes]; its average is validated.

    On a small validation split the best of many jumping epochs is a lucky one, so the average matters here.
    `stages` are the body's, from the picture to the head, empty where the model is a head alone; frozen ones
    are opened from the last one on (gradual unfreezing) and learn the slower the further they are from the
    head (both Howard and Ruder 2018, sections 3.2 and 3.3).
    """

    remembered: ClassVar[tuple[str, ...]] = (*FitModule.remembered, "_sums")
    fused, extra_steps = True, 1
    settings: ClassifierSettings

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        settings: ClassifierSettings,
        augment: Augment | None = None,
        mix: Mix | None = None,
        class_weights: torch.Tensor | None = None,
        has_several: bool = False,
    ) -> None:
        super().__init__(model.train(), settings)  # features were computed in eval mode
        self.stages, self.augment, self.mix, self.has_several = stages, augment, mix, has_several
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", class_weights)
        self._sums: dict[str, torch.Tensor] = {}

    def on_train_start(self) -> None:
        """In an epoch that is gone on with, nothing else opens the stages."""
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Open the stages whose turn it is."""
        for stage in self._frozen():
            for parameter in stage.parameters:
                parameter.requires_grad_(False)
        for stage in self.stages[len(self._frozen()) :]:
            for parameter in stage.parameters:
                parameter.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> "Learner":
        """Frozen stages stay in eval mode, or their batch statistics would move."""
        super().train(mode)
        for stage in self._frozen() if mode else ():
            for module in stage.modules:
                module.eval()
        return self

    def _frozen(self) -> Sequence[Stage]:
        chosen = self.settings
        if not chosen.freeze:
            return ()
        opened = chosen.unfrozen_stages + (
            self.current_epoch // chosen.unfreeze_every if chosen.unfreeze_every else 0
        )
        return self.stages[: max(0, len(self.stages) - opened)]

    def training_step(self, batch: Sequence[torch.Tensor], _: int) -> torch.Tensor:
        """One step on inputs and labels."""
        inputs, labels = batch
        inputs = self.augment(inputs) if self.augment else inputs
        if self.mix:
            inputs, labels = self.mix(inputs.float(), labels)
        return self._step("train", self.model(inputs), labels)

    def validation_step(self, batch: Sequence[torch.Tensor], _: int) -> None:
        """Measure the means."""
        self._step("validation", self.average(batch[0]), batch[1])

    def _step(self, split: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss; labels are int64 [B], or shares [B, classes] after mixing, where the largest share
        counts as the truth; or 0 and 1 [B, classes] of several labels, where each decision counts.
        """
        loss = self.loss(logits.float(), labels)
        if (
            split == "train"
            and self.class_weights is not None
            and labels.ndim == 1
            and self.trainer.world_size > 1
        ):
            # a mean by weights over all parts is not the mean of the parts' means
            weight = self.class_weights[labels].sum()
            loss = loss * weight / self.trainer.strategy.reduce(weight.clone(), reduce_op="mean")
        right = self._right(logits, labels)
        sums = torch.stack(
            [loss.detach() * len(labels), right, torch.tensor(len(labels), device=loss.device)]
        )
        self._sums[split] = self._sums[split] + sums if split in self._sums else sums
        return loss

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over the pictures, and over the classes where there may be several labels."""
        weights = self.class_weights
        if self.has_several:
            return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=self.settings.label_smoothing)

    def _right(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """How many answers are; of several labels the share of right decisions of each picture counts."""
        if self.has_several:
            return ((logits > 0) == (labels > 0.5)).float().mean(1).sum()
        truth = labels if labels.ndim == 1 else labels.argmax(1)
        return (logits.argmax(1) == truth).sum()

    def on_validation_epoch_end(self) -> None:
        """Ends the epoch: its training steps are done by then."""
        row: dict[str, float] = {}
        for split, sums in self._sums.items():
            loss, right, count = self.trainer.strategy.reduce(sums, reduce_op="sum")  # over the processes
            row |= {f"{split}_loss": float(loss / count), f"{split}_accuracy": float(right / count)}
        self._sums = {}
        self.end_epoch(row)

    def merit(self, row: dict[str, float]) -> tuple[float, ...]:
        """Accuracy, ties by loss; the loss alone for a head alone, for several labels and where classes are
        balanced.

        A head has no overfitting that only accuracy would forgive, and some dozens of pictures rank its
        epochs better by their loss; with a rare class an accuracy is high for whoever always says the common
        one.
        """
        by_loss = self.has_several or self.settings.head_alone or self.settings.class_balance != "none"
        return (0.0 if by_loss else row["validation_accuracy"], -row["validation_loss"])

    def plateau_loss(self, row: dict[str, float]) -> float:
        """The validation's."""
        return row["validation_loss"]

    def summary(self, row: dict[str, float]) -> str:
        """Loss and accuracy."""
        return f"loss {row['train_loss']:.3f}, validation accuracy {row['validation_accuracy']:.3f}"

    def parameter_groups(self) -> dict[float, list[nn.Parameter]]:
        """ClassifierSettings rate -> what learns at it; stages that stay frozen to the end are left out."""
        settings = self.settings
        deepest = len(self.stages)
        if settings.freeze:
            last = (settings.epochs - 1) // settings.unfreeze_every if settings.unfreeze_every else 0
            deepest = settings.unfrozen_stages + last
        of_stages = {id(parameter) for stage in self.stages for parameter in stage.parameters}
        rates = {
            settings.learning_rate: [
                weight for weight in self.model.parameters() if id(weight) not in of_stages
            ]
        }
        for depth, stage in enumerate(reversed(self.stages), start=1):
            if depth <= deepest:
                rates.setdefault(settings.learning_rate * settings.layer_decay**depth, []).extend(
                    stage.parameters
                )
        return rates


def learner_of(
    settings: ClassifierSettings,
    model: Classifier,
    network: nn.Module,
    config: ImageInput | ClipInput,
    labels: torch.Tensor,
    mix: Mix | None,
    classes: int,
) -> Learner:
    """The learner that the settings ask for, of `network`: all of `model`, or its head alone; `labels` are
    those of the training split.
    """
    return Learner(
        network,
        [] if settings.head_alone else model.stages(),
        settings,
        None if settings.head_alone else augmentation(settings, config),
        mix,
        balanced_weights(labels, classes) if settings.class_balance == "weights" else None,
        has_several=labels.is_floating_point(),
    )


def fit(
    learner: Learner,
    train_set: Rows,
    validation_set: Rows,
    run: Run,
    threads: int = 0,
    fingerprint: str | None = None,
) -> None:
    """Train, then put the best epoch's weights into the learner's model, on the CPU and in eval mode.

    `threads` of torch while it learns; 0 leaves them. `fingerprint` is the data's, for the checkpoints. With
    several processes each takes its part of every batch and of the validation. Raises CallError for batches
    that have no equal parts.
    """
    settings = learner.settings
    with torch_threads(threads):
        layout = layout_of(learner.model, train_set, settings, run)
        for network in (learner.model, learner.average) if layout.channels_last else ():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fitting.fit(
            learner,
            Shuffled(train_set, settings.batch_size, balanced=settings.class_balance == "sampling"),
            run,
            batches(part_of(validation_set, run.rank, run.processes), EVALUATION_BATCH),
            fingerprint=fingerprint,
            frozen=settings.freeze,
            precision="bf16-mixed" if layout.bfloat16 else "32-true",
        )
    learner.model.load_state_dict(learner.best_state)
    learner.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    learner.model.cpu().eval().requires_grad_(False)


class Shuffled(Batches[Sequence[torch.Tensor]]):
    """Whole batches of inputs and labels, all classes equally often where `balanced`.

    A rest is dropped: one lone picture has no batch statistics.
    """

    def __init__(self, dataset: Rows, size: int, balanced: bool = False) -> None:
        super().__init__()
        self.dataset = dataset
        order: Sampler[int] = RandomSampler(dataset)
        if balanced:
            labels = dataset.tensors[1]
            order = WeightedRandomSampler((1 / labels.bincount())[labels].tolist(), len(dataset))
        self.sampler = BatchSampler(order, size, drop_last=len(dataset) > size)

    def __len__(self) -> int:
        return len(self.sampler)

    def order(self) -> Sequence[Sequence[int]]:
        """The sampler's batches."""
        # torch's own loader draws a seed too: what a seed gives stays what it was
        torch.empty((), dtype=torch.int64).random_()
        return list(self.sampler)

    def read(self, steps: Steps) -> Stream[Sequence[torch.Tensor]]:
        """Inputs and labels."""
        return read_ahead(self.dataset, steps)

    def batch(self, read: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """They are the batch."""
        return read


def batches(dataset: Rows, size: int) -> DataLoader[Any]:
    """Whole batches by index, in order."""
    return DataLoader(
        dataset, sampler=BatchSampler(SequentialSampler(dataset), size, drop_last=False), batch_size=None
    )


def balanced_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Weights float32 [classes] that give every class the same share in the loss; their mean over the
    pictures is 1. Of several labels, 0 and 1 [N, classes], what makes having and lacking one count the same.
    """
    if labels.is_floating_point():
        having = labels.sum(0).clamp(min=1)
        return (len(labels) - having) / having
    counts = labels.bincount(minlength=classes).clamp(min=1)
    return len(labels) / (classes * counts.float())


def logits_of(model: nn.Module, dataset: Rows) -> torch.Tensor:
    """Float32 [N, classes]."""
    with torch.no_grad():  # not inference_mode: a temperature is fitted to them
        return torch.cat([model(inputs) for inputs, _ in batches(dataset, EVALUATION_BATCH)])
