"""Contrastive learning without labels: two views of a picture should look alike to the network, those of
other pictures not.

    simclr   SimCLR (Chen, Kornblith, Norouzi and Hinton 2020): all other views of the batch are the negatives
    moco     MoCo v3 (Chen, Xie and He 2021): the other view is seen by a slow average of the network

Not covered: batches over several devices.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import lightning
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from marina.core.spec import Section

HIDDEN = 512  # units of the projection's and prediction's hidden layers
Method = Literal["simclr", "moco"]


class Pretraining(Section):
    """How the body learns without labels."""

    method: Method = Field(
        default="simclr", description="simclr, or moco (v3, with a slow network): better for small batches"
    )
    unlabelled: str | None = Field(
        default=None, description="a folder of more pictures; those of the training split are always taken"
    )
    epochs: int = Field(
        default=100, ge=1, le=10_000, description="times that all pictures are seen, in two views each"
    )
    batch_size: int = Field(
        default=256, ge=8, le=8192, description="pictures per step; simclr compares each with the others"
    )
    learning_rate: float = Field(
        default=2e-3, gt=0, le=1, description="highest of a cosine with warm-up, AdamW's"
    )
    weight_decay: float = Field(default=1e-4, ge=0, le=1, description="AdamW's")
    temperature: float = Field(
        default=0.2, gt=0, le=2, description="lower: harder on pictures that look alike"
    )
    projection: int = Field(default=128, ge=8, le=4096, description="width of what is compared")
    momentum: float = Field(
        default=0.99, ge=0, lt=1, description="moco: of the slow network at first; it rises to 1"
    )
    least_part: float = Field(default=0.2, gt=0, le=1, description="least area of the picture in a view")
    colour: float = Field(default=0.5, ge=0, le=1, description="strength of the changes of light and colour")


def nt_xent(one: torch.Tensor, two: torch.Tensor, temperature: float) -> torch.Tensor:
    """The normalised, temperature-scaled cross entropy of SimCLR (section 2.1, equation 1), averaged over all
    2 N views.

    `one` and `two` are float32 [N, D], row i of both a view of picture i; N is at least 2.
    """
    views = F.normalize(torch.cat([one, two]), dim=1)
    alike = (views @ views.T / temperature).fill_diagonal_(-torch.inf)  # nothing is compared with itself
    partner = torch.arange(len(views), device=views.device).roll(len(one))
    return F.cross_entropy(alike, partner)


def info_nce(queries: torch.Tensor, keys: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE as MoCo v3 has it (algorithm 1): each query [N, D] should be like the key [N, D] of its row
    and like no other.
    """
    alike = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    return 2 * temperature * F.cross_entropy(alike, torch.arange(len(queries), device=queries.device))


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Two layers with batch normalisation, the last without (SimCLR, section 4.2; MoCo v3, section 4)."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN, bias=False),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(inplace=True),
        nn.Linear(HIDDEN, outputs, bias=False),
    )


class Contrastive(lightning.LightningModule):
    """`encoder` maps pictures [B, C, H, W] to features [B, width]; it is what is wanted in the end, the rest
    serves its learning.

    `views` makes a random view of a batch. AdamW under a cosine with warm-up. `history` has the loss of every
    epoch.
    """

    def __init__(
        self,
        encoder: nn.Module,
        width: int,
        views: Callable[[torch.Tensor], torch.Tensor],
        settings: Pretraining,
    ) -> None:
        super().__init__()
        self.network = nn.Sequential(encoder, perceptron(width, settings.projection))
        self.views, self.settings = views, settings
        self.history: list[float] = []
        self._losses: list[torch.Tensor] = []
        if settings.method == "moco":
            self.prediction = perceptron(settings.projection, settings.projection)
            self.slow = copy.deepcopy(self.network).requires_grad_(False)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """The loss of a batch of pictures, uint8 [B, C, H, W]."""
        one, two = self.views(batch[0]), self.views(batch[0])
        temperature = self.settings.temperature
        if self.settings.method == "simclr":
            projected = self.network(torch.cat([one, two]))
            loss = nt_xent(projected[: len(one)], projected[len(one) :], temperature)
        else:
            with torch.no_grad():
                keys = [self.slow(view) for view in (one, two)]
            queries = [self.prediction(self.network(view)) for view in (one, two)]
            loss = info_nce(queries[0], keys[1], temperature) + info_nce(queries[1], keys[0], temperature)
        self._losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """The slow network follows; its momentum rises to 1 over the training, along half a cosine (MoCo
        v3, section 4).
        """
        if self.settings.method == "moco":
            done = self.global_step / max(1, int(self.trainer.estimated_stepping_batches))
            momentum = (
                1 - (1 - self.settings.momentum) * (1 + torch.cos(torch.tensor(torch.pi * done)).item()) / 2
            )
            for slow, now in zip(self.slow.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(now.detach(), 1 - momentum)

    def on_train_epoch_end(self) -> None:
        """Note the epoch's loss."""
        self.history.append(float(torch.stack(self._losses).mean()))
        self._losses.clear()

    def configure_optimizers(self) -> Any:
        """AdamW; a tenth of the steps warm up."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            weights, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=True
        )
        steps = int(self.trainer.estimated_stepping_batches)
        warm = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warm),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warm)),
            ],
            [warm],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
