"""The loop of a classifier's training: AdamW under a schedule, a running mean of the weights, the best epoch kept. Lightning carries it."""

import copy
import logging
import math
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SequentialSampler, TensorDataset, WeightedRandomSampler

from training.classification.augmentation import Augment, Mix
from training.classification.networks import Stage
from training.classification.settings import Learning

EVALUATION_BATCH = 64


class Learner(lightning.LightningModule):
    """AdamW (Loshchilov and Hutter 2019) on `model`, inputs -> logits [B, classes]; remembers the best epoch.

    Validated and kept is the running average of the weights (Polyak and Juditsky 1992), which doesn't jump from epoch to epoch:
    on a small validation split the best of many jumping epochs is a lucky one. `stages` are the body's, from the picture to the
    head, empty where the model is a head alone; frozen ones are opened from the last one on (gradual unfreezing) and learn the slower
    the further they are from the head (both Howard and Ruder 2018, sections 3.2 and 3.3).
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        settings: Learning,
        augment: Augment | None = None,
        mix: Mix | None = None,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        model.train()  # features were computed in eval mode
        self.model, self.stages, self.settings, self.augment, self.mix = model, stages, settings, augment, mix
        self.history: list[dict[str, float]] = []
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.best_epoch, self.best_state = 0, copy.deepcopy(model.state_dict())
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", class_weights)
        self._sums: dict[str, torch.Tensor] = {}

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
        opened = chosen.unfrozen_stages + (self.current_epoch // chosen.unfreeze_every if chosen.unfreeze_every else 0)
        return self.stages[: max(0, len(self.stages) - opened)]

    def on_fit_start(self) -> None:
        """Pair the weights with their means; done here, since buffers are other objects after a move to another device."""
        pairs = list(zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    def training_step(self, batch: Sequence[torch.Tensor], _: int) -> torch.Tensor:
        """One step on inputs and labels."""
        inputs, labels = batch
        inputs = self.augment(inputs) if self.augment else inputs
        if self.mix:
            inputs, labels = self.mix(inputs.float(), labels)
        return self._step("train", self.model(inputs), labels)

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the means a little towards the weights."""
        share = max(1 - self.settings.average_decay, 9 / (10 + self.global_step))  # short of history at first
        with torch.no_grad():
            torch._foreach_lerp_([mean for mean, _ in self._averaged], [now for _, now in self._averaged], share)
            for mean, now in self._copied:
                mean.copy_(now)

    def validation_step(self, batch: Sequence[torch.Tensor], _: int) -> None:
        """Measure the means."""
        self._step("validation", self.average(batch[0]), batch[1])

    def _step(self, split: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss; labels are int64 [B], or shares [B, classes] after mixing, where the largest share counts as the truth."""
        loss = F.cross_entropy(logits.float(), labels, weight=self.class_weights, label_smoothing=self.settings.label_smoothing)
        truth = labels if labels.ndim == 1 else labels.argmax(1)
        right = (logits.argmax(1) == truth).sum()
        sums = torch.stack([loss.detach() * len(labels), right, torch.tensor(len(labels), device=loss.device)])
        self._sums[split] = self._sums[split] + sums if split in self._sums else sums
        return loss

    def on_validation_epoch_end(self) -> None:
        """Ends the epoch: its training steps are done by then."""
        row: dict[str, float] = {}
        for split, (loss, right, count) in self._sums.items():
            row |= {f"{split}_loss": float(loss / count), f"{split}_accuracy": float(right / count)}
        self._sums = {}
        self.history.append(row)
        self.log("validation_loss", row["validation_loss"])  # for the plateau
        if not self.best_epoch or self._merit(row) > self._merit(self.history[self.best_epoch - 1]):
            self.best_epoch, self.best_state = len(self.history), copy.deepcopy(self.average.state_dict())
        if self.settings.patience and len(self.history) - self.best_epoch >= self.settings.patience:
            self.trainer.should_stop = True

    def _merit(self, row: dict[str, float]) -> tuple[float, float]:
        """Accuracy, ties by loss; the loss alone for a head alone and where classes are balanced.

        A head has no overfitting that only accuracy would forgive, and some dozens of pictures rank its epochs better by their loss;
        with a rare class an accuracy is high for whoever always says the common one.
        """
        by_loss = self.settings.head_alone or self.settings.balance != "none"
        return (0.0 if by_loss else row["validation_accuracy"], -row["validation_loss"])

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule of the settings."""
        settings, groups = self.settings, self._rates()
        optimizer = torch.optim.AdamW(
            [{"params": weights, "lr": rate} for rate, weights in groups.items()], weight_decay=settings.weight_decay, fused=True
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule: Any
        if settings.schedule == "one_cycle":  # Smith and Topin 2019
            rising = settings.warm_up if settings.warm_up * (steps + 1) != 1 else 1.5 / (steps + 1)  # of one step it would divide by 0
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, list(groups), total_steps=steps + 1, pct_start=rising)
        elif settings.schedule == "plateau":
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=1 / 3, patience=2)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch", "monitor": "validation_loss"}}
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(settings, step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rates(self) -> dict[float, list[nn.Parameter]]:
        """Learning rate -> what learns at it; stages that stay frozen to the end are left out."""
        settings = self.settings
        deepest = len(self.stages)
        if settings.freeze:
            last = (settings.epochs - 1) // settings.unfreeze_every if settings.unfreeze_every else 0
            deepest = settings.unfrozen_stages + last
        of_stages = {id(parameter) for stage in self.stages for parameter in stage.parameters}
        rates = {settings.learning_rate: [weight for weight in self.model.parameters() if id(weight) not in of_stages]}
        for depth, stage in enumerate(reversed(self.stages), start=1):
            if depth <= deepest:
                rates.setdefault(settings.learning_rate * settings.layer_decay**depth, []).extend(stage.parameters)
        return rates


def rate_share(settings: Learning, done: float) -> float:
    """Share of the highest rate when `done` of all steps are taken (0..1), for the schedules cosine, step and constant."""
    if settings.schedule == "step":
        return 1.0 if done < 0.6 else 0.1 if done < 0.85 else 0.01
    if settings.schedule == "constant":
        return 1.0
    if done < settings.warm_up:
        return max(done / settings.warm_up, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - settings.warm_up) / (1 - settings.warm_up))))


def fit(learner: Learner, train_set: TensorDataset, validation_set: TensorDataset, threads: int = 0) -> None:
    """Train, then put the best epoch's weights into the learner's model, on the CPU and in eval mode.

    `threads` of torch while it learns; 0 leaves them.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its hints would tear the bar
    settings = learner.settings
    reduced = settings.precision == "bfloat16" or (
        settings.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    with warnings.catch_warnings(), torch_threads(threads):
        warnings.filterwarnings("ignore", message=".*does not have many workers")  # the pictures are in memory already
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # lightning 2.6 under torch 2.14
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            devices=1,
            precision="bf16-mixed" if reduced else "32-true",
            callbacks=[_Bar()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        shuffled = batches(train_set, settings.batch_size, shuffle=True, balanced=settings.balance == "sampling")
        trainer.fit(learner, shuffled, batches(validation_set, EVALUATION_BATCH))
    learner.model.load_state_dict(learner.best_state)
    learner.model.cpu().eval().requires_grad_(False)


def batches(dataset: TensorDataset, size: int, shuffle: bool = False, balanced: bool = False) -> DataLoader[Any]:
    """Whole batches by index, all classes equally often where `balanced`.

    A rest is dropped in training: one lone picture has no batch statistics.
    """
    order: Sampler[int] = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
    if balanced:
        labels = dataset.tensors[1]
        order = WeightedRandomSampler((1 / labels.bincount())[labels].tolist(), len(dataset))
    return DataLoader(dataset, sampler=BatchSampler(order, size, drop_last=shuffle and len(dataset) > size), batch_size=None)


def balanced_weights(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Weights float32 [classes] that give every class the same share in the loss; their mean over the pictures is 1."""
    counts = labels.bincount(minlength=classes).clamp(min=1)
    return len(labels) / (classes * counts.float())


def logits_of(model: nn.Module, dataset: TensorDataset) -> torch.Tensor:
    """Float32 [N, classes]."""
    with torch.no_grad():  # not inference_mode: a temperature is fitted to them
        return torch.cat([model(inputs) for inputs, _ in batches(dataset, EVALUATION_BATCH)])


class _Bar(lightning.Callback):
    """One bar: epoch, loss and validation accuracy."""

    def __init__(self) -> None:
        columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        self.progress = Progress(*columns)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.task = self.progress.add_task("epoch", total=trainer.max_epochs, text="")
        self.progress.start()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        row = pl_module.history[-1]
        text = f"loss {row['train_loss']:.3f}  validation accuracy {row['validation_accuracy']:.3f}"
        self.progress.update(self.task, advance=1, text=text)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.progress.stop()


@contextmanager
def torch_threads(count: int) -> Any:
    """Torch with `count` threads; 0 leaves them. In a tiny network the threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
