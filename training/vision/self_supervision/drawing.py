"""A picture of a pretraining: its loss, and pictures with the views that were learnt from."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

matplotlib.use("Agg")


def draw(history: Sequence[float], views: torch.Tensor, images: torch.Tensor, path: Path) -> None:
    """Loss by epoch; below it `images` (uint8 [N, C, H, W]) and a view of each (0..255, the same shape)."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    grid = figure.add_gridspec(3, len(images), height_ratios=(2.4, 1, 1))
    axes = figure.add_subplot(grid[0, :])
    axes.plot(range(1, len(history) + 1), history, color="#1f5fa8", marker="." if len(history) < 3 else None)
    axes.set(xlabel="epoch", ylabel="contrastive loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for row, (name, shown) in enumerate((("picture", images), ("a view", views)), start=1):
        for column, pixels in enumerate(shown):
            place = figure.add_subplot(grid[row, column])
            place.set(xticks=[], yticks=[], ylabel="" if column else name)
            place.imshow(
                pixels.permute(1, 2, 0).squeeze(-1).clamp(0, 255).byte().numpy(),
                cmap="gray",
                vmin=0,
                vmax=255,
            )
    figure.savefig(path, dpi=110)
