"""How a classifier learns: the settings that its learner and its augmentation read, checked against each other."""

from typing import Literal

from pydantic import Field, model_validator

from marina.spec import Section
from training.self_supervision.contrastive import Pretraining


class Learning(Section):
    """Architecture, what of it learns, and by which schedule, loss and augmentation."""

    architecture: str = Field(default="small_cnn", description="small_cnn, or a classification model of torchvision by name")
    weights: str = Field(default="none", description="none, DEFAULT, IMAGENET1K_V1 …, or a file .pth or .safetensors")
    pretraining: Pretraining | None = Field(default=None, description="let the body learn without labels first; {} takes its defaults")
    freeze: bool = Field(default=False, description="the body keeps its weights and a new head learns from it; needs weights")
    unfrozen_stages: int = Field(default=0, ge=0, le=1000, description="with freeze: so many of the body's last stages learn too")
    unfreeze_every: int = Field(default=0, ge=0, le=1000, description="with freeze: every so many epochs one stage more learns; 0: none")
    views: int = Field(
        default=4, ge=1, le=256, description="with freeze alone: the picture and so many less one augmented ones, computed once and kept"
    )
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="a stage learns at this share of the rate of the one above it")

    epochs: int = Field(default=20, ge=1, le=1000, description="times that all training pictures are seen")
    patience: int = Field(default=0, ge=0, le=1000, description="stop after so many epochs without a better one; 0: never")
    batch_size: int = Field(default=64, ge=2, le=1024, description="pictures per step")
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="the highest of the schedule")
    schedule: Literal["one_cycle", "cosine", "step", "plateau", "constant"] = Field(
        default="one_cycle", description="step: a tenth after 60 % and again after 85 %; plateau: a third after 2 epochs without a gain"
    )
    warm_up: float = Field(default=0.2, ge=0, lt=1, description="share of one_cycle and cosine in which the rate rises")
    weight_decay: float = Field(default=1e-2, ge=0, le=1, description="AdamW's")
    average_decay: float = Field(default=0.98, ge=0, lt=1, description="per step, of the running mean of weights that is kept; 0: none")
    label_smoothing: float = Field(default=0.05, ge=0, lt=1, description="share of the target spread over all classes")
    balance: Literal["none", "weights", "sampling"] = Field(
        default="none", description="rare classes count more in the loss, or are drawn more often"
    )
    precision: Literal["auto", "float32", "bfloat16", "fastest"] = Field(
        default="auto", description="of the layers while training; auto: bfloat16 on a GPU that has it; fastest: what a trial says"
    )

    augmentation: Literal["none", "light", "randaugment", "trivialaugment"] = Field(
        default="light", description="light varies shape and light, or strokes under fit ink; the others add one or two random operations"
    )
    mirror: bool = Field(default=True, description="augmentation mirrors pictures; false where left and right differ, as in letters")
    average_mirrored: bool = Field(
        default=False, description="answer with the mean of the picture's and its mirror image's logits, for twice the time"
    )
    mix: Literal["none", "mixup", "cutmix", "either"] = Field(default="none", description="pictures of a batch blended or pasted")
    spectrum_noise: float = Field(
        default=0.0, ge=0, le=2, description="noise on the Fourier spectrum: up to this deviation of phases (rad) and of log amplitudes"
    )

    @property
    def head_alone(self) -> bool:
        """Whether nothing of the body ever learns, so that its features can be computed once."""
        return self.freeze and not self.unfrozen_stages and not self.unfreeze_every

    @model_validator(mode="after")
    def _agree(self) -> "Learning":
        said = self.model_fields_set
        if self.freeze and self.weights == "none" and self.pretraining is None:
            raise ValueError(
                "freeze trains the new head on what the body knows, so it needs 'weights': DEFAULT, or the path of a file, or 'pretraining'"
            )
        if not self.freeze and (self.unfrozen_stages or self.unfreeze_every):
            raise ValueError("unfrozen_stages and unfreeze_every open a frozen body step by step; say freeze: true, or leave them out")
        if "views" in said and not self.head_alone:
            raise ValueError("views are for a body that stays frozen (freeze: true alone); one that learns sees new ones in every epoch")
        if self.head_alone:
            if self.mix != "none" or self.layer_decay != 1 or self.precision in ("bfloat16", "fastest"):
                raise ValueError(
                    "a head alone learns from kept features: mix, layer_decay and precision have no meaning there; leave them out, "
                    "or say unfrozen_stages: 1"
                )
            if "views" in said and self.views > 1 and self.augmentation == "none" and not self.spectrum_noise:
                raise ValueError(f"without augmentation all {self.views} views are the same; say views: 1, or an augmentation")
        if self.average_mirrored and not self.mirror:
            raise ValueError(
                "average_mirrored takes a mirror image for the same thing, and mirror: false says that it is none; leave one out"
            )
        if "warm_up" in said and self.schedule not in ("one_cycle", "cosine"):
            raise ValueError(f"warm_up is part of the schedules one_cycle and cosine, not of {self.schedule}; leave it out")
        return self
