"""Supervised image classification: a small CNN or any of torchvision's, from scratch, fine-tuned, or with a new head alone.

Pictures are brought to the graph's input once, by the transform that serves (`bundle_images.prepare`), and lie in memory as
one uint8 tensor of pictures x channels x height x width bytes: 1.5 GB for ten thousand RGB pictures of 224. Above
MAX_BYTES the call is refused. Augmentation works on those tensors, so it never sees more than the server does.
"""

import copy
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as measures
from PIL import Image
from pydantic import Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset
from torchvision.transforms import v2

from marina.errors import CallError
from marina.spec import Section
from training import classifier_report, datasets, networks
from training.trained import Sample, Trained

from bundle_images import ImageInput, open_image, prepare
from bundle_ink import CELLS

MAX_BYTES = 4 << 30
EVALUATION_BATCH = 64
AVERAGE_DECAY = 0.98  # per step

Augment = Callable[[torch.Tensor], torch.Tensor]


class Settings(Section):
    """What a spec may say under `training`."""

    data: str = Field(default="digits", description="the built-in set 'digits', or a folder of pictures")
    architecture: str = Field(default="small_cnn", description="small_cnn, or a classification model of torchvision by name")
    weights: str = Field(default="none", description="none, DEFAULT, IMAGENET1K_V1 …, or a file .pth or .safetensors")
    freeze: bool = Field(default=False, description="train the new head only; needs weights")
    image_size: int | None = Field(
        default=None, ge=8, le=1024, description="side of the graph's input, pixels; default: the architecture's"
    )
    fit: Literal["stretch", "crop", "letterbox", "ink"] | None = Field(
        default=None, description="how a picture is brought to that size; default: ink for 'digits', else crop"
    )
    mode: Literal["RGB", "L"] | None = Field(default=None, description="colour or grey; default: grey for fit ink, else colour")
    augmentation: Literal["none", "light"] = Field(default="light", description="light varies shape and light, or strokes under fit ink")
    mirror: bool = Field(default=True, description="light augmentation mirrors pictures; false where left and right differ, as in letters")
    epochs: int = Field(default=20, ge=1, le=1000, description="times that all training pictures are seen")
    batch_size: int = Field(default=64, ge=2, le=1024, description="pictures per step")
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="highest of the one-cycle schedule")
    weight_decay: float = Field(default=1e-2, ge=0, le=1, description="AdamW's")
    label_smoothing: float = Field(default=0.05, ge=0, lt=1, description="share of the target spread over all classes")


def train(settings: Settings, seed: int, report: Path) -> Trained:
    """Learn, keep the epoch of highest validation accuracy (ties: lower loss), measure it on the test split.

    Metrics: accuracy, macro_f1, and auroc (macro, one class against the rest) where every class is in the test split.
    Raises CallError for settings or data that can't be used.
    """
    started = time.monotonic()
    lightning.seed_everything(seed, verbose=False)
    if settings.freeze and settings.weights == "none":
        raise CallError("freeze trains the new head only, so it needs 'weights': DEFAULT, or the path of a file")
    fit = settings.fit or ("ink" if settings.data == "digits" else "crop")
    mode = settings.mode or ("L" if fit == "ink" else "RGB")
    preset = networks.preset_of(settings.architecture, settings.weights, settings.image_size or (2 * CELLS if fit == "ink" else None))
    data = datasets.load(settings.data, "classifier", seed)
    classes = list(data.classes)
    model = networks.build(settings.architecture, settings.weights, len(classes), 1 if mode == "L" else 3, preset)
    config = ImageInput(
        preset.crop, preset.crop, mode=mode, fit=fit, resize=preset.resize if fit == "crop" else 0, interpolation=preset.interpolation
    )
    train_set, validation_set, test_set = (_tensors(part, config) for part in (data.train, data.validation, data.test))

    learner = _Learner(model, settings, _augmentation(settings, config))
    with _threads(1 if settings.architecture == networks.SMALL_CNN else 0):
        _fit(learner, train_set, validation_set, settings)

    probabilities = _probabilities(model, test_set)
    images, labels = test_set.tensors
    report.mkdir(parents=True, exist_ok=True)
    classifier_report.draw_curves(learner.history, learner.best_epoch, report / "curves.png")
    classifier_report.draw_confusion(labels, probabilities.argmax(1), classes, report / "confusion.png")
    classifier_report.draw_mistakes(images, labels, probabilities, classes, report / "mistakes.png")
    return Trained(
        kind="classifier",
        module=model,
        example=(train_set.tensors[0][:8],),
        metrics=_measured(probabilities, labels),
        preprocess=config.as_config(),
        postprocess={"type": "classification", "top_k": min(5, len(classes))},
        samples=_samples(data, probabilities, labels),
        data=data.about(),
        classes=classes,
        training={
            "epochs": settings.epochs,
            "best_epoch": learner.best_epoch,
            "validation_accuracy": learner.history[learner.best_epoch - 1]["validation_accuracy"],
            "seconds": round(time.monotonic() - started, 1),
        },
    )


class _Learner(lightning.LightningModule):
    """AdamW (Loshchilov and Hutter 2019) under a one-cycle schedule (Smith and Topin 2019); remembers the best epoch.

    Validated and kept is the running average of the weights (Polyak and Juditsky 1992), which doesn't jump from epoch to epoch:
    on a small validation split the best of many jumping epochs is a lucky one.
    """

    def __init__(self, model: networks.Classifier, settings: Settings, augment: Augment) -> None:
        super().__init__()
        self.model, self.settings, self.augment = model, settings, augment
        self.history: list[dict[str, float]] = []
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.best_epoch, self.best_state = 0, copy.deepcopy(model.state_dict())
        self._sums: dict[str, torch.Tensor] = {}
        if settings.freeze:
            model.requires_grad_(False)
            model.heads[0].requires_grad_(True)

    def train(self, mode: bool = True) -> "_Learner":
        """A frozen body stays in eval mode, or its batch statistics would move."""
        super().train(mode)
        if mode and self.settings.freeze:
            self.model.eval()
            self.model.heads[0].train()
        return self

    def training_step(self, batch: Sequence[torch.Tensor], _: int) -> torch.Tensor:
        return self._step("train", self.model(self.augment(batch[0])), batch[1])

    def on_train_batch_end(self, *_: Any) -> None:
        share = max(1 - AVERAGE_DECAY, 9 / (10 + self.global_step))  # short of history at first
        for mean, now in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, share)
            else:
                mean.copy_(now)

    def validation_step(self, batch: Sequence[torch.Tensor], _: int) -> None:
        self._step("validation", self.average(batch[0]), batch[1])

    def _step(self, split: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        right = (logits.argmax(1) == labels).sum()
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
        best = self.history[self.best_epoch - 1]
        if not self.best_epoch or _merit(row) > _merit(best):
            self.best_epoch, self.best_state = len(self.history), copy.deepcopy(self.average.state_dict())

    def configure_optimizers(self) -> Any:
        learnt = [weight for weight in self.model.parameters() if weight.requires_grad]
        rate = self.settings.learning_rate
        optimizer = torch.optim.AdamW(learnt, lr=rate, weight_decay=self.settings.weight_decay, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _merit(row: dict[str, float]) -> tuple[float, float]:
    return row["validation_accuracy"], -row["validation_loss"]


class _Bar(lightning.Callback):
    """One bar: epoch, loss and validation accuracy."""

    def __init__(self) -> None:
        columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        self.progress = Progress(*columns)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.task = self.progress.add_task("epoch", total=trainer.max_epochs, text="")
        self.progress.start()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, _Learner)
        row = pl_module.history[-1]
        text = f"loss {row['train_loss']:.3f}  validation accuracy {row['validation_accuracy']:.3f}"
        self.progress.update(self.task, advance=1, text=text)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.progress.stop()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch with `count` threads; 0 leaves them. In a tiny network the threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(learner: _Learner, train_set: TensorDataset, validation_set: TensorDataset, settings: Settings) -> None:
    """Train, then put the best epoch's weights into the model, on the CPU and in eval mode."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its hints would tear the bar
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")  # the pictures are in memory already
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # lightning 2.6 under torch 2.14
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            devices=1,
            callbacks=[_Bar()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(learner, _batches(train_set, settings.batch_size, shuffle=True), _batches(validation_set, EVALUATION_BATCH))
    learner.model.load_state_dict(learner.best_state)
    learner.model.cpu().eval().requires_grad_(False)


def _batches(dataset: TensorDataset, size: int, shuffle: bool = False) -> DataLoader[Any]:
    """Whole batches by index. A rest is dropped in training: one lone picture has no batch statistics."""
    order = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
    return DataLoader(dataset, sampler=BatchSampler(order, size, drop_last=shuffle and len(dataset) > size), batch_size=None)


def _tensors(examples: Sequence[datasets.Example], config: ImageInput) -> TensorDataset:
    """All pictures as the graph takes them, uint8 [N, C, H, W], and their labels, int64 [N]."""
    channels = 1 if config.mode == "L" else 3
    needed = len(examples) * channels * config.height * config.width
    if needed > MAX_BYTES:
        raise CallError(f"{len(examples):,} pictures need {needed / 1e9:.0f} GB at this size; set a smaller image_size or take fewer")

    def one(example: datasets.Example) -> torch.Tensor:
        if isinstance(example.image, Path):
            return prepare(open_image(example.image.read_bytes(), config.mode), config)
        return prepare(Image.fromarray(example.image).convert(config.mode), config)

    images = torch.empty((len(examples), channels, config.height, config.width), dtype=torch.uint8)
    with ThreadPoolExecutor(2) as pool:  # Pillow decodes and resizes without holding the interpreter
        made: Iterator[torch.Tensor] = iter(pool.map(one, examples))
        from_files = any(isinstance(example.image, Path) for example in examples)
        for row, image in enumerate(track(made, "preparing pictures", total=len(examples), transient=True, disable=not from_files)):
            images[row] = image
    return TensorDataset(images, torch.tensor([example.label for example in examples]))


def _augmentation(settings: Settings, config: ImageInput) -> Augment:
    """uint8 [B, C, H, W] -> the same, varied picture by picture."""
    if settings.augmentation == "none":
        return lambda images: images
    if config.fit == "ink":
        return _vary_strokes
    one = v2.Compose(
        [
            v2.RandomResizedCrop((config.height, config.width), scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
            v2.RandomHorizontalFlip(0.5 if settings.mirror else 0.0),
            v2.ColorJitter(0.2, 0.2, 0.2) if config.mode == "RGB" else v2.ColorJitter(0.2, 0.2),
        ]
    )
    return lambda images: torch.stack([one(image) for image in images])


def _vary_strokes(images: torch.Tensor) -> torch.Tensor:
    """Other hands: turned, sheared, scaled and shifted, with thinner and thicker strokes, back on the raster of `bundle_ink`."""
    count, device = len(images), images.device

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.empty(count, device=device).uniform_(low, high)

    turn, shear, wide, high = draw(-0.22, 0.22), draw(-0.25, 0.25), draw(0.85, 1.35), draw(0.9, 1.15)
    matrix = torch.stack(
        [
            torch.stack([wide * turn.cos(), shear - high * turn.sin(), draw(-0.14, 0.14)], 1),
            torch.stack([wide * turn.sin(), high * turn.cos(), draw(-0.1, 0.1)], 1),
        ],
        1,
    )
    pixels = images.float()
    pixels = F.grid_sample(pixels, F.affine_grid(matrix, list(pixels.shape), align_corners=False), align_corners=False)
    change = draw(-1, 1).view(-1, 1, 1, 1)
    thinner, thicker = -F.max_pool2d(-pixels, 3, 1, 1), F.max_pool2d(pixels, 3, 1, 1)
    pixels = pixels + change.clamp(min=0) * (thicker - pixels) + change.clamp(max=0) * (pixels - thinner)
    cells = F.adaptive_avg_pool2d(pixels, CELLS)
    return F.interpolate(cells, images.shape[-2:], mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def _probabilities(model: torch.nn.Module, dataset: TensorDataset) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(images).softmax(1) for images, _ in _batches(dataset, EVALUATION_BATCH)])


def _measured(probabilities: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    classes = probabilities.shape[1]
    metrics = {
        "accuracy": measures.multiclass_accuracy(probabilities, labels, classes, average="micro"),
        "macro_f1": measures.multiclass_f1_score(probabilities, labels, classes, average="macro"),
    }
    if len(set(labels.tolist())) == classes:
        metrics["auroc"] = measures.multiclass_auroc(probabilities, labels, classes, average="macro")
    return {name: float(value) for name, value in metrics.items()}


def _samples(data: datasets.ImageData, probabilities: torch.Tensor, labels: torch.Tensor, most: int = 64) -> list[Sample]:
    """Pictures of the test split that are answered rightly, sure answers first, taken from each class in turn."""
    sure, answers = probabilities.max(1)
    order = sorted(range(len(labels)), key=lambda row: (bool(sure[row] < 0.9), row))
    right = [row for row in order if answers[row] == labels[row]]
    turns = sorted(right, key=lambda row: [r for r in right if labels[r] == labels[row]].index(row))
    samples: dict[str, Sample] = {}
    for row in turns[:most]:
        name = _sample_name(data, int(labels[row]), samples)
        body, content_type = data.test[row].encoded()
        samples[name] = Sample(name, body, content_type, {"class": data.classes[int(labels[row])]})
    return list(samples.values())


def _sample_name(data: datasets.ImageData, label: int, taken: dict[str, Sample]) -> str:
    """digit-7, digit-7-2 …; pizza-1, pizza-2 …"""
    slug = re.sub(r"[^a-z0-9]+", "-", data.classes[label].lower()).strip("-")[:50] or f"class-{label}"
    slug = f"digit-{slug}" if data.name == "digits" else slug
    number = 1
    while (name := slug if number == 1 and slug[-1].isdigit() else f"{slug}-{number}") in taken:
        number += 1
    return name
