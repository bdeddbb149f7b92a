"""How long, how fast and in which steps a model learns: the settings that recipes share, and the schedules
of the learning rate.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from marina.core.spec import Section
from training.runs.optimizers import WITH_MOMENTUM, MuonAndAdamW, Name

Epochs = Annotated[int, Field(ge=1, le=10_000, description="times that all training examples are seen")]
BatchSize = Annotated[int, Field(ge=2, le=1024, description="examples per step, over all devices")]
# of data in memory, whose epochs are short
ShortEpochs = Annotated[int, Field(ge=1, le=100_000, description="times that all training examples are seen")]
LargeBatchSize = Annotated[int, Field(ge=2, le=65_536, description="examples per step")]
LearningRate = Annotated[float, Field(gt=0, le=1, description="peak of the schedule")]
MaxGradNorm = Annotated[
    float, Field(ge=0, le=1e6, description="longer gradients of a step are cut to this norm; 0: none")
]
EmaDecay = Annotated[
    float,
    Field(ge=0, lt=1, description="per step, of the moving average of the weights that is exported; 0: none"),
]


class FitSettings(Section):
    """What one fit needs: a recipe gives its own defaults."""

    epochs: Epochs = 30
    patience: int = Field(
        default=0, ge=0, le=1000, description="stop after so many epochs without a better one; 0: never"
    )
    batch_size: BatchSize = 16
    learning_rate: LearningRate = 2e-3
    find_learning_rate: bool = Field(
        default=False,
        description="take a tenth of the rate at which the loss is least in a test of 100 steps instead",
    )
    optimizer: Name = Field(
        default="adamw", description="muon: of the matrices of linear layers, adamw of everything else"
    )
    momentum: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="of sgd (Nesterov's; default 0.9), muon (default 0.95) and rmsprop (default 0)",
    )
    schedule: Literal["one_cycle", "cosine", "step", "plateau", "constant"] = Field(
        default="one_cycle",
        description=(
            "step: a tenth after 60 % and again after 85 %; plateau: a third after 2 epochs without a gain"
        ),
    )
    warmup: float = Field(
        default=0.2, ge=0, lt=1, description="share of one_cycle and cosine in which the rate rises"
    )
    weight_decay: float = Field(default=1e-2, ge=0, le=1, description="the optimizer's")
    max_grad_norm: MaxGradNorm = 0.0
    accumulated_batches: int = Field(
        default=1, ge=1, le=1024, description="batches whose gradients make one step; for larger steps"
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="compute activations again instead of keeping them: less memory, a third more time",
    )
    ema_decay: EmaDecay = 0.0
    save_top_k: int = Field(
        default=1,
        ge=1,
        le=100,
        description="from 2 on, the weights of so many best epochs are kept in report/checkpoints/",
    )
    renamed: ClassVar[dict[str, str]] = {
        "warm_up": "warmup",
        "average_decay": "ema_decay",
        "averaging": "ema_decay",
        "gradient_clip_val": "max_grad_norm",
        "accumulate_grad_batches": "accumulated_batches",
    }

    @model_validator(mode="after")
    def _momentum_counts(self) -> "FitSettings":
        if self.momentum is not None and self.optimizer not in WITH_MOMENTUM:
            raise ValueError(
                f"momentum is of {', '.join(WITH_MOMENTUM)}, and not of {self.optimizer}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _warmup_counts(self) -> "FitSettings":
        if "warmup" in self.model_fields_set and self.schedule not in ("one_cycle", "cosine"):
            raise ValueError(
                f"warmup is part of the schedules one_cycle and cosine, not of {self.schedule}; leave it out"
            )
        return self


def step_schedule(
    settings: FitSettings, optimizer: torch.optim.Optimizer, rates: list[float], steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule that takes one step per batch: all but plateau. `rates` are the peaks of the optimizer's
    groups.
    """
    if settings.schedule == "one_cycle":
        return one_cycle(optimizer, rates, steps, settings.warmup)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(settings, step / steps))


def one_cycle(
    optimizer: torch.optim.Optimizer, rates: list[float], steps: int, rise: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    """One cycle (Smith and Topin 2019) of `steps` up to `rates`, one for each group of the optimizer; they
    rise for the share `rise` of it.
    """
    steps = max(2, steps)
    if rise * steps == 1:  # torch divides by the length of the rise less one
        steps += 1
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        rates if len(rates) > 1 else rates[0],
        total_steps=steps,
        pct_start=rise,
        cycle_momentum=not isinstance(optimizer, MuonAndAdamW),
    )


def rate_share(settings: FitSettings, done: float) -> float:
    """Share of the highest rate when `done` of all steps are taken (0..1): cosine, step and constant."""
    if settings.schedule == "step":
        return 1.0 if done < 0.6 else 0.1 if done < 0.85 else 0.01
    if settings.schedule == "constant":
        return 1.0
    if done < settings.warmup:
        return max(done / settings.warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - settings.warmup) / (1 - settings.warmup))))


def plateau(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Any:
    """A third of the rate after two epochs without a gain; `state` is an interrupted run's, or empty."""
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=1 / 3, patience=2)
    schedule.load_state_dict(state)
    return schedule


def uses_bfloat16(precision: str) -> bool:
    """Whether convolutions are computed in bfloat16: if asked for, or if "auto" finds hardware that is
    fast at it.
    """
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    return precision == "bfloat16" or (precision == "auto" and fast)
