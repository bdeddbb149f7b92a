"""The settings of a classifier's training that its learner and its augmentation read, and how they go
together.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from training.runs.schedules import BatchSize, EmaDecay, Epochs, FitSettings
from training.vision.records import StorageSettings
from training.vision.self_supervision.contrastive import Pretraining
from training.vision.transforms import Transforms


class ClassifierSettings(FitSettings, StorageSettings):
    """Architecture, what of it learns, and by which schedule, loss and augmentation."""

    architecture: str = Field(
        default="small_cnn",
        description=(
            "small_cnn, a classification model of torchvision, or file.py:function(classes, channels)"
        ),
    )
    weights: str = Field(
        default="none", description="none, DEFAULT, IMAGENET1K_V1 …, or a file .pth or .safetensors"
    )
    pretraining: Pretraining | None = Field(
        default=None, description="pretrain the body without labels first; {} for its defaults"
    )
    freeze: bool = Field(default=False, description="freeze the body and train a new head; needs weights")
    unfrozen_stages: int = Field(
        default=0, ge=0, le=1000, description="with freeze: the body's last stages that are trained too"
    )
    unfreeze_every: int = Field(
        default=0, ge=0, le=1000, description="with freeze: one more stage every so many epochs; 0: never"
    )
    cached_views: int = Field(
        default=4,
        ge=1,
        le=256,
        description=(
            "with freeze alone: views per picture whose features are cached: itself and augmented ones"
        ),
    )
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="learning rate of a stage, as a share of that of the stage above"
    )

    epochs: Epochs = 20
    batch_size: BatchSize = 64
    ema_decay: EmaDecay = 0.98
    label_smoothing: float = Field(
        default=0.05, ge=0, lt=1, description="share of the target spread over all classes"
    )
    class_balance: Literal["none", "weights", "sampling"] = Field(
        default="none",
        description="weights: rare classes count more in the loss; sampling: they are drawn more often",
    )
    precision: Literal["auto", "float32", "bfloat16", "fastest"] = Field(
        default="auto",
        description=(
            "of the layers while training; auto: bfloat16 on a GPU that has it; fastest: as a trial shows"
        ),
    )

    augmentation: Literal["none", "light", "randaugment", "trivialaugment"] | Transforms = Field(
        default="light",
        description=(
            "light varies geometry and color, or strokes if resize is ink; the others add one or two random "
            "operations; or a list of torchvision's transforms, which alone are applied"
        ),
    )
    horizontal_flip: bool = Field(
        default=True,
        description="mirror pictures at random; false where left and right differ, as in letters",
    )
    flip_tta: bool = Field(
        default=False,
        description="average the logits of the picture and its mirror image; takes twice the time",
    )
    mixup: bool = Field(default=False, description="blend the pictures of a batch")
    cutmix: bool = Field(
        default=False, description="paste parts of pictures into others; with mixup, one of both per step"
    )
    fourier_noise: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description=(
            "noise on the Fourier spectrum: up to this deviation of phases (rad) and of log amplitudes"
        ),
    )

    renamed: ClassVar[dict[str, str]] = {
        "mirror": "horizontal_flip",
        "average_mirrored": "flip_tta",
        "spectrum_noise": "fourier_noise",
        "balance": "class_balance",
        "views": "cached_views",
        "mix": "mixup, cutmix",
        "fit": "resize",
    }

    @property
    def head_alone(self) -> bool:
        """Whether nothing of the body ever learns, so that its features can be computed once."""
        return self.freeze and not self.unfrozen_stages and not self.unfreeze_every

    @model_validator(mode="after")
    def _agree(self) -> "ClassifierSettings":
        given = self.model_fields_set
        if self.freeze and self.weights == "none" and self.pretraining is None:
            raise ValueError(
                "freeze trains the new head on what the body knows, so it needs 'weights': DEFAULT, or the "
                "path of a file, or 'pretraining'"
            )
        if not self.freeze and (self.unfrozen_stages or self.unfreeze_every):
            raise ValueError(
                "unfrozen_stages and unfreeze_every open a frozen body step by step; say freeze: true, or "
                "leave them out"
            )
        if "cached_views" in given and not self.head_alone:
            raise ValueError(
                "cached_views are for a body that stays frozen (freeze: true alone); one that learns sees "
                "new ones in every epoch"
            )
        if self.head_alone:
            if (
                self.mixup
                or self.cutmix
                or self.layer_decay != 1
                or self.precision in ("bfloat16", "fastest")
            ):
                raise ValueError(
                    "a head alone learns from kept features: mixup, cutmix, layer_decay and precision "
                    "have no meaning there; leave them out, "
                    "or say unfrozen_stages: 1"
                )
            if (
                "cached_views" in given
                and self.cached_views > 1
                and self.augmentation == "none"
                and not self.fourier_noise
            ):
                raise ValueError(
                    f"without augmentation all {self.cached_views} views are the same; say cached_views: "
                    "1, or an augmentation"
                )
        if self.flip_tta and not self.horizontal_flip:
            raise ValueError(
                "flip_tta takes a mirror image for the same thing, and horizontal_flip: false says that it "
                "is none; leave one out"
            )
        return self
